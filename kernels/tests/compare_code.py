#!/usr/bin/env python3
"""Compares the machine code of two source trees, function by function, at every instruction-set level.

    python kernels/tests/compare_code.py OLD NEW [--arch x86_64|aarch64] [--levels avx2,...] [--files gemm,ops] [-v]

OLD and NEW are checkouts whose kernels were built (`make -C kernels`, with `CROSS=aarch64-linux-gnu-` for Arm). Each
function's disassembly is compared without its addresses and alignment: jumps go to the number of an instruction, calls
and data go by name where both trees know the name, and any new name stands for an old one that is gone. A function that
has moved to another file, or that was renamed, counts as the same if another one of its level has its code. Exit code 1
if a function of OLD is gone or differs.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

_HEAD = re.compile(r"^([0-9a-f]+) <(.*)>:$")  # an empty name ends a file
_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S.*)$")
_RELOCATION = re.compile(r"^\s*[0-9a-f]+: (R_\S+)\s+(\S+)$")
_TARGET = re.compile(r"\b([0-9a-f]+) <([^>+]+)(?:\+0x[0-9a-f]+)?>")
_NAME = re.compile(r"<([^>]*)>")
_CLONE = re.compile(r"\.(?:constprop|isra|part|cold|lto_priv)(?:\.\d+)*")
_PADDING = re.compile(r"^(nop|data16|cs nop|xchg\s+%ax,%ax|hint)")


def functions(folder: Path, objdump: str, keep: list[str]) -> dict[str, list[str]]:
    """Name -> normalized code of each function of that name in the objects below `folder`."""
    found: dict[str, list[str]] = {}
    for item in sorted(folder.rglob("*.o")):
        name = item.relative_to(folder).as_posix()
        if name.startswith(("test_", "bench_")) or (keep and not any(part in name for part in keep)):
            continue
        text = subprocess.run(
            [objdump, "-dr", "--no-show-raw-insn", str(item)], capture_output=True, text=True, check=True
        ).stdout
        for function, code in _split(text):
            found.setdefault(function, []).append(code)
    return found


def _split(disassembly: str) -> list[tuple[str, str]]:
    result: list[tuple[str, str]] = []
    name = ""
    lines: list[tuple[int | None, str]] = []
    for line in [*disassembly.splitlines(), "0 <>:"]:
        if head := _HEAD.match(line):
            if name:
                result.append((name, _normalized(name, lines)))
            name, lines = _CLONE.sub("", head[2]), []
        elif relocation := _RELOCATION.match(line):
            # Offsets into the constants move with what else lies there.
            lines.append((None, f"  {relocation[1]} <{_symbol(relocation[2])}>"))
        elif code := _LINE.match(line):
            lines.append((int(code[1], 16), code[2].split("//")[0].split("#")[0]))
    return result


def _normalized(name: str, lines: list[tuple[int | None, str]]) -> str:
    """Without addresses, and without what only aligns: jumps go to the number of an instruction."""
    number: dict[int, int] = {}
    count = 0
    for address, text in lines:
        if address is not None:
            number[address] = count
            count += not _PADDING.match(text)

    def target(match: re.Match[str]) -> str:
        inside = _symbol(match[2]) == name and int(match[1], 16) in number
        return f"#{number[int(match[1], 16)]}" if inside else f"<{_symbol(match[2])}>"

    kept = [text for address, text in lines if address is None or not _PADDING.match(text)]
    return "\n".join(re.sub(r"\s+", " ", _TARGET.sub(target, text)).strip() for text in kept)


def _symbol(name: str) -> str:
    return _CLONE.sub("", re.sub(r"[+-]0x[0-9a-f]+$", "", name))


def _names(code: dict[str, list[str]]) -> set[str]:
    return set(code) | {name for codes in code.values() for text in codes for name in _NAME.findall(text)}


def _with_known(code: dict[str, list[str]], known: set[str]) -> dict[str, list[str]]:
    def blank(match: re.Match[str]) -> str:
        return match[0] if match[1] in known else "<>"

    return {name: [_NAME.sub(blank, text) for text in codes] for name, codes in code.items()}


def compare(old: dict[str, list[str]], new: dict[str, list[str]]) -> dict[str, list[str]]:
    """Verdict -> names of functions: same, renamed, different, gone, added."""
    known = _names(old) & _names(new)
    old, new = _with_known(old, known), _with_known(new, known)
    verdicts: dict[str, list[str]] = {key: [] for key in ("same", "renamed", "different", "gone", "added")}
    left = Counter(code for codes in new.values() for code in codes)
    open_ones = []
    for name, codes in sorted(old.items()):
        for code in codes:
            if code in new.get(name, []) and left[code]:
                left[code] -= 1
                verdicts["same"].append(name)
            else:
                open_ones.append((name, code))
    for name, code in open_ones:
        if left[code]:
            left[code] -= 1
            verdicts["renamed"].append(name)
        else:
            verdicts["different" if name in new else "gone"].append(name)
    verdicts["added"] = sorted(set(new) - set(old))
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--arch", default="x86_64")
    parser.add_argument("--levels", default="", help="of the architecture; default: all that were built")
    parser.add_argument("--files", default="", help="parts of object names, by comma; default: all")
    parser.add_argument("-v", "--verbose", action="store_true", help="name the functions that are the same, too")
    args = parser.parse_args()
    objdump = {"aarch64": "aarch64-linux-gnu-objdump"}.get(args.arch, "objdump")
    builds = [tree / "kernels" / "build" / args.arch for tree in (args.old, args.new)]
    levels = args.levels.split(",") if args.levels else sorted(p.name for p in builds[0].iterdir() if p.is_dir())
    keep = args.files.split(",") if args.files else []
    failed = False
    for level in levels:
        old, new = (functions(build / level, objdump, keep) for build in builds)
        if not old or not new:
            print(
                f"error: no objects for {level} in {builds[0]} or {builds[1]}\nhint: make -C kernels", file=sys.stderr
            )
            return 2
        verdicts = compare(old, new)
        print(f"{args.arch} {level}: " + ", ".join(f"{len(names)} {key}" for key, names in verdicts.items()))
        for key in verdicts if args.verbose else ("different", "gone", "added"):
            if verdicts[key]:
                print(f"  {key}: {', '.join(verdicts[key])}")
        failed |= bool(verdicts["different"] or verdicts["gone"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
