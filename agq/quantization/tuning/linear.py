"""A quantized linear in a form that can be trained: its scales, and the rounding of its codes.

Each scale is multiplied by exp(t). Each code is the rounding of a continuous value, which starts inside the solver's
code, as near to the unquantized weight as that allows, so that nothing changes before the first step and a small move
suffices where rounding was a close call (the block-wise training of EfficientQAT, arXiv 2407.11062, is the nearest
relative). Roundings, of weights, activations and KV cache, are passed through by the gradient as if they were not there
(straight-through estimator, arXiv 1308.3432).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from agq.numerics.quantizers import Grid, round_scale
from agq.reference.block import InputTransform

# How far from a code its continuous value may start. 0.5 is where another code would begin.
_INSIDE = 0.45


class TrainedLinear:
    """A quantized linear whose scales, and codes if `rounding`, can be trained.

    codes: int8 [out, in]; grid: of them; weight: what they stand for, float32 [out, in]; dtype: that scales are stored
        in.
    """

    def __init__(self, codes: Tensor, grid: Grid, weight: Tensor, dtype: torch.dtype, rounding: bool) -> None:
        device = weight.device
        self.codes, self.grid, self.dtype, self.rounding = codes.to(device), grid, dtype, rounding
        self.scale, zero = grid.scale.to(device), grid.zero.to(device).unsqueeze(-1)
        low, high = grid.limits
        self.low, self.high = low - zero, high - zero
        # Codes minus zero points, [out, groups, columns of a group].
        self.steps = self.codes.reshape(*self.scale.shape, -1) - zero
        if rounding:
            wanted = weight.reshape(self.steps.shape) / self.scale.unsqueeze(-1)
            self.steps += (wanted - self.steps).clamp_(-_INSIDE, _INSIDE)
            self.steps.requires_grad_()
        self.log = torch.zeros_like(self.scale).requires_grad_()

    def _rounded(self) -> Tensor:
        return torch.clamp(self.steps.detach().round(), self.low, self.high)

    def weight(self) -> Tensor:
        """float32 [out, in], differentiable in `log` and `steps`."""
        steps = self.steps + (self._rounded() - self.steps.detach()) if self.rounding else self.steps
        return (steps * (self.scale * self.log.exp()).unsqueeze(-1)).reshape(self.codes.shape)

    def values(self) -> list[Tensor]:
        """What is trained."""
        return [self.log, self.steps] if self.rounding else [self.log]

    def settle(self) -> tuple[Tensor, Grid]:
        """Makes what was trained the codes and scales, rounded as they will be stored; the codes and grid from
        before."""
        before = self.codes, self.grid
        with torch.no_grad():
            self.scale = round_scale(self.scale * self.log.exp(), self.dtype)
            self.grid = replace(self.grid, scale=self.scale.to(self.grid.scale.device))
            self.codes = (self._rounded() - self.low + self.grid.limits[0]).reshape(self.codes.shape).to(torch.int8)
            self.log.zero_()
        return before


def values_of(linears: Iterable[TrainedLinear]) -> list[Tensor]:
    """What is trained of all."""
    return [value for linear in linears for value in linear.values()]


Settled = list[tuple[Tensor, Grid]]


def changed_codes(linears: Sequence[TrainedLinear], before: Settled) -> int:
    """How many codes are others than before. before: what `settle` returned of each."""
    return sum(int((linear.codes != codes).sum()) for linear, (codes, _) in zip(linears, before, strict=True))


def revert(linears: Sequence[TrainedLinear], before: Settled) -> None:
    """Gives the linears the codes and grids from before; arguments as for `changed_codes`."""
    for linear, found in zip(linears, before, strict=True):
        linear.codes, linear.grid = found


def straight_through(transform: InputTransform) -> InputTransform:
    """`transform` with the gradient of the identity."""
    return lambda x: x + (transform(x.detach()) - x).detach()
