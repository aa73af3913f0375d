"""What a comparison says about which model to take: by size and by distance from the original. Speed is not in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from agq.reporting.output import human_size

_SAME_SIZE = 1.01  # sizes within one percent are one size
_ERRORS = 2.0  # distances within so many standard errors of their difference are one distance


@dataclass(frozen=True)
class Candidate:
    """A model: size in bytes, KL divergence from the original in nats, its standard error."""

    name: str
    bytes: int
    kl: float
    kl_stderr: float

    def beats(self, other: Candidate) -> bool:
        """No larger, and nearer to the original by more than the errors."""
        error = math.hypot(self.kl_stderr, other.kl_stderr)
        return self.bytes <= other.bytes * _SAME_SIZE and other.kl - self.kl > _ERRORS * error

    def sentence(self) -> str:
        """Name, distance and size, for people."""
        return f"{self.name} (KL {self.kl:.2g}, {human_size(self.bytes)})"


@dataclass(frozen=True)
class Choice:
    """nearest: to the original. smallest: the nearest among those of the least size. beaten: name of a model -> name of
    the nearest one that is no larger."""

    nearest: Candidate
    smallest: Candidate
    beaten: dict[str, str] = field(default_factory=dict)

    def sentence(self) -> str:
        """For people."""
        if self.nearest == self.smallest:
            found = f"Nearest and smallest: {self.nearest.sentence()}."
        else:
            found = f"Nearest: {self.nearest.sentence()}. Smallest: {self.smallest.sentence()}."
        if self.beaten:
            pairs = ", ".join(f"{by} than {name}" for name, by in self.beaten.items())
            found += f" No larger, and nearer: {pairs}."
        return found


def choose(models: Sequence[Candidate]) -> Choice:
    """What to take of at least one model."""
    nearest = min(models, key=lambda model: model.kl)
    least = min(model.bytes for model in models)
    smallest = min((model for model in models if model.bytes <= least * _SAME_SIZE), key=lambda model: model.kl)
    beaten = {}
    for model in models:
        better = [other for other in models if other.beats(model)]
        if better:
            beaten[model.name] = min(better, key=lambda other: other.kl).name
    return Choice(nearest, smallest, beaten)
