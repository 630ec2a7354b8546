#!/usr/bin/env python3
"""What the integer kernels cost on aarch64, without such hardware: instructions, and llvm-mca's cycles.

usage: aarch64.py --mien AARCH64_BINARY

Counts the instructions that one face takes in the classifier under qemu-user, for each kind of kernel and for plain
tract on the same network in f32, and analyses the kernels' inner loops. Instructions are not time, but they are exact
and anybody can count them again. Needs Debian's packages qemu-user (not qemu-user-static, which takes no plugins), gcc,
llvm and file, and Python with onnx, onnxruntime and numpy.
"""

import argparse, hashlib, json, pathlib, subprocess, tempfile

import onnx

import inner_loops
from forms import as_float

BENCHES = pathlib.Path(__file__).resolve().parent
MODELS = BENCHES.parent / "models"
# Kinds of kernels, and qemu's core for each.
KINDS = [("neon", "cortex-a53"), ("neon_dot", "max"), ("neon_i8mm", "max")]
# The least instructions that multiply and add 32 pairs of bytes: without dot products smull, smlal2 and sadalp, twice.
# Products of matrices have no use in a depthwise layer.
LEAST = {
    "pointwise": {"neon": 6, "neon_dot": 2, "neon_i8mm": 1},
    "depthwise": {"neon": 6, "neon_dot": 2, "neon_i8mm": 2},
}
CORES = ["cortex-a53", "cortex-a72", "cortex-a76"]


def instructions(plugin, binary, cpu, kernels, engine, models, runs):
    command = ["qemu-aarch64", "-cpu", cpu, "-plugin", str(plugin), "-E", f"MIEN_KERNELS={kernels}"]
    command += [binary, "bench", "--json", "--engine", engine, "--work", "classifier, one"]
    command += ["--runs", str(runs), "--models", str(models)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stderr.strip().splitlines()[-1].removeprefix("instructions "))


def per_face(*arguments):
    """From the difference of two counts, so that loading the network does not count."""
    return (instructions(*arguments, 3) - instructions(*arguments, 1)) // 2


def models_in_f32(folder):
    """The shipped models, the classifier in f32."""
    folder.mkdir()
    for file in ("face.json", "face.onnx"):
        (folder / file).write_bytes((MODELS / file).read_bytes())
    network = as_float(onnx.load(MODELS / "attributes.onnx")).SerializeToString()
    (folder / "attributes.onnx").write_bytes(network)
    card = json.loads((MODELS / "attributes.json").read_text())
    card["sha256"] = hashlib.sha256(network).hexdigest()
    (folder / "attributes.json").write_text(json.dumps(card))
    return folder


def count(binary):
    """Instructions for one face: of plain tract in f32, and of each kind of kernel."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        plugin = folder / "count.so"
        source = BENCHES / "count_instructions.c"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", str(plugin), str(source)], check=True)
        floats = models_in_f32(folder / "floats")
        reference = per_face(plugin, binary, "cortex-a53", "portable", "tract", floats)
        return reference, [per_face(plugin, binary, cpu, kind, "int8", MODELS) for kind, cpu in KINDS]


def tabulate_counts(reference, counts):
    lines = [
        "| kernels | `-cpu` of qemu | instructions for one face, millions | of plain tract's in f32 | wanted |",
        "|---|---|---|---|---|",
        f"| plain tract, f32 | cortex-a53 | {reference / 1e6:.1f} | 1 | |",
    ]
    for (kind, cpu), number in zip(KINDS, counts):
        lines.append(f"| {kind} | {cpu} | {number / 1e6:.1f} | 1/{reference / number:.2f} | ≤ 1/3 |")
    return "\n".join(lines)


def tabulate_loops(binary):
    """The loop with the largest tile of each kernel."""
    rows = inner_loops.loops(binary, CORES)
    lines = [
        "| inner loop of the largest tile | instructions a product | of the least that multiply and add | wanted | "
        + " | ".join(f"{core}, products a cycle" for core in CORES)
        + " |",
        "|---|---|---|---|" + "---|" * len(CORES),
    ]
    for layer, kinds in LEAST.items():
        for kind, least in kinds.items():
            loops = [row for row in rows if row[0].startswith(f"{layer}::{kind}::")]
            _, length, products, *rates = max(loops, key=lambda row: (row[2], -row[1]))
            share = length / products
            each = " | ".join(f"{rate:.1f}" if rate else "?" for rate in rates)
            lines.append(f"| {layer}, {kind} | {share:.3f} | {share * 32 / least:.2f} × | ≤ 1.3 × | {each} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mien", required=True)
    binary = parser.parse_args().mien
    print(tabulate_counts(*count(binary)), tabulate_loops(binary), sep="\n\n")


if __name__ == "__main__":
    main()
