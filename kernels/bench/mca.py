#!/usr/bin/env python3
"""Static cost of the Arm kernels: products (multiply-accumulates) per cycle as llvm-mca models the core.

Two figures for each kernel:
  loop   the innermost loop alone, repeated: what the multiplier allows with unpacking and broadcasts beside it;
  whole  every instruction that the kernel executes for a matrix product (scales, widening, stores included), in the
         order an emulator ran them, modelled as one straight run. Data in L1, branches predicted, loads never wait for
         stores.
Needs a cross compiler (aarch64-linux-gnu-gcc, or clang --cc "clang --target=aarch64-linux-gnu ..."), llvm-mca,
qemu-aarch64 (for `whole`) and objdump for aarch64. cortex-a72 stands for itself; neoverse-n1 for the Cortex-A76, whose
own model in LLVM is another core's.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

KERNELS = Path(__file__).resolve().parent.parent
INTEGER_KERNELS = ["neon", "dotprod", "dotprod_wide", "i8mm"]  # kernels/src/gemm/arm
BINUTILS = "aarch64-linux-gnu-"
CORES = {"neon": ["cortex-a72", "neoverse-n1"], "dotprod": ["neoverse-n1"], "i8mm": ["neoverse-v1"]}
EMULATED = {"neon": "cortex-a72", "dotprod": "cortex-a76", "i8mm": "max"}
WIDTH = {"neon": 16, "dotprod": 64, "i8mm": 16}
# Products of one instruction.
MACS = {"smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8, "umlal": 8, "umlal2": 8, "sdot": 16, "smmla": 32}
# Products per cycle to reach, in tiles and with one token: (level, core) -> (tile, one).
TARGETS = {("neon", "cortex-a72"): (7.5, 7.0), ("dotprod", "neoverse-n1"): (28.0, 15.0)}
# name -> (weights, bits of activations, weight group, activation group)
SCHEMES = {
    "W4A8 g128": ("u4", 8, 128, 0),
    "W4A4 g128": ("u4", 4, 128, 128),
    "W4A8 channel": ("u4", 8, 0, 0),
    "W4A4 channel": ("u4", 4, 0, 128),
    "W4A8 g32": ("u4", 8, 32, 0),
    "W4A4 g32": ("u4", 4, 32, 128),
    "W8A8 channel": ("i8", 8, 0, 0),
    "W4A4 packed": ("u4", 4, 128, 128),
}
PACKED = "W4A4 packed"  # the packed 4-bit multiplier: a MUL of 16-bit lanes makes two products in each


@dataclass
class Row:
    level: str
    core: str
    scheme: str
    tokens: int
    kernel: str
    loop_instructions: int
    loop_spills: int  # loads and stores on the stack inside the loop
    loop_macs_per_cycle: float
    macs_per_instruction: float
    macs_per_cycle: float  # whole
    target: float | None


def fail(message: str, hint: str) -> None:
    print(f"error: {message}\nhint: {hint}", file=sys.stderr)
    raise SystemExit(1)


def find(names: list[str], package: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    fail(f"none of {', '.join(names)} found", f"apt-get install {package}")
    return ""


def find_mca() -> str:
    """llvm-mca 16 or later: older ones model neoverse-n1 as a Cortex-A57."""
    for name in [*[f"llvm-mca-{v}" for v in range(25, 15, -1)], "llvm-mca"]:
        if path := shutil.which(name):
            version = re.search(r"version (\d+)", run([path, "--version"]))
            if version and int(version.group(1)) >= 16:
                return path
    fail("no llvm-mca of version 16 or later found", "apt-get install llvm-19, or any later llvm")
    return ""


def run(command: list[str], **more) -> str:
    result = subprocess.run(command, capture_output=True, text=True, **more)
    if result.returncode:
        fail(
            f"{' '.join(command[:3])} ... failed ({result.returncode}): {result.stderr.strip()[-800:]}",
            "run it by hand to see more",
        )
    return result.stdout


def build(cc: list[str], level: str, folder: Path) -> tuple[Path, set[str]]:
    """The program, and the names of the functions that the integer kernels' files define."""
    program = folder / f"arm_trace_{level}"
    run(["make", "-C", str(KERNELS), "objects", f"LEVELS={level}", f"BUILD={folder}", f"CC={shlex.join(cc)}"])
    compiled = folder / "aarch64" / level
    main = folder / f"arm_trace_{level}.o"
    run([*cc, "-O3", "-std=c11", f"-I{KERNELS}/include", "-c", str(KERNELS / "bench" / "arm_trace.c"), "-o", str(main)])
    kernels = set()
    for target in [
        *(compiled / "gemm" / "arm" / f"{name}.o" for name in INTEGER_KERNELS),
        *(compiled / "experiments" / "packed4").glob("*.o"),
    ]:
        kernels |= {
            line.split()[-1] for line in run([f"{BINUTILS}nm", str(target)]).splitlines() if line.split()[-2] in "tT"
        }
    linker = shutil.which("aarch64-linux-gnu-gcc")
    objects = sorted(map(str, compiled.rglob("*.o")))
    run([linker or cc[0], "-static", "-o", str(program), str(main), *objects, "-pthread", "-lm"])
    return program, kernels


