"""Solvers: how the weights of a linear are rounded to codes. A solver is its row in agq/recipe/methods.py and a file
here, of the method's name, with a function `prepare` (see solver.Solver)."""

from __future__ import annotations

from importlib import import_module

from agq.quantization.solvers.solver import Solver


def solver(method: str) -> Solver:
    """The solver of a method's name, one of agq.recipe.METHODS."""
    prepare: Solver = import_module(f"{__name__}.{method}").prepare
    return prepare
