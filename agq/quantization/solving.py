"""How linears are rounded: by the recipe's solver, and to nearest where its inputs or its result cannot be used."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from agq.models.folding import fold_linears
from agq.models.parts import Linear
from agq.numerics.quantizers import Grid
from agq.quantization.numbers import DEAD_CHANNELS, RANK_DEFICIENT, ZERO_TOKENS, Numbers
from agq.quantization.solvers import solver
from agq.quantization.solvers.hessian import Hessian
from agq.quantization.solvers.solver import Rounding, Solution, Unsolvable
from agq.recipe import Recipe
from agq.recipe.methods import FALLBACK

# What is used in place of a solver's weights.
_NEAREST = "rounded to nearest"


class Solving:
    """numbers: counts what is odd about the inputs, and is told of what is rounded to nearest instead."""

    def __init__(self, recipe: Recipe, numbers: Numbers) -> None:
        self.recipe, self.numbers = recipe, numbers

    def usable(self, linears: list[Linear], hessian: Hessian | None) -> Hessian | None:
        """The finished Hessian of the inputs that `linears` share; None where it is not finite: nothing of it can be
        used then, the importance of channels neither."""
        if hessian is None:
            return None
        hessian.finish()
        if not torch.isfinite(hessian.matrix).all():
            self.numbers.take_back(fold_linears(linears), "the squares of the inputs are not finite", _NEAREST)
            return None
        module, columns = linears[0].module, hessian.matrix.shape[0]
        dead = int((hessian.matrix.diagonal() == 0).sum())
        self.numbers.count(DEAD_CHANNELS, module, dead)
        self.numbers.count(RANK_DEFICIENT, module, int(hessian.tokens - hessian.zero_tokens < columns - dead))
        self.numbers.count(ZERO_TOKENS, module, hessian.zero_tokens)
        return hessian

    def rounding(self, linears: list[Linear], hessian: Hessian | None) -> tuple[Rounding, bool]:
        """How `linears`, which share the inputs of `hessian`, are rounded; whether it is the fallback."""
        try:
            rounding = solver(self.recipe.method)(hessian, self.recipe)
        except Unsolvable as error:
            self.numbers.take_back(fold_linears(linears), str(error), _NEAREST)
            return self.nearest(hessian), True
        if rounding.note is not None:
            self.numbers.progress.note(f"{fold_linears(linears)}: {rounding.note}")
        return rounding, False

    def nearest(self, hessian: Hessian | None) -> Rounding:
        """The fallback."""
        return solver(FALLBACK)(hessian, self.recipe)

    def solved(
        self, module: str, rounding: Rounding, hessian: Hessian | None, weight: Tensor, grid: Grid, energy: float
    ) -> tuple[Solution, bool]:
        """The rounded weights of a linear; whether they are the fallback's, because the method's codes are no numbers,
        or change the outputs by more than their own `energy` where the fallback's do not."""
        try:
            found = rounding.solve(weight, grid)
            problem = "the error is not finite" if hessian is not None and not math.isfinite(found.loss) else ""
        except Unsolvable as error:
            found, problem = None, str(error)
        if found is not None and not problem and not (energy > 0 and found.loss > energy):
            return found, False
        nearest = self.nearest(hessian).solve(weight, grid)
        if found is not None and not problem and not nearest.loss < found.loss:
            return found, False
        self.numbers.take_back(f"`{module}`", problem or "the error is larger than the outputs", _NEAREST)
        return nearest, True