def disassemble(objdump: str, program: Path) -> dict[str, list[tuple[int, str]]]:
    """Functions of the program: name -> [(address, instruction)]."""
    functions: dict[str, list[tuple[int, str]]] = {}
    current: list[tuple[int, str]] = []
    for line in run([objdump, "-d", "--no-show-raw-insn", str(program)]).splitlines():
        if head := re.match(r"^[0-9a-f]+ <(.+)>:$", line):
            current = functions.setdefault(head.group(1), [])
        elif item := re.match(r"^\s*([0-9a-f]+):\s+(\S.*)$", line):
            current.append((int(item.group(1), 16), item.group(2).split("//")[0].strip()))
    return functions


def macs(body: list[str]) -> int:
    small = sum(MACS.get(i.split()[0], 0) for i in body if re.search(r"\.(8h|4s)\b", i))
    return small + sum(16 for i in body if re.match(r"mul\s+v\d+\.8h", i))


def branch_target(instruction: str) -> int | None:
    found = re.match(r"^(?:b\.?\w*|cbn?z|tbn?z)\s+(?:.*,\s*)?([0-9a-f]+)\s+<", instruction)
    return int(found.group(1), 16) if found else None


def innermost_loops(function: list[tuple[int, str]]) -> list[tuple[int, int, list[str]]]:
    """(first address, last address, instructions) of the loops that multiply and contain no other loop."""
    index = {address: i for i, (address, _) in enumerate(function)}
    spans = []
    for i, (address, instruction) in enumerate(function):
        target = branch_target(instruction)
        if target is not None and target <= address and target in index:
            spans.append((index[target], i))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    loops = [(function[a][0], function[b][0], [t for _, t in function[a : b + 1]]) for a, b in inner]
    return [loop for loop in loops if macs(loop[2])]


def cycles(mca: str, core: str, body: list[str], iterations: int) -> float:
    """Cycles per iteration; branches are given a label, calls are left out."""
    lines = []
    for instruction in body:
        if re.match(r"^(bl|blr|ret|br)\b", instruction):
            continue
        lines.append(re.sub(r"[0-9a-f]+ <[^>]*>$", "target", instruction))
    out = run(
        [
            mca,
            "-march=aarch64",
            f"-mcpu={core}",
            f"-iterations={iterations}",
            "-instruction-info=0",
            "-resource-pressure=0",
        ],
        input="\n".join(lines) + "\n",
    )
    return int(re.search(r"Total Cycles:\s+(\d+)", out).group(1)) / iterations


def trace(
    qemu: str, level: str, program: Path, arguments: list[str], kernels: list[list[tuple[int, str]]], folder: Path
) -> tuple[str, list[int]]:
    """The kernel's name and the addresses that were executed in the functions `kernels`, in order."""
    ranges = ",".join(f"{f[0][0]:#x}..{f[-1][0] + 4:#x}" for f in kernels)
    log = folder / "trace.log"
    name = run(
        [
            qemu,
            "-cpu",
            EMULATED[level],
            "-singlestep",
            "-d",
            "exec,nochain",
            "-dfilter",
            ranges,
            "-D",
            str(log),
            str(program),
            *arguments,
        ]
    ).strip()
    # "Trace 0: 0x... [cs_base/pc/flags/cflags]"
    pcs = [int(m.group(1), 16) for m in re.finditer(r"^Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/", log.read_text(), re.M)]
    inside = {address for f in kernels for address, _ in f}
    return name, [pc for pc in pcs if pc in inside]


