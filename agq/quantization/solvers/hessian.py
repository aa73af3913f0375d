"""Statistics of a layer's inputs on calibration text, and what they say of an error in its weights."""

from __future__ import annotations

import torch
from torch import Tensor

# Width of the column panels of the Hessian: only panels on and above the diagonal are computed.
_PANEL = 1024


class Hessian:
    """Running sum of x x^T over the inputs of one or several linears that share them.

    matrix: float32 [columns, columns], the mean over tokens once `finish` was called; tokens: how many were added,
    zero_tokens: of them those that are zero in all columns;
    cross: for methods that need the float model, the same of (x~ - x) x^T, where x~ is the input that the float model
    has in place of x; else None.
    """

    def __init__(self, columns: int, device: torch.device | str = "cpu", cross: bool = False) -> None:
        self.matrix = torch.zeros(columns, columns, dtype=torch.float32, device=device)
        self.cross = torch.zeros_like(self.matrix) if cross else None
        self.tokens = self.zero_tokens = 0

    def add(self, x: Tensor, target: Tensor | None = None) -> None:
        """Adds inputs x, float32 [..., columns]; target: x~ of the same shape, where `cross` is gathered."""
        x = x.reshape(-1, x.shape[-1])
        if self.cross is not None:
            assert target is not None
            self.cross.addmm_((target.reshape(x.shape) - x).t(), x)
        columns = x.shape[1]
        for start in range(0, columns, _PANEL):
            stop = min(start + _PANEL, columns)
            # Rows of the upper triangle; the lower one follows from symmetry in finish().
            self.matrix[start:stop, start:].addmm_(x[:, start:stop].t(), x[:, start:])
        self.tokens += x.shape[0]
        self.zero_tokens += x.shape[0] - int(x.any(dim=1).sum())

    def finish(self) -> Tensor:
        """The mean of x x^T, [columns, columns], both triangles filled."""
        upper = torch.triu(self.matrix)
        self.matrix = (upper + torch.triu(upper, 1).t()) / max(self.tokens, 1)
        if self.cross is not None:
            self.cross /= max(self.tokens, 1)
        return self.matrix


def layer_loss(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    """Mean over calibration tokens of |W x - W^ x|^2, from hessian = mean of x x^T."""
    difference = quantized - weight
    return float(((difference @ hessian) * difference).sum())


def output_energy(weight: Tensor, hessian: Tensor) -> float:
    """Mean over calibration tokens of |W x|^2, from hessian = mean of x x^T."""
    return float(((weight @ hessian) * weight).sum())
