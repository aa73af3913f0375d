"""GPTQ (Frantar et al. 2022, arXiv 2210.17323) in its Cholesky form, as pure tensor functions.

Weights are rounded column by column; the error of a column is pushed to the columns not yet rounded so that the layer's
output on the calibration inputs changes least. "Act-order" visits the columns in descending order of their inputs'
energy. Groups are static: their scales are fixed from the original weights in the original column order before any
permutation, so act-order costs nothing at run time and needs no index of groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agq.numerics.quantizers import Grid, dequantize_weight
from agq.quantization.solvers.hessian import Hessian, layer_loss
from agq.quantization.solvers.solver import Rounding, Solution, Unsolvable
from agq.recipe import GptqOptions, Recipe

# A failed factorisation is retried with ten times the damping, this many times.
DAMPING_RETRIES = 3
# Columns that are updated one at a time before the rest of their block is updated by one matrix product.
_STRIP = 16


@dataclass(frozen=True)
class Factor:
    """What GPTQ needs of the inputs of a layer, shared by all layers with the same inputs.

    upper: float32 [columns, columns], the upper Cholesky factor of the damped inverse Hessian in visiting order; order:
    int64 [columns], visiting order; dead: bool [columns] in original order, channels whose inputs were always zero;
    damping: the fraction of the mean diagonal that was added.
    """

    upper: Tensor
    order: Tensor
    dead: Tensor
    damping: float


def factorize(hessian: Tensor, damping: float = 0.01, act_order: bool = True) -> Factor | None:
    """Factor of a Hessian [columns, columns], or None when it is not positive definite even with the largest damping.

    Tries damping, 10x, 100x and 1000x that value. The factorisation runs in float64: at several thousand columns the
    inverse of a float32 Hessian loses digits that GPTQ uses.
    """
    if not torch.isfinite(hessian).all():
        return None
    matrix = hessian.double()
    diagonal = matrix.diagonal()
    dead = diagonal <= 0
    # A dead channel never changes the output: its diagonal is made harmless and its weights are set to zero.
    diagonal[dead] = 1.0
    mean = float(diagonal[~dead].mean()) if not bool(dead.all()) else 1.0
    order = (
        torch.argsort(diagonal, descending=True, stable=True)
        if act_order
        else torch.arange(matrix.shape[0], device=matrix.device)
    )
    matrix = matrix[order][:, order]
    for attempt in range(DAMPING_RETRIES + 1):
        fraction = damping * 10.0**attempt
        damped = matrix.clone()
        damped.diagonal().add_(fraction * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if int(failed) == 0:
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if int(failed) == 0 and bool(torch.isfinite(upper).all()):
                return Factor(upper.float().contiguous(), order, dead, fraction)
    return None


def solve(weight: Tensor, grid: Grid, factor: Factor, block_size: int = 128, drift: Tensor | None = None) -> Tensor:
    """GPTQ codes, int8 [rows, columns] in original column order.

    weight: float32 [rows, columns]; grid: fixed from the original weight; block_size: columns between two lazy updates
    of the remaining ones; drift: of GPTAQ, float32 [columns, columns] in visiting order: how a weight of 1 in a column
    changes the columns not yet visited. Raises Unsolvable where codes are no numbers.
    """
    rows, columns = weight.shape
    low, high = grid.limits
    upper = factor.upper
    # Columns become rows: the vector of one input channel over all output rows is then contiguous.
    work = weight.t()[factor.order].contiguous()
    work[factor.dead[factor.order]] = 0.0
    scales, zeros = grid.columns(factor.order)
    codes = torch.empty_like(work)
    pivots = upper.diagonal().tolist()
    for start in range(0, columns, block_size):
        stop = min(start + block_size, columns)
        errors = torch.empty(stop - start, rows, dtype=work.dtype, device=work.device)
        for strip in range(start, stop, _STRIP):
            end = min(strip + _STRIP, stop)
            for j in range(strip, end):
                w, scale, zero, code = work[j], scales[j], zeros[j], codes[j]
                torch.div(w, scale, out=code)
                code.round_().add_(zero).clamp_(low, high)
                error = errors[j - start]
                torch.sub(code, zero, out=error)
                error.mul_(scale).sub_(w).div_(-pivots[j])
                if j + 1 < end:
                    work[j + 1 : end].addr_(upper[j, j + 1 : end], error, alpha=-1.0)
                    if drift is not None:
                        work[j + 1 : end].addr_(drift[j, j + 1 : end], w)
            if end < stop:
                work[end:stop].addmm_(upper[strip:end, end:stop].t(), errors[strip - start : end - start], alpha=-1.0)
                if drift is not None:
                    work[end:stop].addmm_(drift[strip:end, end:stop].t(), work[strip:end])
        if stop < columns:
            work[stop:].addmm_(upper[start:stop, stop:].t(), errors, alpha=-1.0)
            if drift is not None:
                work[stop:].addmm_(drift[start:stop, stop:].t(), work[start:stop])
    if not torch.isfinite(codes).all():
        raise Unsolvable("the errors of rounding grew without bound")
    result = torch.empty(columns, rows, dtype=torch.int8, device=weight.device)
    result[factor.order] = codes.to(torch.int8)
    return result.t().contiguous()


def gptq(
    weight: Tensor, grid: Grid, factor: Factor, hessian: Tensor, block_size: int = 128, drift: Tensor | None = None
) -> Solution:
    """GPTQ codes with the loss on the calibration inputs; with `drift` (see gptaq.drift_correction) GPTAQ's."""
    codes = solve(weight, grid, factor, block_size, drift)
    return Solution(codes, layer_loss(weight, dequantize_weight(codes, grid), hessian))


def factor_of(hessian: Hessian, options: GptqOptions) -> Factor:
    """The factor of gathered inputs; Unsolvable where there is none."""
    factor = factorize(hessian.matrix, options.damping, options.act_order)
    if factor is None:
        most = options.damping * 10.0**DAMPING_RETRIES
        raise Unsolvable(f"the Hessian is not positive definite with damping up to {most:g}")
    return factor


def rounding(hessian: Hessian, factor: Factor, options: GptqOptions, drift: Tensor | None = None) -> Rounding:
    """GPTQ with this factor, GPTAQ with `drift`; a raised damping is noted."""
    note = None if factor.damping == options.damping else f"damping raised to {factor.damping:g}"
    return Rounding(
        lambda weight, grid: gptq(weight, grid, factor, hessian.matrix, options.block_size, drift), factor.damping, note
    )


def prepare(hessian: Hessian | None, recipe: Recipe) -> Rounding:
    """See solver.Solver; the recipe's section `gptq` counts."""
    assert hessian is not None
    return rounding(hessian, factor_of(hessian, recipe.gptq), recipe.gptq)
