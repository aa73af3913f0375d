"""Calibration of static activations: the windows pass through the quantized weights, block by block, with activations
in floating point; each block's inputs are looked at twice, first for their ranges, then for the exponents of their
channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agq.checkpoint.attention_scales import AttentionScales
from agq.checkpoint.static import StaticInput, StaticRecord
from agq.errors import AgqError
from agq.models.parts import BlockParts
from agq.numerics.trip import LEAST_SCALE, TripObserver, symmetric_scale
from agq.recipe.agile import AgileOptions
from agq.recipe.pruning import PruningOptions
from agq.reference.attention import Positions
from agq.reference.block import Block
from agq.reference.decoder import Embedding, Parameters
from agq.reference.pruning import choose_victims, importance, layer_positions


@dataclass
class Window:
    """One calibration window on its way: hidden states float32 [1, tokens, hidden], and which of its tokens they
    are."""

    hidden: Tensor
    alive: Tensor


# How a window passes through block `index`: what its linears read, by their first role, and q, k, v as the scores see
# them ([1, heads, tokens, head_dim]); then the window behind the block. Token pruning is another function of this type.
Step = Callable[[int, Block, Window], tuple[dict[str, Tensor], Window]]


def plain_step(positions: Positions) -> Step:
    """All tokens stay."""

    def step(index: int, block: Block, window: Window) -> tuple[dict[str, Tensor], Window]:
        del index
        block.capture = {}
        inputs, hidden = block.inputs(window.hidden, positions)
        seen, block.capture = {**inputs, **block.capture}, None
        return seen, Window(hidden, window.alive)

    return step


def pruning_step(positions: Positions, options: PruningOptions, layers: int) -> Step:
    """Tokens are pruned as in a prompt, the first and the last one kept: ranges are those of the tokens that reach a
    layer.

    Raises AgqError for layers that the model lacks.
    """
    pruning_blocks = set(options.check(layers).blocks)

    def step(index: int, block: Block, window: Window) -> tuple[dict[str, Tensor], Window]:
        hidden, alive = window.hidden, window.alive
        shares: list[Tensor] | None = [] if index in pruning_blocks else None
        block.capture = {}
        x = block.attention_input(hidden)
        context = block.context(x, layer_positions(positions, alive, options), shares)
        before, hidden = hidden, block.after_attention(hidden, x, context)
        if shares:
            pinned = torch.zeros(alive.numel(), dtype=torch.bool)
            pinned[0] = pinned[-1] = True
            victims = choose_victims(importance(shares[0], options), pinned, options.gamma)
            before, hidden, alive = before[:, ~victims], hidden[:, ~victims], alive[~victims]
        read = block.mlp_input(before, hidden)
        inner = block.mlp_hidden(read)
        seen, block.capture = (
            {**dict(zip(block.groups(), (x, context, read, inner), strict=True)), **block.capture},
            None,
        )
        return seen, Window(block.after_mlp(hidden, read, inner), alive)

    return step


class _Absolute:
    """Largest magnitude along all dimensions but one."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._amax: Tensor | None = None

    def __call__(self, x: Tensor) -> None:
        amax = x.abs().movedim(self.dimension, 0).flatten(1).amax(dim=1)
        self._amax = amax if self._amax is None else torch.maximum(self._amax, amax)

    @property
    def amax(self) -> Tensor:
        """Of all that was seen, of which there must be something."""
        assert self._amax is not None
        return self._amax


def calibrate(
    parameters: Parameters,
    weights: Callable[[int], dict[str, Tensor]],
    windows: Tensor,
    options: AgileOptions,
    quantized: Callable[[str], bool],
    pruning: PruningOptions | None = None,
    progress: Callable[[int], None] = lambda index: None,
) -> StaticRecord:
    """The static quantizers of a whole model.

    weights: of a block the quantized weights by role, float32 [out, in]; windows: int64 [windows, n]; quantized:
    whether the input of a module is to be quantized; pruning: tokens that are left out on the way; progress: called
    after each block with its index.
    Raises AgqError where activations are not finite, or for pruning layers that the model lacks.
    """
    spec = parameters.spec
    inputs: dict[str, StaticInput] = {}
    attention: list[AttentionScales] = []
    heads: list[dict[str, np.ndarray]] = []
    with torch.inference_mode():
        positions = Positions.of(spec, windows.shape[1], parameters.device)
        if pruning is not None and pruning.any:
            step = pruning_step(positions, pruning, spec.layers)
        else:
            step = plain_step(positions)
        embedding = Embedding(parameters)
        alive = torch.arange(windows.shape[1])
        states = [Window(embedding(window[None].to(parameters.device)), alive) for window in windows]
        for index in range(spec.layers):
            block, parts = parameters.block(index), parameters.parts.block(index)
            for role, weight in weights(index).items():
                block.linears[role].weight = weight.to(parameters.device)
            try:
                if options.mode == "trip":
                    found, scales = _trip_block(index, block, parts, states, step, options)
                    attention.append(scales)
                else:
                    found, head_scales = _channel_block(index, block, parts, states, step, options)
                    heads.append(head_scales)
            except ValueError as error:
                raise AgqError(f"block {index}: {error}", hint="is the model's checkpoint damaged?") from None
            inputs.update({module: item for module, item in found.items() if quantized(module)})
            progress(index)
    if options.softmax_bits == 0:
        attention, heads = [], []
    return StaticRecord(inputs, attention or None, heads or None)


