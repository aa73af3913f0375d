"""Signal-to-quantization-noise ratios, and the hidden states of a model against the original's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from agq.reference.decoder import Embedding

# Embeddings of two forms of a model that differ by more than this share of their size are not taken for the same.
_ALIKE = 0.05
# Rows of the embedding for each channel that a map between two residual streams is fitted to, at least.
_ROWS = 4


def sqnr(energy: float, error: float) -> float:
    """Signal-to-quantization-noise ratio in dB: 10 log10(energy / error), sums of squares of the exact values and of
    the differences. Infinite where nothing differs."""
    if error <= 0:
        return math.inf
    return 10 * math.log10(energy / error) if energy > 0 else -math.inf


@dataclass
class Ratio:
    """Sums of squares: of exact values, and of what differs from them."""

    energy: float = 0.0
    error: float = 0.0

    def add(self, exact: Tensor, found: Tensor) -> None:
        """Float tensors of one shape."""
        self.energy += float(exact.double().square().sum())
        self.error += float((found.double() - exact.double()).square().sum())

    @property
    def sqnr(self) -> float:
        """In dB."""
        return sqnr(self.energy, self.error)


@dataclass
class Comparison:
    """Hidden states against the original's. blocks: after each of them; [] where they cannot be compared; reason: why,
    else "". map: see `turn`."""

    blocks: list[Ratio] = field(default_factory=list)
    reason: str = ""
    map: Tensor | None = None

    @classmethod
    def of(cls, original: Embedding, quantized: Embedding, length: int) -> Comparison:
        """An empty one of two models, for windows of `length` tokens."""
        found, reason = turn(original, quantized, length)
        return cls([] if reason else [Ratio() for _ in range(original.spec.layers)], reason, found)

    def add(self, index: int, exact: Tensor, found: Tensor) -> None:
        """Hidden states float32 [1, n, hidden] behind a block, of the original and of the other."""
        if self.blocks:
            turned = exact.double() if self.map is None else exact.double() @ self.map
            self.blocks[index].add(turned, found)


def turn(original: Embedding, quantized: Embedding, length: int) -> tuple[Tensor | None, str]:
    """The map from the original's hidden states to those of a form that was rotated, float64 [hidden, hidden] (None:
    they are the same), and why there is none, else "".

    A transformation turns all hidden states alike, those of the embedding too, so the map is fitted to the embedding by
    least squares.
    """
    vocabulary, hidden = original.table.shape[0], original.spec.hidden
    count = min(vocabulary, max(_ROWS * hidden, 4096)) // length * length or min(vocabulary, length)
    chosen = torch.linspace(0, vocabulary - 1, count).long().reshape(-1, min(length, count))
    before, after = (torch.cat([side(row[None])[0] for row in chosen]).double() for side in (original, quantized))
    if before.shape != after.shape:
        return None, "the original has another width"
    size = float(before.norm())
    if float((before - after).norm()) < _ALIKE * size:
        return None, ""
    if count < 2 * hidden:
        return None, f"{count} embeddings do not tell how {hidden} channels were rotated"
    found = torch.linalg.lstsq(before, after).solution
    if float((before @ found - after).norm()) > _ALIKE * float(after.norm()):
        return None, "the embeddings of both are not the same up to a rotation"
    return found, ""
