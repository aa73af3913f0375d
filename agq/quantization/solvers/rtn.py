"""Round to nearest: every weight by itself."""

from __future__ import annotations

from torch import Tensor

from agq.numerics.quantizers import Grid, dequantize_weight, quantize_weight
from agq.quantization.solvers.hessian import Hessian, layer_loss
from agq.quantization.solvers.solver import Rounding, Solution
from agq.recipe import Recipe


def round_to_nearest(weight: Tensor, grid: Grid, hessian: Tensor | None) -> Solution:
    """RTN codes with the loss on the calibration inputs, where there are any.

    weight: float32 [rows, columns]; hessian: float32 [columns, columns], the mean of x x^T.
    """
    codes = quantize_weight(weight, grid)
    loss = float("nan") if hessian is None else layer_loss(weight, dequantize_weight(codes, grid), hessian)
    return Solution(codes, loss)


def prepare(hessian: Hessian | None, recipe: Recipe) -> Rounding:
    """See solver.Solver; nothing of the recipe matters."""
    del recipe
    matrix = None if hessian is None else hessian.matrix
    return Rounding(lambda weight, grid: round_to_nearest(weight, grid, matrix))
