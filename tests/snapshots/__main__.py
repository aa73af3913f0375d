"""`python -m tests.snapshots` shows what differs from the kept snapshots; with `--update` it writes them anew."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.snapshots.cases import CASES
from tests.snapshots.compare import difference
from tests.snapshots.snapshot import EXPECTED, expected_file, taken


def main() -> int:
    """Returns 1 where a snapshot differs and was not updated."""
    parser = argparse.ArgumentParser(prog="python -m tests.snapshots", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the files of expected/")
    parser.add_argument("names", nargs="*", help="only the cases whose names begin with one of these")
    arguments = parser.parse_args()
    cases = [case for case in CASES if not arguments.names or case.name.startswith(tuple(arguments.names))]
    if arguments.names and not cases:
        parser.error("no case has such a name")
    EXPECTED.mkdir(exist_ok=True)
    changed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for case, text in zip(cases, pool.map(taken, cases), strict=True):
            found = difference(case, text)
            changed += bool(found)
            print(found, end="")
            if arguments.update:
                expected_file(case).write_text(text, encoding="utf-8")
    known = {expected_file(case) for case in CASES}
    for path in sorted(set(EXPECTED.glob("*.txt")) - known):
        print(f"{path.name} belongs to no case")
        if arguments.update:
            path.unlink()
    print(f"{len(cases)} cases, {changed} changed" + (" and written" if arguments.update and changed else ""))
    return int(changed > 0 and not arguments.update)


if __name__ == "__main__":
    sys.exit(main())
