"""Activation-guided token pruning as data: which layers prune, how much, and what becomes of positions (arXiv
2312.05693, Agile-Quant). Plain Python, no torch, no numpy.

Importance of a token at a layer is the attention that it pays to the first token, summed over heads. Each pruning
layer removes floor(r * gamma) of its r tokens, the least important ones, after attention and before its feed-forward
part; with gamma = 1 - (1 - beta)^(1/m) the m layers together remove the share beta.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from agq import structured
from agq.errors import AgqError
from agq.recipe.declaration import PRUNING, option
from agq.structured import Place

POSITIONS = ("safe", "paper")
SCORES = ("fp", "code-compat")
_EXAMPLE = "for example `13-32:0.2`: layers 13 to 32 remove 20 % of the tokens together"


@dataclass(frozen=True)
class PruningOptions:
    """Token pruning of a prompt.

    Attributes:
        layers: layers that prune, counted from 1: "13-32", "9,13-32"; empty: none.
        beta: share of the prompt's tokens that all of them together remove.
        positions: "safe": survivors keep their positions; "paper": each layer numbers its tokens anew from 0, so that
            rotary and ALiBi distances shrink (learned positions are added at the embedding: nothing changes).
        scores: importance from the softmax in floating point ("fp"), or after the 4-bit log2 quantizer ("code-compat").
    """

    layers: str = ""
    beta: float = 0.0
    positions: str = option(
        "safe",
        "What is left keeps its positions (safe, default), or is numbered anew in each layer.",
        name="prune_positions",
        panel=PRUNING,
        metavar="safe|paper",
    )
    scores: str = option(
        "fp",
        "Importance from the softmax as computed (fp, default), or after the 4-bit log2 quantizer.",
        name="prune_scores",
        panel=PRUNING,
        metavar="fp|code-compat",
    )

    def __post_init__(self) -> None:
        blocks = _parse_layers(self.layers)
        if not 0 <= self.beta < 1:
            raise AgqError(f"pruning: beta is {self.beta}, not at least 0 and below 1")
        if self.beta and not blocks:
            raise AgqError("pruning: no layers are named", hint=_EXAMPLE)
        if self.positions not in POSITIONS:
            raise AgqError(f"pruning: unknown positions `{self.positions}`", hint=f"use {' or '.join(POSITIONS)}")
        if self.scores not in SCORES:
            raise AgqError(f"pruning: unknown scores `{self.scores}`", hint=f"use {' or '.join(SCORES)}")

    @classmethod
    def parse(cls, text: str, positions: str = "safe", scores: str = "fp") -> PruningOptions:
        """`LAYERS:BETA`: "13-32:0.2". Raises AgqError."""
        layers, colon, beta = text.strip().rpartition(":")
        try:
            value = float(beta)
        except ValueError:
            value = math.nan
        if not colon or not layers or math.isnan(value):
            raise AgqError(f"`{text}` does not say what to prune", hint=f"write LAYERS:BETA, {_EXAMPLE}")
        return cls(layers, value, positions, scores)

    @classmethod
    def from_dict(cls, data: Any, place: Place | None = None) -> PruningOptions:
        """From the JSON that `to_dict` makes. Raises AgqError."""
        return structured.build(cls, data, place or structured.in_recipe, ())

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return structured.plain(self)

    @classmethod
    def of_record(cls, record: Any) -> PruningOptions | None:
        """What the record of a making (the artifact's `agq.recipe`, a folder's agq.json) says; None: no pruning. Raises
        AgqError."""
        recipe = record.get("recipe") if isinstance(record, dict) else None
        data = recipe.get("pruning") if isinstance(recipe, dict) else None
        if data is None:
            return None
        options = cls.from_dict(data, lambda path: f"recorded pruning, `{structured.dotted(path)}`")
        return options if options.any else None

    @property
    def any(self) -> bool:
        """Some layer may remove tokens."""
        return bool(self.layers) and self.beta > 0

    @property
    def blocks(self) -> tuple[int, ...]:
        """The pruning layers counted from 0, ascending."""
        return _parse_layers(self.layers)

    @property
    def gamma(self) -> float:
        """Share of its tokens that each pruning layer removes."""
        count = len(self.blocks)
        return 1 - (1 - self.beta) ** (1 / count) if count else 0.0

    def check(self, layers: int) -> PruningOptions:
        """These options for a model of `layers` layers. Raises AgqError where they name a layer that it lacks."""
        if self.blocks and self.blocks[-1] >= layers:
            raise AgqError(
                f"pruning names layer {self.blocks[-1] + 1}, the model has {layers}",
                hint=f"layers count from 1 to {layers}",
            )
        return self

    def counts(self, tokens: int, layers: int) -> list[int]:
        """Tokens that are left after each of `layers` layers, of `tokens` at the start; first and last token stay."""
        left, blocks, counts = tokens, set(self.blocks), []
        for index in range(layers):
            if index in blocks:
                left -= min(math.floor(left * self.gamma), max(left - 2, 0))
            counts.append(left)
        return counts

    def sparsity(self, tokens: int, layers: int) -> float:
        """1 - sum of tokens after each layer / (layers * tokens): the share of (token, layer) pairs that is not
        computed."""
        return 1 - sum(self.counts(tokens, layers)) / (layers * tokens)

    def with_sparsity(self, sparsity: float, tokens: int, layers: int) -> PruningOptions | None:
        """The same layers with the least beta (steps of 0.001) that reaches `sparsity`; None where no beta below 0.95
        does."""
        low, high = 0, 950
        if replace(self, beta=high / 1000).sparsity(tokens, layers) < sparsity:
            return None
        while low < high:
            middle = (low + high) // 2
            if replace(self, beta=middle / 1000).sparsity(tokens, layers) >= sparsity:
                high = middle
            else:
                low = middle + 1
        return replace(self, beta=high / 1000)

    def describe(self) -> str:
        """For people: "layers 13-32 remove 20 % of the prompt's tokens, positions safe, scores fp"."""
        if not self.any:
            return "none"
        return (
            f"layers {self.layers} remove {100 * self.beta:g} % of the prompt's tokens, positions {self.positions}, "
            f"scores {self.scores}"
        )


def _parse_layers(text: str) -> tuple[int, ...]:
    """ "9,13-15" -> (8, 12, 13, 14)."""
    found: set[int] = set()
    for part in text.split(",") if text.strip() else ():
        match = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", part)
        if not match:
            raise AgqError(f"pruning: `{text}` does not name layers", hint="write numbers and ranges, such as 9,13-32")
        first, last = int(match[1]), int(match[2] or match[1])
        if first < 1 or last < first:
            raise AgqError(f"pruning: `{part.strip()}` is no range of layers", hint="layers count from 1")
        found.update(range(first - 1, last))
    return tuple(sorted(found))
