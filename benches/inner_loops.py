#!/usr/bin/env python3
"""The inner loops of the integer kernels in a built binary: instructions and cycles for each multiply-accumulate.

    benches/inner_loops.py target/aarch64-unknown-linux-gnu/release/mien [cortex-a53 cortex-a72 cortex-a76]

An inner loop is one without another jump in it. Instructions are counted in the disassembly; cycles are llvm-mca's for
100 rounds, on the assumption that every load hits the first-level cache. LLVM 14 models the Cortex-A72 and the
Cortex-A76 as a Cortex-A57, an out-of-order core with two NEON pipes as well.
"""

import re
import shutil
import subprocess
import sys

# Products by mnemonic and first operand; `smlal2` and `smull2` are spelled so by objdump.
PRODUCTS = [
    (r"usmmla v", 32),
    (r"(sdot|usdot|sudot) v", 16),
    (r"s(mull|mlal)2?\s+v\d+\.8h", 8),
    (r"vpdpbusd .*zmm", 64),
    (r"(\{vex\} )?vpdpbusd .*ymm", 32),
    (r"vpdpbusd .*xmm", 16),
    (r"vpmaddwd .*ymm", 16),
]
ROUNDS = 100


def functions(binary):
    """Name and instructions (address, text) of each kernel."""
    objdump = next(tool for tool in ("llvm-objdump", "llvm-objdump-14", "objdump") if shutil.which(tool))
    command = [objdump, "-d", "--no-show-raw-insn", "--demangle", "--mattr=+dotprod,+i8mm", binary]
    name, lines = None, []
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if label := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            if name:
                yield name, lines
            kernel = re.search(r"kernels::((?:pointwise|depthwise)::\w+::.*)", label[1])
            name, lines = kernel and re.sub(r"::h[0-9a-f]{16}$", "", kernel[1]), []
        elif name and (instruction := re.match(r"\s*([0-9a-f]+):\s+(.*?)\s*$", line)):
            lines.append((int(instruction[1], 16), re.sub(r"\s+", " ", instruction[2])))
    if name:
        yield name, lines


def target(instruction):
    """Where a jump goes, None for anything else."""
    jump = re.match(r"(?:b(?:\.\w+)?|cbn?z|tbn?z|j\w+) .*?(?:0x)?([0-9a-f]+) <", instruction)
    return jump and int(jump[1], 16)


def inner_loops(lines):
    first_at = {address: n for n, (address, _) in enumerate(lines)}
    for end, (address, text) in enumerate(lines):
        to = target(text)
        if to is None or to > address or to not in first_at:
            continue
        body = [text for _, text in lines[first_at[to] : end + 1]]
        if not any(target(text) for text in body[:-1]) and not any(re.match(r"bl|call|ret", text) for text in body):
            yield to, body


def products(text):
    return next((count for pattern, count in PRODUCTS if re.match(pattern, text)), 0)


def cycles(body, triple, cpu):
    """Cycles of a round, None where llvm-mca does not know an instruction."""
    source = "".join(f"{re.sub(r' <.*', '', text)}\n" for text in body[:-1])
    mca = next(tool for tool in ("llvm-mca", "llvm-mca-14") if shutil.which(tool))
    command = [mca, f"-mtriple={triple}", f"-mcpu={cpu}", f"-iterations={ROUNDS}"]
    if triple.startswith("aarch64"):
        command.append("-mattr=+dotprod,+i8mm")
    run = subprocess.run(command, input=source, capture_output=True, text=True)
    total = re.search(r"Total Cycles:\s+(\d+)", run.stdout)
    return int(total[1]) / ROUNDS if run.returncode == 0 and total else None


def machine(binary):
    """Its target triple, and the cores to ask about."""
    header = subprocess.run(["file", "-L", binary], capture_output=True, text=True).stdout
    if "aarch64" in header:
        return "aarch64-linux-gnu", ["cortex-a53", "cortex-a72", "cortex-a76"]
    return "x86_64-linux-gnu", ["icelake-server"]


def loops(binary, cpus):
    """Of each inner loop: its function, instructions, products, and products a cycle of each core, None where unknown."""
    triple, _ = machine(binary)
    rows = set()
    for name, lines in functions(binary):
        for _, body in inner_loops(lines):
            if count := sum(map(products, body)):
                each = (cycles(body, triple, cpu) for cpu in cpus)
                rows.add((name, len(body), count, *(count / c if c else None for c in each)))
    return sorted(rows, key=lambda row: (row[0], -row[2], row[1]))


def main():
    binary, *cpus = sys.argv[1:] or sys.exit(__doc__)
    cpus = cpus or machine(binary)[1]
    print(f"{'kernel':60} {'instr.':>6} {'products':>8} {'instr./product':>14}", *(f"{cpu:>12}" for cpu in cpus))
    for name, length, count, *each in loops(binary, cpus):
        rates = (f"{f'{rate:.1f}/cycle' if rate else '?':>12}" for rate in each)
        print(f"{name:60} {length:6} {count:8} {length / count:14.4f}", *rates)


if __name__ == "__main__":
    main()
