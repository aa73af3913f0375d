#!/usr/bin/env python3
"""Runs the same commands with two commits of agq and compares what they write and print.

    python3 scripts/compare_commits.py BASE [HEAD] [--quick] [--jobs N] [--words] [--demo]

Both sides are unpacked into a temporary folder, their kernels are compiled, and every command runs in the environment
of the Python that runs this script (it must have agq's dependencies). Compared are quantized folders and packed files
byte by byte, tokens, perplexities, effective recipes and exit codes; `compare_cases.py` lists the commands. Exit code 1
where anything differs or cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compare_cases as cases
from compare_cases import Step
from compare_values import cleaned, first_difference, path_difference

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Side:
    """One of the two commits: its source tree, and the folder in which its commands run."""

    name: str
    tree: Path
    work: Path

    def environment(self, step: Step) -> dict[str, str]:
        """The same for both sides, but for the tree and the folders of their own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGQ_", "PYTHON"))}
        fixed = {
            "PYTHONPATH": str(self.tree),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.work),
            "AGQ_CACHE_DIR": str(self.work / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "NO_COLOR": "1",
            "COLUMNS": "120",
        }
        return {**kept, **fixed, **({"AGQ_ISA": step.level} if step.level else {}), **dict(step.environment)}

    def run(self, step: Step) -> subprocess.CompletedProcess[str]:
        """Runs a step's command in the side's folder."""
        command = [sys.executable, "-m", "agq", *step.arguments]
        return subprocess.run(
            command,
            cwd=self.work,
            env=self.environment(step),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )


@dataclass(frozen=True)
class Row:
    """One comparison. difference: empty where both are the same."""

    case: str
    what: str
    difference: str


def stop(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def unpack(commit: str, tree: Path) -> None:
    """A commit of this repository, or a folder with a source tree (tracked and new files), into `tree`."""
    tree.mkdir(parents=True)
    if Path(commit).is_dir():
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, cwd=commit, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\0")
        for name in filter(None, names):
            if (Path(commit) / name).is_file():  # a deleted file is still listed
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(Path(commit) / name, tree / name)
        return
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True)
    if archive.returncode:
        stop(f"`{commit}` is neither a commit of this repository nor a folder: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", tree], input=archive.stdout, check=True)


def prepare(name: str, commit: str, folder: Path) -> Side:
    """Unpacks a side. The program stops where that fails, or where Python would take another agq."""
    side = Side(name, folder / name / "tree", folder / name / "work")
    unpack(commit, side.tree)
    side.work.mkdir()
    (side.work / "inputs").symlink_to(folder / "inputs")
    where = [sys.executable, "-c", "import agq; print(agq.__file__)"]
    found = subprocess.run(where, cwd=side.work, env=side.environment(Step("", ())), capture_output=True, text=True)
    if not found.stdout.startswith(str(side.tree)):
        stop(f"{commit}: Python imports another agq: {found.stdout.strip() or found.stderr.strip()[-500:]}")
    return side


def sources(tree: Path) -> dict[str, bytes]:
    """The files of `kernels` in a tree that is not compiled yet."""
    return {str(path.relative_to(tree)): path.read_bytes() for path in (tree / "kernels").rglob("*") if path.is_file()}


def build(sides: list[Side], jobs: int) -> None:
    """Compiles the kernels of both sides, once where their sources are the same."""
    same = sources(sides[0].tree) == sources(sides[1].tree)
    for side in sides[: 1 if same else 2]:
        made = subprocess.run(["make", "-C", side.tree / "kernels", f"-j{jobs}"], capture_output=True, text=True)
        if made.returncode:
            stop(f"the kernels of {side.name} do not compile:\n{made.stderr[-2000:]}")
    if same:
        shutil.copytree(sides[0].tree / "kernels" / "build", sides[1].tree / "kernels" / "build")


def levels(sides: list[Side], quick: bool) -> list[str]:
    """Instruction-set levels that both sides run on this machine, best first; only the best one for --quick."""
    usable = []
    for side in sides:
        result = side.run(Step("", ("env", "--json")))
        if result.returncode:
            stop(f"`agq env` of {side.name}: {result.stderr.strip()}")
        found = json.loads(result.stdout)["libraries"]
        usable.append([item["isa"] for item in found if item["score"] > 0 and not item["problem"]])
    both = [isa for isa in usable[0] if isa in usable[1]]
    return both[:1] if quick else both


