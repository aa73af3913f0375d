"""What a run meets that is odd among its numbers, and the steps that it took back because their results were not finite
or made things worse. Kept in the work folder, so that a resumed run knows of all of it; agq.json's `report.numbers`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from agq.checkpoint.numbers import KINDS
from agq.errors import AgqError
from agq.files import atomic_write_text
from agq.reporting.progress import Progress

NAME = "numbers.json"
# Kinds of what is counted; each place counts once, however often a run is resumed.
ZERO_MATRICES, CONSTANT_MATRICES, DEAD_CHANNELS, RANK_DEFICIENT, ZERO_TOKENS, BEYOND_FP16 = KINDS


class Numbers:
    """counts: kind -> place -> how many; taken_back: place and step -> what was used instead.

    path: the file that keeps them, read where it exists; None: none. progress: told of steps that are taken back.
    """

    def __init__(self, path: Path | None = None, progress: Progress | None = None) -> None:
        self.path, self.progress = path, progress or Progress()
        self.counts: dict[str, dict[str, int]] = {}
        self.taken_back: dict[str, str] = {}
        if path is not None and path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.counts, self.taken_back = kept["counts"], kept["taken_back"]

    def count(self, kind: str, place: str, number: int) -> None:
        """Notes `number` of a kind at a place; 0 is nothing."""
        if number:
            self.counts.setdefault(kind, {})[place] = number
            self._keep()

    def counted(self, kind: str, *places: str) -> bool:
        """Something of a kind was found at one of the places."""
        return any(place in self.counts.get(kind, {}) for place in places)

    def take_back(self, place: str, problem: str, instead: str) -> None:
        """Notes, and tells in one line, that a step's result is not used. problem: a step and what was wrong."""
        self.taken_back[f"{place}: {problem}"] = instead
        self._keep()
        self.progress.note(f"{place}: {problem}; {instead} instead")

    def weight(self, module: str, low: float, high: float) -> None:
        """Looks at the least and the largest value of a matrix. Raises AgqError where the transformations, which start
        from finite values, made something else of it."""
        if not (math.isfinite(low) and math.isfinite(high)):
            raise AgqError(
                f"`{module}`: the transformed weights are not finite", hint="quantize without transformations"
            )
        self.count(ZERO_MATRICES if high == 0 else CONSTANT_MATRICES, module, int(low == high))

    def record(self) -> dict[str, Any] | None:
        """JSON for agq.json: sums by kind, and the steps that were taken back; None where there is nothing."""
        found: dict[str, Any] = {kind: sum(places.values()) for kind, places in sorted(self.counts.items())}
        if self.taken_back:
            found["taken_back"] = [f"{what}; {instead} instead" for what, instead in sorted(self.taken_back.items())]
        return found or None

    def _keep(self) -> None:
        if self.path is not None:
            kept = {"counts": self.counts, "taken_back": self.taken_back}
            atomic_write_text(self.path, json.dumps(kept, sort_keys=True) + "\n")
