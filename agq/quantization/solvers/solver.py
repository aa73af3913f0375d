"""What a weight solver is: the protocol that each file of this folder keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from agq.numerics.quantizers import Grid
from agq.quantization.solvers.hessian import Hessian
from agq.recipe import Recipe


@dataclass(frozen=True)
class Solution:
    """Codes int8 [rows, columns] in original column order, and the layer's loss: the mean over calibration tokens of
    the squared output error, summed over output channels (nan where no Hessian was available)."""

    codes: Tensor
    loss: float


@dataclass(frozen=True)
class Rounding:
    """A solver that has seen the inputs which some linears share.

    solve: weight float32 [rows, columns] and its grid -> Solution; raises Unsolvable. damping: share of the Hessian's
    mean diagonal that was added to it; note: what the user should know of it.
    """

    solve: Callable[[Tensor, Grid], Solution]
    damping: float = 0.0
    note: str | None = None


class Unsolvable(Exception):
    """A solver cannot use the inputs; the message says why. The linears are rounded to nearest instead."""


class Solver(Protocol):
    """One way of rounding weights to codes. What it needs stands in its row of agq/recipe/methods.py."""

    def __call__(self, hessian: Hessian | None, recipe: Recipe) -> Rounding:
        """Prepares the rounding of all linears that share an input.

        hessian: of their inputs, finished; None where no calibration text is read; `cross` is gathered for methods that
        need the float model. Raises Unsolvable.
        """
        ...
