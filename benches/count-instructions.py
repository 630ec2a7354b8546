#!/usr/bin/env python3
"""Counts the instructions that one run of the classifier takes on aarch64, under qemu-user.

usage: count-instructions.py --mien AARCH64_BINARY

For each kind of kernel, and for plain tract on the same network in f32. Needs Debian's packages qemu-user (not
qemu-user-static, which takes no plugins) and gcc, and Python with onnx, onnxruntime and numpy. No hardware of that kind
is at hand: instructions are not time, but they are exact and anybody can count them again.
"""

import argparse, hashlib, json, pathlib, subprocess, sys, tempfile

import onnx

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from compare import REPOSITORY, as_float


def instructions(folder, binary, cpu, kernels, engine, models, runs):
    command = ["qemu-aarch64", "-cpu", cpu, "-plugin", str(folder / "count.so")]
    command += ["-E", f"MIEN_KERNELS={kernels}", binary, "bench", "--json", "--engine", engine]
    command += ["--work", "classifier, one", "--runs", str(runs), "--models", str(models)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stderr.strip().splitlines()[-1].removeprefix("instructions "))


def per_run(*arguments):
    """From the difference of two counts, so that loading the network does not count."""
    return (instructions(*arguments, 3) - instructions(*arguments, 1)) // 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mien", required=True)
    binary = parser.parse_args().mien
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = REPOSITORY / "benches/count-instructions.c"
        compile_plugin = ["gcc", "-shared", "-fPIC", "-O2", "-o", str(folder / "count.so"), str(source)]
        subprocess.run(compile_plugin, check=True)
        shipped, floats = REPOSITORY / "models", folder / "floats"
        floats.mkdir()
        for file in ("face.json", "face.onnx"):
            (floats / file).write_bytes((shipped / file).read_bytes())
        bytes_ = as_float(onnx.load(shipped / "attributes.onnx")).SerializeToString()
        (floats / "attributes.onnx").write_bytes(bytes_)
        card = json.loads((shipped / "attributes.json").read_text())
        card["sha256"] = hashlib.sha256(bytes_).hexdigest()
        (floats / "attributes.json").write_text(json.dumps(card))

        reference = per_run(folder, binary, "cortex-a53", "portable", "tract", floats)
        print("| kernels | `-cpu` of qemu | instructions for one face, millions | of plain tract's in f32 |\n|---|---|---|---|")
        print(f"| plain tract, f32 | cortex-a53 | {reference / 1e6:.0f} | 1 |")
        for cpu, kernels in (("cortex-a53", "neon"), ("max", "neon_dot"), ("max", "neon_i8mm")):
            count = per_run(folder, binary, cpu, kernels, "int8", shipped)
            print(f"| {kernels} | {cpu} | {count / 1e6:.0f} | 1/{reference / count:.1f} |", flush=True)


if __name__ == "__main__":
    main()
