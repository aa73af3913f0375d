"""What is computed for the channels of one input: their exponents and their order.

Exponents: the channel scale s_j = rms(x_j)^a / rms(w_j)^(1 - a), rounded to a power of two, with x_j the channel's
values and w_j the columns that read it. a = 1/2 is the optimum of a diagonal transformation for weights and activations
of equal precision (arXiv 2603.04359); larger a move more of the difference into the weights. A factor c between two
linears (x_j c, w_j / c) is undone by every member of the family, whatever c is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agq.models import ModelSpec

# Exponents lie between plus and minus this.
LARGEST_EXPONENT = 15


def by_value_channel(channels: Tensor, spec: ModelSpec) -> Tensor:
    """[heads * head_dim] -> [kv_heads, query heads of a group, head_dim]."""
    return channels.reshape(spec.kv_heads, spec.heads // spec.kv_heads, spec.head_dim)


def channel_exponents(energy: Tensor, columns: Tensor, alpha: float) -> np.ndarray:
    """log2 of rms(x)^alpha / rms(w)^(1 - alpha) with its median taken out, rounded: int8 [channels].

    energy: mean of x^2 of each channel; columns: sum of the squares of the weights that read it, both float64
    [channels]. Channels without values or without weights get 0.
    """
    alive = (energy > 0) & (columns > 0)
    log = torch.zeros_like(energy)
    log[alive] = 0.5 * alpha * torch.log2(energy[alive]) - 0.5 * (1 - alpha) * torch.log2(columns[alive])
    if bool(alive.any()):
        log[alive] -= log[alive].median()
    return log.round().clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).to(torch.int8).cpu().numpy()


def zigzag(sizes: np.ndarray, block: int) -> np.ndarray:
    """A permutation int32 [channels] that gives each block of `block` channels its share of large and small ones."""
    blocks = len(sizes) // block
    order = np.argsort(-sizes, kind="stable").reshape(block, blocks)
    order[1::2] = order[1::2, ::-1].copy()
    return np.ascontiguousarray(order.T).reshape(-1).astype(np.int32)
