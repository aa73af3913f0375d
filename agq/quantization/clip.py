"""The clip search of 4-bit activations: a smaller range has finer steps and cuts off what lies outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from agq.numerics.quantizers import fake_quantize

if TYPE_CHECKING:
    from agq.recipe import ActivationScheme

# Shares of the range that are tried; ties go to the larger one.
CLIP_GRID = (1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.88, 0.86, 0.84, 0.82, 0.8)
# Tokens of a sample that are used, evenly spaced.
CLIP_TOKENS = 2048


def search_clip(sample: Tensor, weights: Sequence[Tensor], scheme: ActivationScheme) -> float:
    """The share of the range with which the quantized input changes the outputs of its linears least, in squares.

    sample: float32 [..., channels], inputs before the quantizer; weights: float32 [out, channels], of all linears that
        read them.
    """
    x = sample.reshape(-1, sample.shape[-1])
    x = x[torch.linspace(0, x.shape[0] - 1, min(x.shape[0], CLIP_TOKENS), device=x.device).long()]
    columns = scheme.group_size.columns(x.shape[1])
    best, least = 1.0, float("inf")
    for clip in CLIP_GRID:
        error = fake_quantize(x, scheme.bits, scheme.symmetric, columns, clip) - x
        total = sum(float((error @ weight.t()).square().sum(dtype=torch.float64)) for weight in weights)
        if total < least:
            best, least = clip, total
    return best
