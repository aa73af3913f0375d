"""How long the rest of a sweep takes: what was expected of each part of its entries, corrected by how long such parts
took, and within a part by its own pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from agq.reporting.progress import Progress

TRANSFORM, SOLVE, TUNE, REST = "transform", "solve", "tune", "rest"
# Stages of quantizing that are not parts of their own: the part that they belong to.
_PART_OF = {
    "transform": TRANSFORM,
    "weigh formats": TRANSFORM,
    "learn rotations": TRANSFORM,
    "learn value rotations": TRANSFORM,
    "static activations": SOLVE,
    "prepare tuning": TUNE,
    "original's predictions": TUNE,
    "draw tokens": TUNE,
    "judge weights": TUNE,
    "tune": TUNE,
    "tune blocks": TUNE,
}
# Stages whose steps take most of their part's time, and tell how long it takes.
_PACED = ("transform", "tune", "tune blocks")
_OVERDUE = 0.1  # of a part's time: what is left of one that should be done


class Forecast:
    """expected: of each entry to come the seconds of its parts, a rough figure."""

    def __init__(self, expected: Sequence[Mapping[str, float]]) -> None:
        self._coming = list(expected)
        self._taken: dict[str, float] = {}  # by part, in finished ones
        self._promised: dict[str, float] = {}
        self._now: Mapping[str, float] = {}
        self._spent: dict[str, float] = {}  # by part of the entry that is being made
        self._finished: set[str] = set()
        self._part = REST
        self._since = time.monotonic()
        self._paced: tuple[float, int, int, float] | None = None  # begun, steps, done, when the last one was
        # Seconds of the part that were left when its steps were interrupted: tuning is judged now and then.
        self._rest: float | None = None

    def entry(self) -> None:
        """The next entry begins."""
        self.end()
        self._now, self._coming = self._coming[0], self._coming[1:]
        self._spent, self._finished, self._part = {}, set(), REST
        self._since, self._paced, self._rest = time.monotonic(), None, None

    def end(self) -> None:
        """The entry is made."""
        if self._now:
            self._stop()
            self._finish(REST)
        self._now = {}

    def part(self, name: str, steps: int | None = None) -> None:
        """A part of the entry begins or goes on. steps: that `advance` will count, of like length; None: not known."""
        self._rest = self._by_pace() if name == self._part else None
        self._stop()
        if name != self._part and self._part != REST:
            self._finish(self._part)
        if name == REST and self._finished:
            self._finished |= {TRANSFORM, SOLVE, TUNE}
        self._part = name
        self._paced = (self._since, steps, 0, self._since) if steps else None

    def advance(self) -> None:
        """A step of the part is done."""
        if self._paced is not None:
            begun, steps, done, _ = self._paced
            self._paced = (begun, steps, done + 1, time.monotonic())

    def _stop(self) -> None:
        now = time.monotonic()
        self._spent[self._part] = self._spent.get(self._part, 0.0) + now - self._since
        self._since = now

    def _finish(self, part: str) -> None:
        self._finished.add(part)
        self._taken[part] = self._taken.get(part, 0.0) + self._spent.get(part, 0.0)
        self._promised[part] = self._promised.get(part, 0.0) + self._now.get(part, 0.0)

    def _expected(self, entry: Mapping[str, float], part: str) -> float:
        """Seconds, by how long such parts took, the one that is going on too; without any by how long all did."""
        taken, promised = dict(self._taken), dict(self._promised)
        if (paced := self._by_pace()) is not None:
            spent = self._spent.get(self._part, 0.0) + time.monotonic() - self._since
            taken[self._part] = taken.get(self._part, 0.0) + spent + paced
            promised[self._part] = promised.get(self._part, 0.0) + self._now.get(self._part, 0.0)
        if not promised.get(part):
            taken, promised = {part: sum(taken.values())}, {part: sum(promised.values())}
        return entry.get(part, 0.0) * (taken[part] / promised[part] if promised[part] else 1.0)

    def left(self) -> float | None:
        """Seconds; None before anything is known."""
        if not self._now and not self._promised:
            return None
        rest = sum(self._expected(entry, part) for entry in self._coming for part in entry)
        for part in self._now:
            if part not in self._finished:
                rest += self._left_of(part)
        return rest

    def _left_of(self, part: str) -> float:
        whole, spent = self._expected(self._now, part), self._spent.get(part, 0.0)
        if part != self._part:
            return max(whole - spent, 0.0)
        if (paced := self._by_pace()) is not None:
            return paced
        return max(whole - spent - (time.monotonic() - self._since), _OVERDUE * whole)

    def _by_pace(self) -> float | None:
        """Seconds that are left of the part that is going on, by its steps; None before the first."""
        now = time.monotonic()
        if self._paced is None or not self._paced[2]:
            return None if self._rest is None else max(self._rest - (now - self._since), _OVERDUE * self._rest)
        begun, steps, done, last = self._paced
        pace = max((last - begun) / done, (now - begun) / (done + 1))
        return max(pace * (steps - done) - (now - last), _OVERDUE * pace)


class Told(Progress):
    """What quantizing an entry tells its forecast. say: is told what is going on."""

    def __init__(self, forecast: Forecast, say: Callable[[str], None]) -> None:
        self._forecast, self._say = forecast, say

    def stage(self, name: str, steps: int | None, unit: str = "steps") -> None:
        self._forecast.part(_PART_OF.get(name, REST), steps if name in _PACED else None)
        self._say(f"quantizing, {name}")

    def advance(self, text: str) -> None:
        self._forecast.advance()
        self._say(f"quantizing, {text}" if text else "quantizing")

    def start(self, blocks: int) -> None:
        self._forecast.part(SOLVE, blocks)

    def block(self, index: int, seconds: float, resumed: bool) -> None:
        self._forecast.advance()
        self._say(f"quantizing, block {index}")
