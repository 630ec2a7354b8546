"""Training steps of mien-train beside PyTorch + timm's: the same networks, sizes, batch and precision, on one device.

    pip install torch==2.11.0 timm
    python throughput.py --device cuda:0 [--mien-train target/release/mien-train]

A step is the network forth and back under cross-entropy of 18 classes, gradients scaled (in half precision) and clipped,
and AdamW; pictures are random and on the device, channels last in memory. Both let cuDNN try its ways to convolve first and
keep the fastest, unless --no-autotune is given. The two take turns; a figure is the fastest of three rounds, as images per
second. Prints a table for docs/training.md.
"""

import argparse
import json
import subprocess
import time

import timm
import torch

SETTINGS = [("tf_efficientnet_lite0", 112, 512), ("efficientnet_b0", 224, 256), ("efficientnet_b3", 300, 128)]
ROUNDS, WARM_UP = 3, 5


def peer(network: str, size: int, batch: int, steps: int, device: torch.device, autotune: bool) -> float:
    half = device.type == "cuda"
    torch.backends.cudnn.benchmark = autotune
    model = timm.create_model(network, num_classes=18).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.02, fused=half)
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    classes = torch.randint(18, (batch,), device=device)
    wait = torch.cuda.synchronize if half else lambda: None

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.float16, enabled=half):
            loss = torch.nn.functional.cross_entropy(model(images).float(), classes)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        scaler.step(optimizer)
        scaler.update()

    for _ in range(WARM_UP):
        step()
    fastest = float("inf")
    for _ in range(ROUNDS):
        wait()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        fastest = min(fastest, time.perf_counter() - start)
    return batch * steps / fastest


def mien(
    program: str, network: str, size: int, batch: int, steps: int, device: torch.device, autotune: bool
) -> float:
    command = [
        program, "throughput", "--network", network, "--size", str(size), "--batch", str(batch), "--steps", str(steps),
        "--device", str(device), "--mixed-precision", "--threads", str(torch.get_num_threads()),
    ]  # fmt: skip
    command += ["--autotune"] if autotune else []
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["images_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda:0"))
    parser.add_argument("--mien-train", default="target/release/mien-train")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, help="for all networks")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--no-autotune", dest="autotune", action="store_false", help="saves a minute for each network")
    options = parser.parse_args()
    device = options.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, timm {timm.__version__}\n")
    print("| network | side | batch | mien-train, images/s | PyTorch + timm | ratio |\n|---|---|---|---|---|---|")
    for network, size, batch in SETTINGS:
        batch = options.batch or batch
        ours = theirs = 0.0
        for _ in range(options.turns):
            ours = max(ours, mien(options.mien_train, network, size, batch, options.steps, device, options.autotune))
            theirs = max(theirs, peer(network, size, batch, options.steps, device, options.autotune))
            if device.type == "cuda":
                torch.cuda.empty_cache()
        print(f"| {network} | {size} | {batch} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