def printed(text: str, side: Side, words: bool) -> list[Any]:
    """Lines of an output, those that are JSON objects parsed and cleaned. The side's own folders have one name."""
    text = text.replace(str(side.tree), "TREE").replace(str(side.work), "WORK")
    return [cleaned(json.loads(line), words) if line.startswith("{") else line for line in text.splitlines()]


def compare(case: str, step: Step, sides: list[Side], words: bool) -> Row:
    """Runs one step on both sides."""
    base, head = (side.run(step) for side in sides)
    if base.returncode != head.returncode:
        failed = base if base.returncode != step.code else head
        last = (failed.stderr.strip().splitlines() or [""])[-1]
        return Row(case, step.what, f"differs: exit codes {base.returncode} and {head.returncode}: {last}")
    if base.returncode != step.code:
        text = " ".join(base.stderr.split())[-300:]
        return Row(case, step.what, f"cannot be compared: exit code {base.returncode} on both sides: {text}")
    difference = first_difference(printed(base.stdout, sides[0], words), printed(head.stdout, sides[1], words))
    if step.output:
        stored = path_difference(*(side.work / step.output for side in sides))
        difference = "; ".join(filter(None, (stored, difference)))
    return Row(case, step.what, difference and f"differs: {difference}")


def compare_case(name: str, steps: list[Step], sides: list[Side], words: bool) -> Iterator[Row]:
    """The rows of a case; the files that it made are removed."""
    for step in steps:
        if words or not step.words:
            yield compare(name, step, sides, words)
    for step in steps:
        for side in sides:
            path = side.work / step.output
            if step.output and path.is_dir():
                shutil.rmtree(path)
            elif step.output:
                path.unlink(missing_ok=True)


def work(arguments: argparse.Namespace, sides: list[Side]) -> Iterator[tuple[str, list[Step]]]:
    """Cases and their steps, those that take longest first."""
    found = [case for case in cases.SHARED if (sides[0].work / "inputs" / case.model).is_dir() and not arguments.quick]
    found += [case for case in reversed(cases.CASES) if case.quick or not arguments.quick]
    usable = levels(sides, arguments.quick)
    if arguments.demo:
        yield "make demo", cases.demo_steps()
    yield from (
        (case.name, case.steps(usable, not arguments.quick))
        for case in found
        if not arguments.only or case.name in arguments.only
    )
    if not arguments.only or "recipes" in arguments.only:
        yield "recipes", cases.recipe_steps()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="commit, or folder with a source tree")
    parser.add_argument("head", nargs="?", default="HEAD", help="the same; default HEAD")
    parser.add_argument(
        "--quick", action="store_true", help="a subset, in about two minutes on a free machine of two cores"
    )
    parser.add_argument("--demo", action="store_true", help="the commands of `make demo` besides")
    parser.add_argument("--words", action="store_true", help="compare texts for people too")
    parser.add_argument("--only", action="append", metavar="CASE", help="only this case; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time; default: one a core")
    arguments = parser.parse_args()
    if unknown := set(arguments.only or ()) - {"recipes", *(case.name for case in (*cases.CASES, *cases.SHARED))}:
        stop(f"unknown case {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="agq-compare-") as name:
        folder = Path(name).resolve()
        sides = [prepare(side, getattr(arguments, side), folder) for side in ("base", "head")]
        build(sides, arguments.jobs)
        cases.make_inputs(folder / "inputs", sides[0].tree)
        rows: list[Row] = []
        with ThreadPoolExecutor(arguments.jobs) as pool:
            waiting = [
                pool.submit(lambda item: list(compare_case(*item, sides, arguments.words)), item)
                for item in work(arguments, sides)
            ]
            for future in waiting:
                for row in future.result():
                    print(f"{row.case:24} {row.what:34} {row.difference or 'same'}", flush=True)
                    rows.append(row)
    different = sum(bool(row.difference) for row in rows)
    print(
        f"\n{len(rows)} comparisons of {arguments.base} and {arguments.head}: "
        + (f"{different} differ" if different else "all the same")
    )
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
