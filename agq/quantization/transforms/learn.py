"""Rotations turned by gradient descent until the activations that they give have the smallest quantization step.

A seeded Hadamard rotation spreads what is random. What is the same for all tokens, or moves along a few directions
(positions, a token's first appearance), lands on the channels as it falls; a further rotation can lay it flat.
Minimised is the mean square of the ranges (largest less smallest value, as an asymmetric grid covers them) of the
groups that are quantized, each input weighed by how much a unit of noise in it moves the outputs of what reads it: the
error of a layer's output is that step squared times the weight, for any rotation. No gradient passes through the model
(unlike SpinQuant, arXiv 2405.16406; KurTail, arXiv 2503.01483, descends on kurtosis in the same way).

Rotations are Cayley transforms (I - K)(I + K)^-1 of skew K, started at the identity and put after the Hadamard
rotation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# The residual stream's rotation is learned whole up to this width, in blocks of BLOCK channels above: a step inverts
# the matrix.
WHOLE = 1024
BLOCK = 128
LEARNING_RATE = 0.01
# Tokens of each input in one step.
BATCH = 512


def block_size(hidden: int) -> int:
    """Channels of a block of the learned rotation of the residual stream."""
    return hidden if hidden <= WHOLE else math.gcd(hidden, BLOCK)


def cayley(free: Tensor, keep_mean: bool = False) -> Tensor:
    """Rotations [..., n, n] of unconstrained matrices of that shape. keep_mean: they map the vector of ones to itself,
    as LayerNorm needs."""
    if keep_mean:
        free = free - free.mean(dim=-1, keepdim=True)
        free = free - free.mean(dim=-2, keepdim=True)
    skew = free - free.transpose(-1, -2)
    one = torch.eye(free.shape[-1], dtype=free.dtype, device=free.device)
    return torch.linalg.solve(one + skew, one - skew)


def ranges(x: Tensor, group: int) -> Tensor:
    """Squared range of each group of `group` channels. x: [..., channels]; returns [..., groups]."""
    x = x.reshape(*x.shape[:-1], -1, group)
    return (x.amax(dim=-1).clamp(min=0) - x.amin(dim=-1).clamp(max=0)).square()


def learn_residual(
    samples: list[Tensor],
    weights: list[float],
    group: int,
    steps: int,
    keep_mean: bool,
    told: Callable[[], None] = lambda: None,
) -> Tensor | None:
    """The rotation after R1, float32 [blocks, b, b] of consecutive channels; None where the descent diverged.

    samples: what reads the residual stream, already under R1, float32 [tokens, hidden] each; weights: of each sample;
    group: channels of a quantization group; keep_mean: see `cayley`; told: called after each step.
    """
    hidden = samples[0].shape[1]
    size = block_size(hidden)

    def turned(sample: Tensor, rotation: Tensor) -> Tensor:
        return torch.einsum("tbi,bij->tbj", sample.reshape(-1, hidden // size, size), rotation).reshape(-1, hidden)

    def loss(rotation: Tensor, pick: Tensor) -> Tensor:
        return sum(
            weight * ranges(turned(sample[pick], rotation), group).mean()
            for sample, weight in zip(samples, weights, strict=True)
        )

    free = torch.zeros(hidden // size, size, size, device=samples[0].device)
    return _descend(free, loss, samples[0].shape[0], steps, keep_mean, told)


def learn_values(sample: Tensor, group: int, steps: int, kv_heads: int, head_dim: int) -> Tensor | None:
    """The rotation after R2 of one block, float32 [kv_heads, head_dim, head_dim]; None where the descent diverged.
    sample: the input of o, under R2, float32 [tokens, heads * head_dim]."""
    scale = float(sample.square().mean()) or 1.0

    def loss(rotation: Tensor, pick: Tensor) -> Tensor:
        heads = sample[pick].reshape(len(pick), kv_heads, -1, head_dim)
        return ranges(torch.einsum("tkgd,kde->tkge", heads, rotation).reshape(len(pick), -1), group).mean() / scale

    free = torch.zeros(kv_heads, head_dim, head_dim, device=sample.device)
    return _descend(free, loss, sample.shape[0], steps, keep_mean=False)


def _descend(
    free: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    tokens: int,
    steps: int,
    keep_mean: bool,
    told: Callable[[], None] = lambda: None,
) -> Tensor | None:
    """The rotation with the least loss(rotation, tokens to look at); None where it is no rotation, or worse than the
    identity."""
    start = cayley(free, keep_mean)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():
        free = free.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([free], lr=LEARNING_RATE, betas=(0.9, 0.95))
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
            pick = torch.randint(0, tokens, (min(BATCH, tokens),), generator=generator).to(free.device)
            optimizer.zero_grad()
            try:
                loss(cayley(free, keep_mean), pick).backward()
            except torch.linalg.LinAlgError:  # only of a matrix that is not finite, or nearly so
                return None
            optimizer.step()
            told()
    with torch.no_grad():
        if not torch.isfinite(free).all():
            return None
        found = cayley(free.detach().double().cpu(), keep_mean).float()
        every = torch.arange(tokens, device=free.device)
        # A sample of zeros has no loss, and any rotation is as good.
        return found if float(loss(found.to(free.device), every)) <= float(loss(start, every)) else None
