"""Windows of text on their way through the decoder blocks: their hidden states, and one block's stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from agq.errors import AgqError
from agq.reference.attention import Positions
from agq.reference.block import Block
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

    def check_finite(self, index: int) -> None:
        """AgqError where they are not finite after block `index`."""
        if not all(torch.isfinite(self.states[part]).all() for part in self.parts()):
            raise AgqError(
                f"the hidden states after block {index + 1} are not finite on the calibration text",
                hint="the model is damaged, or its activations are too large for float32",
            )

    def advance(self, block: Block, positions: Positions) -> None:
        """Passes all windows through a block."""
        for part in self.parts():
            self.set(part, block(self.get(part), positions))


@dataclass
class Stream:
    """A block and the hidden states that pass through it in four stages: the inputs of the attention's linears, of its
    output, of the feed-forward's first and of its second linears."""

    block: Block
    hidden: HiddenStates
    positions: Positions

    def parts(self) -> Iterator[slice]:
        return self.hidden.parts()

    def input(self, stage: int, part: slice) -> Tensor:
        """What the linears of a stage read, before their input transforms. Stages are asked for in order, each part
        once."""
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
            if not block.spec.parallel:  # there attention's part of the sum waits for `finish`
                h = self._attended(h, part)
                hidden.set(part, h)
            return block.mlp_input(h, h)
        return block.mlp_hidden(block.mlp_input(h, h))

    def _attended(self, h: Tensor, part: slice) -> Tensor:
        """The hidden states after attention, of those before it."""
        block, hidden = self.block, self.hidden
        context = hidden.contexts(block.linears["o"].weight.shape[1])[part].to(hidden.device)
        return block.after_attention(h, block.attention_input(h), context)

    def finish(self) -> None:
        """From the second stage's hidden states to the block's output."""
        block = self.block
        for part in self.parts():
            h = self.hidden.get(part)
            x = block.mlp_input(h, h)
            u = block.mlp_hidden(x)
            a = self._attended(h, part) if block.spec.parallel else h
            self.hidden.set(part, block.after_mlp(a, x, u))

    def advance(self) -> None:
        self.hidden.advance(self.block, self.positions)
