"""Whether a model fits into so much memory: with which scheme, which KV cache, and how many tokens of context."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agq.artifact.schema import ArtifactModel
from agq.formats import words
from agq.formats.cache import CACHES, LOG2_CACHE
from agq.planning import sizes
from agq.planning.recommend import Candidate

# Tokens of context below which a model is of no use: a prompt and an answer.
LEAST_CONTEXT = 512


@dataclass(frozen=True)
class Fit:
    """A format with a width of the cache.

    Attributes:
        context: the most positions, at most the model's; 0: not even the weights fit. fits: as many as are wanted.
        memory: with `context` positions, or with those that are wanted where it is less.
    """

    candidate: Candidate
    kv_bits: int
    context: int
    fits: bool
    memory: sizes.Memory

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        artifact = self.candidate.artifact
        return {
            "scheme": self.candidate.scheme,
            "formats": words.linear(*self.candidate.model.linears["blocks.0.qkv"].words()),
            "artifact": None if artifact is None else str(artifact.path),
            "kv_bits": self.kv_bits,
            "context": self.context,
            "fits": self.fits,
            "memory": self.memory.to_dict(),
        }


def fits(found: Iterable[Candidate], limit: int, wanted: int) -> list[Fit]:
    """Each candidate with each width of the cache, held to `limit` bytes. wanted: tokens of context."""
    rows = []
    for item in found:
        for bits in _widths(item.model):
            taken = sizes.Footprint(item.model, bits)
            context = longest(taken, item.model.spec.context, limit)
            rows.append(Fit(item, bits, context, context >= wanted, taken.at(max(context, wanted))))
    return rows


def _widths(model: ArtifactModel) -> list[int]:
    """Widths of the cache that the model can have, wide ones first."""
    if model.attention == "log2":
        return [LOG2_CACHE.bits]
    return sorted(CACHES, reverse=True)


def longest(taken: sizes.Footprint, whole: int, limit: int) -> int:
    """The most positions of one sequence, at most `whole`, that `limit` bytes hold; 0: none."""
    return bisect.bisect_right(range(1, whole + 1), limit, key=lambda count: taken.at(count).peak)


def best(rows: list[Fit]) -> Fit | None:
    """Of those that fit the one with the most bits of weights, then of the cache; without one, that with the longest
    context. None: nothing holds a single token."""
    good = [row for row in rows if row.fits]
    if good:
        return max(good, key=lambda row: (row.memory.weights, not row.candidate.coarse, row.kv_bits))
    some = [row for row in rows if row.context]
    return max(some, key=lambda row: row.context, default=None)