def _seen(block: Block, seen: dict[str, Tensor], role: str) -> Tensor:
    """The input of a role as its quantizer gets it."""
    linear = block.linears.get(role)
    return seen[role] if linear is None else linear.transform(seen[role])


def _trip_block(
    index: int, block: Block, parts: BlockParts, states: list[Window], step: Step, options: AgileOptions
) -> tuple[dict[str, StaticInput], AttentionScales]:
    """TRIP for the inputs and the values of one block; the windows are moved behind it."""
    share = options.percentile if options.observer == "percentile" else 1.0
    observers = {roles[0]: TripObserver(options.bits(roles[0]), options.k, share) for roles in parts.groups}
    observers["v*"] = TripObserver(8, min(options.k, 3), share)
    queries, keys = _Absolute(1), _Absolute(1)
    for window in states:
        seen, _ = step(index, block, window)
        for role, observer in observers.items():
            observer.range(_values(seen) if role == "v*" else _seen(block, seen, role))
        queries(seen["q*"])
        keys(seen["k*"])
    for observer in observers.values():
        observer.settle()
    for number, window in enumerate(states):
        seen, states[number] = step(index, block, window)
        for role, observer in observers.items():
            observer.errors(_values(seen) if role == "v*" else _seen(block, seen, role))
    found: dict[str, StaticInput] = {}
    for roles in parts.groups:
        quantizer = observers[roles[0]].quantizer()
        item = StaticInput(quantizer.bits, quantizer.scale, quantizer.zero, quantizer.alpha.numpy())
        found.update({parts.linears[role].module: item for role in roles})
    values = observers["v*"].quantizer()
    q_scale, k_scale = ((amax.amax / 127).clamp(min=LEAST_SCALE).cpu().numpy() for amax in (queries, keys))
    return found, AttentionScales(q_scale, k_scale, values.scale, values.zero, values.alpha.numpy())


def _values(seen: dict[str, Tensor]) -> Tensor:
    """[1, kv_heads, n, head_dim] -> [n, kv_heads * head_dim]: the channels of V in the order of the projection's
    rows."""
    return seen["v*"][0].transpose(0, 1).flatten(1)


def _channel_block(
    index: int, block: Block, parts: BlockParts, states: list[Window], step: Step, options: AgileOptions
) -> tuple[dict[str, StaticInput], dict[str, np.ndarray]]:
    """The released code's quantizers: symmetric per channel; q, k, v per head before rotary positions."""
    inputs = {roles[0]: _Absolute(-1) for roles in parts.groups}
    heads = {name: _Absolute(1) for name in "qkv"}
    raw: dict[str, Tensor] = {}

    def look(name: str, x: Tensor) -> Tensor:
        raw[name] = x
        return x

    block.heads = look
    for number, window in enumerate(states):
        seen, states[number] = step(index, block, window)
        for role, observer in inputs.items():
            observer(_seen(block, seen, role))
        for name, observer in heads.items():
            observer(raw[name])
    block.heads = None
    found: dict[str, StaticInput] = {}
    for roles in parts.groups:
        amax = inputs[roles[0]].amax
        if not torch.isfinite(amax).all():
            raise ValueError("calibration data is not finite")
        bits = options.bits(roles[0])
        item = StaticInput(bits, channel_scale=symmetric_scale(amax, bits).cpu().numpy())
        found.update({parts.linears[role].module: item for role in roles})
    return found, {name: symmetric_scale(observer.amax, 8).cpu().numpy() for name, observer in heads.items()}
