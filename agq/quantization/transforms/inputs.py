"""What the search for a transformation knows of the inputs of a block's linears: a sample, and sums over all tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agq.quantization.transforms.plan import PLACES
from agq.reference.attention import Positions
from agq.reference.block import Block
from agq.reference.stream import HiddenStates

# Tokens of each input on which candidates are compared, evenly spaced.
SAMPLE_TOKENS = 1024


@dataclass
class Input:
    """What the linears at a place read. sample: float32 [SAMPLE_TOKENS, channels]; energy, mean: of x^2 and of x,
    float64 [channels]."""

    sample: Tensor
    energy: Tensor
    mean: Tensor


def gather(block: Block, hidden: HiddenStates, positions: Positions, sinks: int) -> dict[str, Input]:
    """The inputs of a block's linears by place; the hidden states move on to the next block.

    sinks: first tokens of each window that do not count where there are others: they have a format of their own, and
    their massive values would decide for all.
    """
    skipped = sinks if sinks < hidden.length else 0
    length = hidden.length - skipped
    samples: dict[str, list[Tensor]] = {place: [] for place in PLACES}
    sums: dict[str, Tensor] = {}
    total = hidden.states.shape[0] * length
    wanted = torch.linspace(0, total - 1, min(total, SAMPLE_TOKENS)).long()
    for part in hidden.parts():
        h = hidden.get(part)
        inputs, out = block.inputs(h, positions)
        first = part.start * length
        here = wanted[(wanted >= first) & (wanted < first + h.shape[0] * length)] - first
        for place, x in zip(PLACES, inputs.values(), strict=True):
            x = x[:, skipped:].reshape(-1, x.shape[-1])
            samples[place].append(x[here.to(x.device)])
            both = torch.stack((x.square().sum(dim=0, dtype=torch.float64), x.sum(dim=0, dtype=torch.float64)))
            sums[place] = sums[place] + both if place in sums else both
        hidden.set(part, out)  # last: without a norm before it attention reads the hidden states themselves
    return {place: Input(torch.cat(samples[place]), *(sums[place] / total)) for place in PLACES}
