"""Granularity: how many columns of a matrix share a scale. For weights a row is an output channel, for activations a
token.

Recipes, artifacts and the C library write a granularity as a whole number, each in its own way. The pairs of functions
at the end are the only ones that know how.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agq.errors import AgqError

# Integer kernels pad columns to this many: a group is a multiple of it.
STEP = 32
# Sizes that are tried, the usual one first, where the user names none.
FITTED_SIZES = (128, 64, 32)
# Sizes that a hint may name.
_SUGGESTED = (32, 64, 128, 256, 512, 1024)
# What recipes write for `Fitted`.
AUTO = "auto"


@dataclass(frozen=True)
class Granularity:
    """How many columns share a scale: PerRow, PerGroup or Fitted."""

    def columns(self, inputs: int) -> int:
        """Columns that share a scale, in rows of `inputs`. Raises ValueError where that is not a whole part."""
        raise NotImplementedError

    def scales(self, inputs: int) -> int:
        """Scales of a row of `inputs` columns."""
        return inputs // self.columns(inputs)

    def problem(self, inputs: int | None = None) -> str | None:
        """Why no kernel computes it (for rows of `inputs` columns), or None."""
        return None


@dataclass(frozen=True)
class PerRow(Granularity):
    """One scale for the whole row."""

    def columns(self, inputs: int) -> int:
        return inputs


@dataclass(frozen=True)
class PerGroup(Granularity):
    """One scale for `size` columns that stand side by side."""

    size: int

    def columns(self, inputs: int) -> int:
        if self.size < 1 or inputs % self.size:
            raise ValueError(f"group size {self.size} does not divide {inputs} columns")
        return self.size

    def problem(self, inputs: int | None = None) -> str | None:
        """The rule of the kernels: a multiple of 32 that divides the row."""
        if self.size < STEP or self.size % STEP:
            return f"{self.size} is not a multiple of {STEP}"
        if inputs is not None and inputs % self.size:
            return f"{self.size} does not divide {inputs}"
        return None


@dataclass(frozen=True)
class Fitted(Granularity):
    """Not said: the size is chosen when the model is known (`fit`)."""

    def columns(self, inputs: int) -> int:
        raise ValueError("the group size has not been fitted to a model yet")


PER_ROW = PerRow()
FITTED = Fitted()


def fitting(inputs: Iterable[int], sizes: Iterable[int] = _SUGGESTED) -> list[int]:
    """Those of `sizes` that divide rows of all these lengths."""
    lengths = set(inputs)
    return [size for size in sizes if all(PerGroup(size).problem(length) is None for length in lengths)]


def fit(inputs: Iterable[int]) -> Granularity:
    """The largest of 128, 64 and 32 that divides rows of all these lengths; PerRow where none does."""
    found = fitting(inputs, FITTED_SIZES)
    return PerGroup(found[0]) if found else PER_ROW


def suggestion(inputs: Iterable[int]) -> str:
    """The sizes that divide rows of all these lengths, for a hint."""
    found = fitting(inputs)
    sizes = f"{', '.join(map(str, found))}, or " if found else ""
    return f"{sizes}{to_recipe(PER_ROW)} for one scale for the whole row"


def of_recipe(value: object) -> Granularity:
    """The granularity that a recipe, a folder's agq.json or an option writes: a number of columns, -1 for the whole
    row, "auto" for not said. Raises AgqError for anything else."""
    if value == AUTO:
        return FITTED
    if isinstance(value, bool) or not isinstance(value, int):
        raise AgqError(f"{value!r} is not a group size", hint=f"a number of columns, -1, or {AUTO}")
    return PER_ROW if value == -1 else PerGroup(value)


def to_recipe(group: Granularity) -> int | str:
    """The inverse of `of_recipe`."""
    return AUTO if isinstance(group, Fitted) else group.size if isinstance(group, PerGroup) else -1


def of_artifact(value: int) -> Granularity:
    """The granularity that an artifact and the C library write: a number of columns, 0 for the whole row."""
    return PER_ROW if value == 0 else PerGroup(value)


def to_artifact(group: Granularity) -> int:
    """The inverse of `of_artifact`. Raises ValueError for Fitted."""
    if isinstance(group, Fitted):
        raise ValueError("the group size has not been fitted to a model yet")
    return group.size if isinstance(group, PerGroup) else 0
