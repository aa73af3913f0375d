#!/usr/bin/env python3
"""Runs the C tests against mutants: copies of the kernels with one line made wrong, each of which must turn a test red.

    run.py [--levels "scalar avx2 ..."] [--jobs N] [--only WORD] [--list]

The mutants stand in the .toml files beside this one (see ../README.md). Sources are copied to build/mutants and
compiled there once; for a mutant only what depends on its file is compiled again. Needs Python 3.11, nothing beyond its
standard library.
Exit code: 0 if every mutant was killed, 1 if one survived, 2 if the table or the build is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent.parent
WORK = KERNELS / "build" / "mutants"
COPIED = ("Makefile", "include", "src", "tests")
ARM_CPUS = {"neon": "cortex-a72", "dotprod": "cortex-a76", "i8mm": "max"}
X86_LEVELS = {"sse41": "sse4_1", "avx2": "avx2", "avxvnni": "avx_vnni", "avx512vnni": "avx512_vnni"}
SEED = 1
# What a make that runs this script would tell the make that this script runs.
OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "LEVELS", "TESTS")
ARM_SHARE = "3"  # emulation is slow: of the larger problems a third (AGQ_TEST_SHARE)


class TableError(Exception):
    """The table, or the unmutated build, is wrong."""


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str
    # Text of the line from which `old` is looked for; empty: from the top, and then it must stand there once.
    after: str
    levels: tuple[str, ...]  # it runs at the first of them that was chosen
    tests: tuple[str, ...]
    seed: int

    def apply(self, text: str) -> str:
        """The mutated text. Raises TableError unless `after` and `old` are found as they must be."""
        start = 0
        if self.after:
            anchors = list(re.finditer(pattern(self.after), text))
            if len(anchors) != 1:
                raise TableError(f"{self.name}: `{self.after}` stands {len(anchors)} times in {self.file}, not once")
            start = anchors[0].start()
        found = list(re.finditer(pattern(self.old), text[start:]))
        if not found or (len(found) > 1 and not self.after):
            raise TableError(f"{self.name}: `{self.old}` stands {len(found)} times in {self.file}, not once")
        begin, end = start + found[0].start(), start + found[0].end()
        return text[:begin] + self.new + text[end:]


def pattern(fragment: str) -> str:
    """A regular expression for C text that differs from `fragment` in white space only."""
    tokens = re.findall(r'"[^"]*"|\w+|[^\w\s]', fragment)
    gap = r"(?:\s|\\\n)*"
    parts = [re.escape(tokens[0])]
    for left, right in itertools.pairwise(tokens):
        words = re.match(r"\w", left[-1]) and re.match(r"\w", right[0])
        parts.append((r"(?:\s|\\\n)+" if words else gap) + re.escape(right))
    edge = [r"(?<!\w)" if re.match(r"\w", tokens[0]) else "", r"(?!\w)" if re.match(r"\w", tokens[-1][-1]) else ""]
    return edge[0] + "".join(parts) + edge[1]


def read_table() -> list[Mutant]:
    """All mutants of the .toml files. A file's `levels` and `tests` are the default of its mutants."""
    mutants = []
    for path in sorted(HERE.glob("*.toml")):
        table = tomllib.loads(path.read_text())
        for row in table["mutant"]:
            unknown = set(row) - {"name", "file", "old", "new", "after", "levels", "tests", "seed"}
            if unknown:
                raise TableError(f"{path.name}: {row.get('name')}: unknown keys {sorted(unknown)}")
            levels, tests = row.get("levels", table["levels"]), row.get("tests", table["tests"])
            file = row.get("file", table.get("file"))
            mutants.append(
                Mutant(
                    row["name"],
                    file,
                    row["old"],
                    row["new"],
                    row.get("after", ""),
                    tuple(levels),
                    tuple(tests),
                    row.get("seed", SEED),
                )
            )
    names = [m.name for m in mutants]
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"two mutants are called {name!r}")
    return mutants


