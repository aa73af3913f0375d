"""Calibration windows on their way through a decoder block: their hidden states, and the stages at which the linears that read
the same input are quantized, so that later ones see what the earlier ones really put out ("true-sequential")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from agq.quantization.gptq import Hessian
from agq.quantization.transforms.hadamard import fwht
from agq.reference.attention import Positions
from agq.reference.block import Block, Linear
from agq.reference.decoder import Embedding

# Tokens that pass through a block at once.
BATCH_TOKENS = 4096


class HiddenStates:
    """Hidden states of all calibration windows, float32 [windows, n, hidden], cut into batches of whole windows.

    make: allocates a float32 tensor of a shape (in memory, or a file mapped into memory when there is too little).
    """

    def __init__(
        self,
        windows: Tensor,
        embedding: Embedding,
        device: torch.device,
        make: Callable[[tuple[int, ...]], Tensor] = lambda shape: torch.empty(shape),
    ) -> None:
        count, length = windows.shape
        self.device = device
        self.length = length
        self.step = max(1, BATCH_TOKENS // length)
        self._make = make
        self.states = make((count, length, embedding.spec.hidden))
        self._contexts: Tensor | None = None
        for part in self.parts():
            self.states[part] = embedding(windows[part].to(device)).to(self.states.device)

    def parts(self) -> Iterator[slice]:
        """The batches, always the same ones in the same order."""
        return (slice(start, start + self.step) for start in range(0, self.states.shape[0], self.step))

    def get(self, part: slice) -> Tensor:
        return self.states[part].to(self.device)

    def set(self, part: slice, value: Tensor) -> None:
        self.states[part] = value.to(self.states.device)

    def contexts(self, width: int) -> Tensor:
        """A second buffer, float32 [windows, n, width], for what attention puts out."""
        if self._contexts is None or self._contexts.shape[-1] != width:
            self._contexts = self._make((*self.states.shape[:2], width))
        return self._contexts

    def advance(self, block: Block, positions: Positions) -> None:
        """Passes all windows through a block."""
        for part in self.parts():
            self.set(part, block(self.get(part), positions))


@dataclass
class Stream:
    """A block and the hidden states that pass through it in four stages: the inputs of the attention's linears, of its output, of the
    feed-forward's first and of its second linears."""

    block: Block
    hidden: HiddenStates
    positions: Positions

    def parts(self) -> Iterator[slice]:
        return self.hidden.parts()

    def input(self, stage: int, part: slice) -> Tensor:
        """What the linears of a stage read, before their input transforms. Stages are asked for in order, each part once."""
        block, hidden = self.block, self.hidden
        h = hidden.get(part)
        if stage == 0:
            return block.attention_input(h)
        if stage == 1:
            contexts = hidden.contexts(block.linears["o"].weight.shape[1])
            context = block.context(block.attention_input(h), self.positions)
            contexts[part] = context.to(contexts.device)
            return context
        if stage == 2:
            context = hidden.contexts(block.linears["o"].weight.shape[1])[part].to(hidden.device)
            h = block.after_attention(h, block.attention_input(h), context)
            hidden.set(part, h)
            return block.mlp_input(h)
        return block.mlp_hidden(block.mlp_input(h))

    def finish(self) -> None:
        """From the second stage's hidden states to the block's output."""
        for part in self.parts():
            h = self.hidden.get(part)
            x = self.block.mlp_input(h)
            self.hidden.set(part, self.block.after_mlp(h, x, self.block.mlp_hidden(x)))

    def advance(self) -> None:
        self.hidden.advance(self.block, self.positions)


# Called with roles that share an input: with a sample of it before it is gathered (it may change the linears' input transforms), and
# with its Hessian afterwards (it may change their weights).
Choose = Callable[[tuple[str, ...], Tensor], None]
Solve = Callable[[tuple[str, ...], Hessian], None]


def rotated(linear: Linear, x: Tensor) -> Tensor:
    """The input of a linear as its activation quantizer sees it."""
    return fwht(x, linear.hadamard) if linear.hadamard else x


def run_stages(stream: Stream, target: Stream | None, groups: tuple[tuple[str, ...], ...], choose: Choose, solve: Solve) -> None:
    """Passes all windows through a block; between two stages `solve` may replace the weights of the stage's linears.

    target: the float model's stream, whose inputs GPTAQ aims at; it advances too.
    """
    for stage, roles in enumerate(groups):
        linear = stream.block.linears[roles[0]]
        hessian = Hessian(linear.weight.shape[1], stream.hidden.device, cross=target is not None)
        for index, part in enumerate(stream.parts()):
            x = stream.input(stage, part)
            if index == 0:
                choose(roles, rotated(linear, x))
            wanted = None
            if target is not None:
                wanted = rotated(linear, target.input(stage, part))
            hessian.add(linear.transform(x), wanted)
        solve(roles, hessian)
    stream.finish()
    if target is not None:
        target.finish()


def gather_hessians(
    stream: Stream, target: Stream | None, groups: tuple[tuple[str, ...], ...], choose: Choose
) -> list[tuple[tuple[str, ...], Hessian]]:
    """Hessians of all groups of linears of an unchanged block; the hidden states are not advanced."""
    linears, device = stream.block.linears, stream.hidden.device
    found = {roles[0]: (roles, Hessian(linears[roles[0]].weight.shape[1], device, target is not None)) for roles in groups}
    for index, part in enumerate(stream.parts()):
        inputs, _ = stream.block.inputs(stream.hidden.get(part), stream.positions)
        wanted = target.block.inputs(target.hidden.get(part), target.positions)[0] if target is not None else {}
        for roles, hessian in found.values():
            linear = linears[roles[0]]
            if index == 0:
                choose(roles, rotated(linear, inputs[roles[0]]))
            hessian.add(linear.transform(inputs[roles[0]]), rotated(linear, wanted[roles[0]]) if wanted else None)
    return list(found.values())
