"""How long tuning takes: a time for the whole run, of which it gets what the other steps leave."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agq.errors import UsageError
from agq.recipe.changes import EFFORT_NAMES

# Windows in a step: a GPU is not busy with one.
BATCH = {"cpu": 1, "cuda": 8}
# Fewer steps would change next to nothing.
LEAST = 48
# Tuning gets at least this share of a run's time, where the other steps take more than is left.
_SHARE = 0.25
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Effort:
    """seconds: of the whole run; steps: at most, where there are 128 calibration windows, and in proportion for fewer:
    who calibrates by little text wants to wait for little. Both by kind of device."""

    seconds: dict[str, float]
    steps: dict[str, int]

    def most(self, device: str, windows: int) -> int:
        return self.steps[device] * min(windows, _WINDOWS) // _WINDOWS


_WINDOWS = 128
_EFFORTS = (
    Effort({"cpu": 0.0, "cuda": 0.0}, {"cpu": 0, "cuda": 0}),
    Effort({"cpu": 1800.0, "cuda": 300.0}, {"cpu": 512, "cuda": 1024}),
    Effort({"cpu": 10800.0, "cuda": 1800.0}, {"cpu": 2048, "cuda": 8192}),
)
EFFORTS = dict(zip(EFFORT_NAMES, _EFFORTS, strict=True))
DEFAULT = "normal"


def seconds(text: str) -> float:
    """Seconds of `20m`, `1h30m`, `90s` or `90`. UsageError for anything else."""
    given = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", given):
        found = float(given)
    else:
        parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", given)
        if not parts or "".join(number + unit for number, unit in parts) != given:
            raise UsageError(f"`time: {text}` is no time", hint="for example `time: 20m` or `time: 1h30m`")
        found = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < found < 30 * 24 * 3600:
        raise UsageError(f"`time: {text}` is not between a second and 30 days", hint="for example `time: 20m`")
    return found


@dataclass(frozen=True)
class Budget:
    """Time of a run, in seconds, and the most steps that tuning does in it."""

    seconds: float
    most: int

    def left(self, elapsed: float) -> float:
        """Seconds for tuning when the run has taken `elapsed`."""
        return max(self.seconds - elapsed, _SHARE * self.seconds)

    def steps(self, left: float, each: float) -> int:
        """Steps of `each` seconds in `left` seconds, 0 where they are too few. Of three significant bits, so that two
        runs on one machine mostly do the same."""
        count = min(self.most, int(left / each))
        if count < LEAST:
            return 0
        if count == self.most:
            return count
        unit = 1 << max(0, count.bit_length() - 3)
        return count // unit * unit


def budget(effort: str | None, time: str | None, device: str, windows: int) -> Budget:
    """The time of a run by its options. windows: of the calibration. UsageError: a name or a time that is none, or
    both."""
    if effort is not None and time is not None:
        raise UsageError("`effort:` and `time:` both say how long", hint="give one of them")
    if effort is not None and effort not in EFFORTS:
        raise UsageError(f"`effort: {effort}` is not known", hint=f"one of {', '.join(EFFORTS)}")
    if time is not None:
        return Budget(seconds(time), EFFORTS[EFFORT_NAMES[-1]].most(device, windows))
    found = EFFORTS[effort or DEFAULT]
    return Budget(found.seconds[device], found.most(device, windows))