def default_levels() -> list[str]:
    """All levels of this machine; NEON and SDOT, emulated where they must be."""
    try:
        flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1].split())
    except (OSError, TypeError):
        flags = set()
    return ["scalar", *(level for level, flag in X86_LEVELS.items() if flag in flags), "neon", "dotprod"]


def make(tree: Path, level: str, tests: list[str], jobs: int) -> subprocess.CompletedProcess[str]:
    """Compiles test programs of one level. A make that runs this script has no say in it."""
    cross = ["CROSS=aarch64-linux-gnu-", "LINK_STATIC=-static"] if level in ARM_CPUS else []
    variables = ["BUILD=build", "OPTIMIZE=-O1", "CFLAGS=-w", *cross, f"LEVELS={level}", f"TESTS={' '.join(tests)}"]
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    command = ["make", "-C", str(tree), f"-j{jobs}", *variables, "test-programs"]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def architecture(level: str) -> str:
    return "aarch64" if level in ARM_CPUS else os.uname().machine


def run_test(tree: Path, level: str, test: str, limit: float, seed: int = SEED) -> tuple[bool, float]:
    """Whether the test ended with success within `limit` seconds, and the seconds it took."""
    program = tree / "build" / architecture(level) / level / f"test_{test}"
    emulated = level in ARM_CPUS and os.uname().machine != "aarch64"
    emulator = ["qemu-aarch64", "-cpu", ARM_CPUS[level]] if emulated else []
    environment = os.environ | {"AGQ_TEST_SEED": str(seed), "AGQ_TEST_FAIL_FAST": "1", "AGQ_TEST_REQUIRE": "1"}
    if level in ARM_CPUS:
        environment["AGQ_TEST_SHARE"] = ARM_SHARE
    begin = time.monotonic()
    try:
        done = subprocess.run([*emulator, program], env=environment, capture_output=True, timeout=limit)
        passed = done.returncode == 0
    except subprocess.TimeoutExpired:
        passed = False
    return passed, time.monotonic() - begin


def sync(tree: Path) -> None:
    """Makes `tree` a copy of the kernels' sources; files that are equal already keep their time."""
    for name in COPIED:
        source = KERNELS / name
        found = [source] if source.is_file() else source.rglob("*")
        files = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
        for path in files:
            to = tree / path.relative_to(KERNELS)
            if not to.exists() or to.read_bytes() != path.read_bytes():
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)
        wanted = {tree / p.relative_to(KERNELS) for p in files}
        if source.is_dir():
            for path in (tree / name).rglob("*"):
                if path.is_file() and path not in wanted:
                    path.unlink()


class Baseline:
    """The unmutated build, and how long its tests take."""

    def __init__(self, needed: dict[str, set[str]], jobs: int) -> None:
        """needed: tests by level. Raises TableError if one does not compile or is not green."""
        self.tree = WORK / "base"
        sync(self.tree)
        self.seconds: dict[tuple[str, str], float] = {}
        for level, tests in needed.items():
            done = make(self.tree, level, sorted(tests), jobs)
            if done.returncode:
                raise TableError(f"level {level} does not compile:\n{done.stderr[-2000:]}")
        runs = sorted((level, test) for level, tests in needed.items() for test in tests)

        def measure(worker: int, run: tuple[str, str]) -> None:
            passed, seconds = run_test(self.tree, *run, limit=600)
            if not passed:
                raise TableError(f"test_{run[1]} is red without a mutant (level {run[0]})")
            self.seconds[run] = seconds

        parallel(measure, runs, jobs)