def measure(
    tools: dict,
    level: str,
    scheme: str,
    tokens: int,
    program: Path,
    kernels: set[str],
    functions: dict,
    folder: Path,
    columns: int,
    rows: int,
) -> list[Row]:
    weights, bits, group, act_group = SCHEMES[scheme]
    arguments = [weights, str(bits), str(group), str(act_group), str(columns), str(rows), str(tokens)]
    if scheme == PACKED:
        arguments.append("packed")
    name, pcs = trace(
        tools["qemu"], level, program, arguments, [f for n, f in functions.items() if n in kernels and f], folder
    )
    text = {address: t for f in functions.values() for address, t in f}
    visits: dict[int, int] = {}
    for pc in pcs:
        visits[pc] = visits.get(pc, 0) + 1
    loops = [loop for f in functions.values() for loop in innermost_loops(f) if loop[0] in visits]
    if not pcs or not loops:
        fail(f"no kernel instructions in the trace of {scheme}, {level}", "is this a static build with symbols?")
    body = max(loops, key=lambda loop: visits[loop[0]] * macs(loop[2]))[2]
    whole = [text[pc] for pc in pcs]
    total = columns * rows * tokens
    rows_out = []
    for core in CORES[level]:
        loop_cycles = cycles(tools["mca"], core, body, 200)
        whole_cycles = cycles(tools["mca"], core, whole, 1)
        target = TARGETS.get((level, core)) if scheme != PACKED else None
        rows_out.append(
            Row(
                level,
                core,
                scheme,
                tokens,
                name,
                len(body),
                sum("[sp" in i for i in body),
                macs(body) / loop_cycles,
                total / len(whole),
                total / whole_cycles,
                target[tokens == 1] if target else None,
            )
        )
    return rows_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cc", default="aarch64-linux-gnu-gcc", help="compiler with its target options")
    parser.add_argument("--levels", default="neon,dotprod,i8mm")
    parser.add_argument("--schemes", default=",".join(SCHEMES), help=f"some of: {', '.join(SCHEMES)}")
    parser.add_argument("--columns", type=int, default=2048, help="columns of the product (default 2048)")
    parser.add_argument("--rows", type=int, default=64, help="rows of the product (default 64)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of the table")
    args = parser.parse_args()
    cc = shlex.split(args.cc)
    find([cc[0]], "gcc-aarch64-linux-gnu")
    tools = {
        "mca": find_mca(),
        "objdump": find([f"{BINUTILS}objdump"], "binutils-aarch64-linux-gnu"),
        "qemu": find(["qemu-aarch64", "qemu-aarch64-static"], "qemu-user"),
    }
    if not args.json:
        print(
            f"{'level':8s} {'core':12s} {'scheme':13s} {'tokens':>6s} {'kernel':20s} "
            f"{'loop instr':>10s} {'spills':>6s} "
            f"{'loop':>6s} {'whole':>6s} {'target':>6s}  MAC/cycle; {'MAC/instr':>9s}"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for level in args.levels.split(","):
            program, kernels = build(cc, level, folder)
            functions = disassemble(tools["objdump"], program)
            for scheme in args.schemes.split(","):
                for tokens in (WIDTH[level], 1):
                    for r in measure(
                        tools, level, scheme, tokens, program, kernels, functions, folder, args.columns, args.rows
                    ):
                        if args.json:
                            print(json.dumps(asdict(r)), flush=True)
                            continue
                        goal = f"{r.target:6.1f}" if r.target else "     -"
                        print(
                            f"{r.level:8s} {r.core:12s} {r.scheme:13s} {r.tokens:6d} {r.kernel:20s} "
                            f"{r.loop_instructions:10d} {r.loop_spills:6d} "
                            f"{r.loop_macs_per_cycle:6.2f} {r.macs_per_cycle:6.2f} {goal} "
                            f"{'':11s}{r.macs_per_instruction:9.2f}",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
