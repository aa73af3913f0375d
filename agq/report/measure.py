"""What a model does on a text, block by block: ranges of the inputs of its linears, what rounding those costs,
attention to the first token, and how far its hidden states are from the original's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agq.checkpoint import Checkpoint
from agq.models.parts import BlockParts
from agq.numerics.hadamard import fwht
from agq.recipe.pruning import PruningOptions
from agq.reference.attention import Positions, attention_to_first
from agq.reference.block import Block
from agq.reference.decoder import ReferenceModel
from agq.reference.pruning import pruned_states
from agq.report.ratios import Comparison, Ratio

# Inputs of a block by what reads them, in the order of computation.
PLACES = ("attention", "o", "mlp", "down")


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


def middle(values: np.ndarray) -> float:
    """The median of ranges, of those that are not 0: channels that a ReLU keeps silent say nothing. 0 where all are."""
    alive = values[values > 0]
    return float(np.median(alive)) if alive.size else 0.0


def spread(values: np.ndarray) -> float:
    """The largest of some ranges over the median one: 1 where all are alike, large where a few outliers decide about
    the scale that all share. 0 where all are 0."""
    found = middle(values)
    return float(values.max()) / found if found else 0.0


@dataclass
class Observed:
    """One model on the text. inputs: in model order; rounding: module -> what rounding its input costs its output;
    weights: the same of its weights, {} where the original's are not at hand or are transformed;
    attention: of each block, the mean probability that a query gives the first token; kept: tokens that pruning leaves,
    bool [windows, n], None where nothing is pruned."""

    inputs: list[InputRanges] = field(default_factory=list)
    rounding: dict[str, Ratio] = field(default_factory=dict)
    weights: dict[str, Ratio] = field(default_factory=dict)
    attention: list[float] = field(default_factory=list)
    kept: np.ndarray | None = None


def untransformed(checkpoint: Checkpoint) -> bool:
    """A quantized folder's weights are those of the original, rounded: agq.json says how it was made, and of no
    transformation."""
    return bool(checkpoint.agq) and not checkpoint.agq.get("transforms") and bool(checkpoint.quantization)


class _Watch:
    """Sums over the windows of one model."""

    def __init__(self, checkpoint: Checkpoint, length: int) -> None:
        self.model = ReferenceModel(checkpoint)
        self.checkpoint = checkpoint
        self.positions = Positions.of(self.model.spec, length, self.model.device)
        self.channels: dict[tuple[int, str], Tensor] = {}
        self.tokens: dict[tuple[int, str], list[Tensor]] = {}
        self.rounding: dict[str, Ratio] = {}
        self.weights: dict[str, Ratio] = {}
        self.exact: ReferenceModel | None = None  # with the weights that were rounded
        self.first = torch.zeros(self.model.spec.layers, dtype=torch.float64)
        self.queries = 0
        for index, block in enumerate(self.model.blocks):
            block.observe = self._attention(index, block)

    def _attention(self, index: int, block: Block) -> Callable[[Tensor, Tensor], None]:
        scoring = block.scoring(self.positions)

        def add(q: Tensor, k: Tensor) -> None:
            self.first[index] += attention_to_first(q, k, scoring).mean()

        return add

    def begin(self, window: np.ndarray) -> Tensor:
        """The hidden states of tokens, int64 [n], before the first block: float32 [1, n, hidden]."""
        self.queries += len(window)
        return self.model.embedding(torch.from_numpy(window)[None])

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
            if self.exact is not None:
                wanted = self.exact.blocks[block.index].linears[role].weight
                self.weights.setdefault(module, Ratio()).add(read @ wanted.t(), read @ linear.weight.t())
            if torch.equal(read, exact):
                continue
            weight = linear.weight.t()
            self.rounding.setdefault(module, Ratio()).add(exact @ weight, read @ weight)

    def pruned(self, windows: np.ndarray, options: PruningOptions) -> np.ndarray:
        """Which tokens of prompts, int64 [count, n], pruning leaves: bool [count, n]."""
        for block in self.model.blocks:
            block.observe = None
        return np.stack(
            [
                pruned_states(self.model, torch.from_numpy(window), options, protect_wanted=False).kept.numpy()
                for window in windows
            ]
        )

    def observed(self, windows: np.ndarray, options: PruningOptions | None) -> Observed:
        """The sums as figures."""
        statics = self.checkpoint.statics.inputs
        inputs = []
        for (index, place), most in self.channels.items():
            parts = self.checkpoint.parts.block(index)
            module = parts.linears[parts.groups[PLACES.index(place)][0]].module
            exponents = statics[module].exponent if module in statics else None
            tokens = torch.cat(self.tokens[index, place]).numpy()
            inputs.append(InputRanges(index, place, most.numpy(), tokens, exponents))
        kept = None if options is None else self.pruned(windows, options)
        return Observed(inputs, self.rounding, self.weights, (self.first / self.queries).tolist(), kept)


def observe(
    quantized: Checkpoint | None,
    original: Checkpoint | None,
    windows: np.ndarray,
    pruning: PruningOptions | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Observed | None, Observed | None, Comparison | None]:
    """Passes token windows, int64 [count, n], through one or both models.

    pruning: what prunes them as prompts. report: called with (windows done, all). The comparison is None unless both
    are there. AgqError for token ids that a model does not have.
    """
    with torch.inference_mode():
        watches = {side: _Watch(side, windows.shape[1]) for side in (quantized, original) if side is not None}
        first, second = (None if side is None else watches[side] for side in (quantized, original))
        comparison = None
        if first is not None and second is not None:
            first.exact = second.model if untransformed(first.checkpoint) else None
            comparison = Comparison.of(second.model.embedding, first.model.embedding, windows.shape[1])
        for done, window in enumerate(windows, 1):
            states = {watch: watch.begin(window) for watch in watches.values()}
            for index in range(next(iter(states)).model.spec.layers):
                states = {watch: watch.block(index, h) for watch, h in states.items()}
                if comparison is not None and first is not None and second is not None:
                    comparison.add(index, states[second], states[first])
            report(done, len(windows))
        return (
            None if first is None else first.observed(windows, pruning),
            None if second is None else second.observed(windows, pruning),
            comparison,
        )