class Worker:
    """A tree of its own, in which one mutant after the other stands."""

    def __init__(self, base: Baseline, number: int) -> None:
        self.base, self.tree = base, WORK / f"worker-{number}"
        shutil.rmtree(self.tree, ignore_errors=True)
        programs = shutil.ignore_patterns(*(f"test_{t}" for _, t in base.seconds))
        shutil.copytree(base.tree, self.tree, ignore=programs)

    def killed_by(self, mutant: Mutant, level: str) -> str | None:
        """The test that turns red, None if all stay green. Raises TableError if the mutant does not compile."""
        path = self.tree / mutant.file
        path.write_text(mutant.apply(path.read_text()))
        try:
            done = make(self.tree, level, list(mutant.tests), 1)
            if done.returncode:
                raise TableError(f"{mutant.name}: does not compile (level {level}):\n{done.stderr[-1500:]}")
            for test in mutant.tests:
                limit = 10 + 10 * self.base.seconds[level, test]
                if not run_test(self.tree, level, test, limit, mutant.seed)[0]:
                    return test
            return None
        finally:
            self.restore(mutant, level)

    def restore(self, mutant: Mutant, level: str) -> None:
        shutil.copy2(self.base.tree / mutant.file, self.tree / mutant.file)
        folder = self.tree / "build" / architecture(level)
        for path in [*(folder / level).rglob("*.o"), *(folder / "tests").glob("*.o")]:
            kept = self.base.tree / path.relative_to(self.tree)
            if path.stat().st_mtime_ns != kept.stat().st_mtime_ns:
                shutil.copy2(kept, path)
        for test in mutant.tests:
            (folder / level / f"test_{test}").unlink(missing_ok=True)


def parallel(work, items: list, jobs: int) -> None:
    """work(number of the thread, item) for all items, the first ones first; the first error ends it and is raised."""
    left: queue.SimpleQueue = queue.SimpleQueue()
    errors: list[BaseException] = []
    for item in items:
        left.put(item)

    def loop(number: int) -> None:
        while not errors:
            try:
                item = left.get_nowait()
            except queue.Empty:
                return
            try:
                work(number, item)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def run(mutants: list[Mutant], levels: list[str], jobs: int) -> int:
    for mutant in mutants:  # the whole table is looked at before anything is compiled
        mutant.apply((KERNELS / mutant.file).read_text())
    runs = [(m, level) for m in mutants for level in [x for x in m.levels if x in levels][:1]]
    needed: dict[str, set[str]] = {}
    for mutant, level in runs:
        needed.setdefault(level, set()).update(mutant.tests)
    begin = time.monotonic()
    base = Baseline(needed, jobs)
    print(f"compiled and green without mutants after {time.monotonic() - begin:.0f} s", flush=True)
    runs.sort(key=lambda r: r[1] not in ARM_CPUS)  # emulated ones take longest: first
    workers = [Worker(base, number) for number in range(jobs)]
    survivors: list[str] = []

    def judge(number: int, item: tuple[Mutant, str]) -> None:
        mutant, level = item
        start = time.monotonic()
        test = workers[number].killed_by(mutant, level)
        took = time.monotonic() - start
        if not test:
            survivors.append(f"{mutant.name} ({level}; {mutant.file}; tests {' '.join(mutant.tests)})")
        print(f"{'killed by ' + test if test else 'SURVIVED':<20} {level:<8} {took:5.1f} s  {mutant.name}", flush=True)

    parallel(judge, runs, jobs)
    untried = [m.name for m in mutants if not any(m is mutant for mutant, _ in runs)]
    print(f"{len(mutants)} mutants, {len(runs)} runs, {len(survivors)} survivors, {time.monotonic() - begin:.0f} s")
    if untried:
        print(f"not run, as no chosen level has them: {', '.join(untried)}")
    for name in survivors:
        print(f"survived: {name}")
    return 1 if survivors else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutants of the kernels, each of which must turn a C test red.")
    parser.add_argument("--levels", default="", help="levels to choose from (default: this machine's, neon, dotprod)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    only = "mutants whose name, file or level holds this text, or one of several: 'pool|norm'"
    parser.add_argument("--only", default="", help=only)
    parser.add_argument("--list", action="store_true", help="list the mutants and stop")
    options = parser.parse_args()
    try:
        wanted = options.only.split("|")
        mutants = [m for m in read_table() if any(w in f"{m.name} {m.file} {' '.join(m.levels)}" for w in wanted)]
        if options.list:
            for m in mutants:
                print(f"{m.file:<28} {' '.join(m.levels):<16} {m.name}")
            return 0
        return run(mutants, options.levels.split() or default_levels(), options.jobs)
    except TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
