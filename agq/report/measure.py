"""What a model does on a text, block by block: ranges of the inputs of its linears, what rounding those costs,
attention to the first token, and how far its hidden states are from the original's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agq.checkpoint import Checkpoint
from agq.models.parts import BlockParts
from agq.numerics.hadamard import fwht
from agq.reference.attention import Positions, attention_to_first
from agq.reference.block import Block
from agq.reference.decoder import Embedding, ReferenceModel

# Inputs of a block by what reads them, in the order of computation.
PLACES = ("attention", "o", "mlp", "down")
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
class InputRanges:
    """Ranges of an input, after its online transform and before its quantizer.

    channels: largest |x| of each channel, float32 [channels]; tokens: largest |x| of each token, float32 [tokens].
    exponents: of TRIP, uint8 [channels]; None: the input has none.
    """

    block: int
    place: str
    channels: np.ndarray
    tokens: np.ndarray
    exponents: np.ndarray | None = None

    @property
    def after_trip(self) -> np.ndarray:
        """`channels` in steps of each channel's own power of two: what one scale has to cover."""
        return self.channels if self.exponents is None else self.channels / np.exp2(self.exponents.astype(np.float32))


def spread(values: np.ndarray) -> float:
    """The largest of some ranges over their median: 1 where all are alike, large where a few outliers decide about the
    scale that all share. 0 where the median is 0."""
    middle = float(np.median(values))
    return float(values.max()) / middle if middle > 0 else 0.0


@dataclass
class Observed:
    """One model on the text. inputs: in model order; rounding: module -> what rounding its input costs its output;
    attention: of each block, the mean probability that a query gives the first token."""

    inputs: list[InputRanges] = field(default_factory=list)
    rounding: dict[str, Ratio] = field(default_factory=dict)
    attention: list[float] = field(default_factory=list)


@dataclass
class Comparison:
    """Hidden states against the original's. blocks: after each of them; reason: why there are none, else ""."""

    blocks: list[Ratio] = field(default_factory=list)
    reason: str = ""


class _Watch:
    """Sums over the windows of one model."""

    def __init__(self, checkpoint: Checkpoint, length: int) -> None:
        self.model = ReferenceModel(checkpoint)
        self.checkpoint = checkpoint
        self.positions = Positions.of(self.model.spec, length, self.model.device)
        self.channels: dict[tuple[int, str], Tensor] = {}
        self.tokens: dict[tuple[int, str], list[Tensor]] = {}
        self.rounding: dict[str, Ratio] = {}
        self.first = torch.zeros(self.model.spec.layers, dtype=torch.float64)
        self.queries = 0
        for index, block in enumerate(self.model.blocks):
            block.observe = self._attention(index, block)

    def _attention(self, index: int, block: Block) -> Callable[[Tensor, Tensor], None]:
        scoring = block.scoring(self.positions)

        def add(q: Tensor, k: Tensor) -> None:
            self.first[index] += attention_to_first(q, k, scoring).mean()

        return add

    def block(self, index: int, h: Tensor) -> Tensor:
        """Hidden states float32 [1, n, hidden] behind a block; what its linears read is added to the sums."""
        block, parts = self.model.blocks[index], self.checkpoint.parts.block(index)
        inputs, out = block.inputs(h, self.positions)
        for place, roles, x in zip(PLACES, parts.groups, inputs.values(), strict=True):
            linear = block.linears[roles[0]]
            x = fwht(x, linear.hadamard) if linear.hadamard else x
            size = x.abs()
            key = (index, place)
            most = size.flatten(0, -2).amax(dim=0)
            self.channels[key] = torch.maximum(self.channels[key], most) if key in self.channels else most
            self.tokens.setdefault(key, []).append(size.amax(dim=-1).flatten())
        for roles, x in zip(parts.groups, inputs.values(), strict=True):
            self._round(block, parts, roles, x)
        return out

    def _round(self, block: Block, parts: BlockParts, roles: Sequence[str], x: Tensor) -> None:
        for role in roles:
            linear, module = block.linears[role], parts.linears[role].module
            exact = fwht(x, linear.hadamard) if linear.hadamard else x
            read = linear.transform(x)
            if torch.equal(read, exact):
                continue
            weight = linear.weight.t()
            self.rounding.setdefault(module, Ratio()).add(exact @ weight, read @ weight)

    def observed(self) -> Observed:
        """The sums as figures."""
        statics = self.checkpoint.statics.inputs
        inputs = []
        for (index, place), most in self.channels.items():
            parts = self.checkpoint.parts.block(index)
            module = parts.linears[parts.groups[PLACES.index(place)][0]].module
            exponents = statics[module].exponent if module in statics else None
            tokens = torch.cat(self.tokens[index, place]).numpy()
            inputs.append(InputRanges(index, place, most.numpy(), tokens, exponents))
        return Observed(inputs, self.rounding, (self.first / self.queries).tolist())


@torch.inference_mode()
def observe(
    quantized: Checkpoint | None,
    original: Checkpoint | None,
    windows: np.ndarray,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Observed | None, Observed | None, Comparison | None]:
    """Passes token windows, int64 [count, n], through one or both models.

    report: called with (windows done, all). The comparison is None unless both are there. AgqError for token ids that a
    model does not have.
    """
    watches = [None if item is None else _Watch(item, windows.shape[1]) for item in (quantized, original)]
    first, second = watches
    comparison, turn = None, None
    if first is not None and second is not None:
        turn, reason = _turn(second.model.embedding, first.model.embedding, windows.shape[1])
        comparison = Comparison([] if reason else [Ratio() for _ in first.model.blocks], reason)
    for done, window in enumerate(windows, 1):
        states = [None if watch is None else watch.model.embedding(torch.from_numpy(window)[None]) for watch in watches]
        for index in range(next(watch for watch in watches if watch is not None).model.spec.layers):
            for side, watch in enumerate(watches):
                if watch is not None:
                    states[side] = watch.block(index, states[side])
            if comparison is not None and comparison.blocks and states[0] is not None and states[1] is not None:
                exact = states[1].double() if turn is None else states[1].double() @ turn
                comparison.blocks[index].add(exact, states[0])
        for watch in watches:
            if watch is not None:
                watch.queries += len(window)
        report(done, len(windows))
    return (
        None if first is None else first.observed(),
        None if second is None else second.observed(),
        comparison,
    )


def _turn(original: Embedding, quantized: Embedding, length: int) -> tuple[Tensor | None, str]:
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
