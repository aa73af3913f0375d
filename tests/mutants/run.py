"""Runs the table of mutants over agq's arithmetic: each must turn one of its tests red.

    python -m tests.mutants.run [--jobs 2] [--only hadamard]

Survivors are listed, and the exit code is 1; 2 for a fragment that is not found exactly once, or tests that are red
without a change.
"""

from __future__ import annotations

import argparse
import re
import sys
import time

from tests.mutants import forks
from tests.mutants.table import Section, read

# Modules that the tests import when they run.
PRELOADED = ("torch", "transformers.models.llama.modeling_llama", "transformers.models.opt.modeling_opt")


def pattern(fragment: str) -> re.Pattern[str]:
    """Finds a fragment however its white space stands."""
    tokens = re.findall(r"\w+|[^\w\s]", fragment)
    ends = [r"\b" if re.match(r"\w", token) else "" for token in (tokens[0], tokens[-1])]
    return re.compile(ends[0] + r"\s*".join(map(re.escape, tokens)) + ends[1])


def mutate(section: Section, name: str, fragment: str, new: str) -> forks.Change:
    """The changed module. Raises ValueError unless the fragment stands exactly once in the files of the section."""
    place = forks.REPOSITORY / "agq" / section.where
    files = [place] if place.is_file() else sorted(place.glob("*.py"))
    search = pattern(fragment)
    found = [(file, match) for file in files for match in search.finditer(file.read_text())]
    if len(found) != 1:
        raise ValueError(f"{section.where}: {name}: `{fragment}` stands {len(found)} times")
    file, match = found[0]
    text = file.read_text()
    relative = str(file.relative_to(forks.REPOSITORY))
    changed = text[: match.start()] + new + text[match.end() :]
    return forks.Change(f"{relative}: {name}", relative, compile(changed, relative, "exec"), tuple(section.tests))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[""], help="files or folders whose names contain one of these")
    parser.add_argument("--verbose", action="store_true", help="name the test that saw each mutant")
    options = parser.parse_args()
    started = time.monotonic()
    sections = [section for section in read() if any(part in section.where for part in options.only)]
    changes, errors = [], []
    for section in sections:
        for change in section.changes:
            try:
                changes.append(mutate(section, *change))
            except (ValueError, SyntaxError) as error:
                errors.append(str(error))
    if errors:
        print(*errors, sep="\n")
        return 2
    tests = tuple(dict.fromkeys(test for section in sections for test in section.tests))

    def body(run: forks.Run) -> int:
        unchanged = [forks.Change(section.where, "", None, tuple(section.tests)) for section in sections]
        red = [result for result in run(unchanged, options.jobs) if result.status != forks.GREEN]
        if red:
            print(*(f"red without a change: {result.change.name}\n{result.output}" for result in red), sep="\n")
            return 2
        survivors, failed = [], []
        for result in run(changes, options.jobs):
            if result.status == forks.GREEN:
                survivors.append(result.change.name)
            elif result.status != forks.RED:
                failed.append(f"{result.change.name}: status {result.status}\n{result.output}")
            if options.verbose:
                failed_tests = re.findall(r"tests/\S+::\S+", result.output)
                seen = "SURVIVES" if result.status == forks.GREEN else (failed_tests or ["?"])[0]
                print(f"{result.seconds:5.1f} s  {result.change.name}: {seen}", flush=True)
        print(*failed, *(f"survives: {name}" for name in survivors), sep="\n")
        print(f"{len(changes)} mutants, {len(survivors)} survive, {time.monotonic() - started:.0f} s")
        return 2 if failed else bool(survivors)

    return forks.with_tests(tests, body, PRELOADED)


if __name__ == "__main__":
    sys.exit(main())
