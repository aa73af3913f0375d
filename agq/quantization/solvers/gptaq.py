"""GPTAQ (Li et al. 2025, arXiv 2504.02692): GPTQ with a second term, for what the errors of earlier layers changed."""

from __future__ import annotations

import torch
from torch import Tensor

from agq.quantization.solvers.gptq import Factor, factor_of, rounding
from agq.quantization.solvers.hessian import Hessian
from agq.quantization.solvers.solver import Rounding
from agq.recipe import Recipe


def drift_correction(factor: Factor, cross: Tensor, alpha: float = 0.25) -> Tensor:
    """GPTAQ's second term (the paper's matrix P), float32 [columns, columns] in visiting order.

    GPTAQ makes the quantized layer on the quantized network's inputs x come close to the float layer on the float
    network's inputs x~. Of that drift, row j tells how the columns not yet visited change for a weight of 1 in column
    j. cross: mean of (x~ - x) x^T in original order; alpha: the weight of the term (the authors' code takes 0.25).
    """
    ordered = cross[factor.order][:, factor.order]
    return torch.triu(ordered @ factor.upper.t(), 1) @ factor.upper * alpha


def prepare(hessian: Hessian | None, recipe: Recipe) -> Rounding:
    """See solver.Solver; the recipe's section `gptq` counts, `alpha` of it too."""
    assert hessian is not None and hessian.cross is not None
    factor = factor_of(hessian, recipe.gptq)
    return rounding(hessian, factor, recipe.gptq, drift_correction(factor, hessian.cross, recipe.gptq.alpha))
