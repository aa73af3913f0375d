"""How right the times left are that progress shows: runs an agq command, and compares each with what was left.

    times_left.py quantize demo/llama-demo --data demo/text/calibration.txt --samples 16 --tune 20 -t 1
    times_left.py sweep configs/sweeps/demo.yaml -o sweep --no-plot -t 1

Counts processor time, so that other programs of the machine do not matter; with one thread only. Each part of the work
(transformations, solver, tuning, packing; a sweep as a whole) has its own row: how long it took, and the least and the
greatest ratio of the time shown to the time that was left, from the first tenth of the part to `--end` seconds before
its end.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from contextlib import redirect_stdout
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, ClassVar

import common

from agq.cli import main as agq
from agq.reporting import progress_bar
from agq.sweep import forecast

Sample = tuple[float, float | None]


class Recorded(progress_bar.Progress):
    """Looks at the time left ten times a second."""

    parts: ClassVar[list[tuple[str, float, list[Sample]]]] = []

    def begin(self, label: str, total: int | None = None, unit: str = "steps") -> None:
        super().begin(label, total, unit)
        self.parts.append((label, time.process_time(), []))
        if not hasattr(self, "_ended"):
            self._ended = threading.Event()
            threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self.parts[-1][2].append((time.process_time(), self.eta()))

    def close(self) -> None:
        self._ended.set()
        self.parts.append(("", time.process_time(), []))


def judged(parts: list[tuple[str, float, list[Sample]]], end: float) -> list[dict[str, Any]]:
    """A row for each part that took longer than `end` seconds; least and greatest are None where nothing was shown."""
    rows = []
    for (label, start, samples), (_, stop, _) in pairwise(parts):
        if not label or stop - start <= end:
            continue
        first = start + (stop - start) / 10
        ratios = [left / (stop - now) for now, left in samples if left is not None and first <= now < stop - end]
        rows.append(
            {
                "part": label,
                "seconds": stop - start,
                "least": min(ratios, default=None),
                "greatest": max(ratios, default=None),
                "looks": len(ratios),
            }
        )
    return rows


def main() -> int:
    parser = common.parser(__doc__, rounds=False)
    parser.add_argument("--end", type=float, default=1.0, help="seconds at a part's end that do not count (default 1)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="an agq command with its options")
    args = parser.parse_args()
    args.json |= "--json" in args.command
    command = [word for word in args.command if word != "--json"]
    progress_bar.time = forecast.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
    progress_bar._Lines = progress_bar._Bar = Recorded  # type: ignore[misc, assignment]  # neither lines nor bars
    foreign = common.Foreign()
    with redirect_stdout(sys.stderr):  # stdout is for the table
        code = agq(command)
    claim = "times left are right within a factor of 1.5 after the first tenth of a part"
    common.report(args, claim, judged(Recorded.parts, args.end), foreign)
    return code


if __name__ == "__main__":
    sys.exit(main())
