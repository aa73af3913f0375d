"""Granularity: the rule of the kernels, fitting, and the whole numbers that files write."""

from __future__ import annotations

import pytest

from agq.errors import AgqError
from agq.formats import FITTED, PER_ROW, PerGroup
from agq.formats.groups import fit, fitting, of_artifact, of_recipe, suggestion, to_artifact, to_recipe


def test_whole_numbers_of_recipes_and_artifacts() -> None:
    for group, recipe, artifact in ((PER_ROW, -1, 0), (PerGroup(64), 64, 64)):
        assert to_recipe(group) == recipe and of_recipe(recipe) == group
        assert to_artifact(group) == artifact and of_artifact(artifact) == group
    assert to_recipe(FITTED) == "auto" and of_recipe("auto") == FITTED
    with pytest.raises(ValueError, match="not been fitted"):
        to_artifact(FITTED)


@pytest.mark.parametrize("value", [None, True, 1.5, "many", [32]])
def test_what_is_no_group_size(value: object) -> None:
    with pytest.raises(AgqError, match="is not a group size"):
        of_recipe(value)


@pytest.mark.parametrize("size", [-32, 0, 16, 31, 48, 100])
def test_a_group_is_a_multiple_of_32(size: int) -> None:
    assert PerGroup(size).problem() == f"{size} is not a multiple of 32"
    assert PerGroup(size).problem(96 * abs(size)) is not None


def test_a_group_divides_the_row() -> None:
    assert PerGroup(64).problem(128) is None and PerGroup(64).problem(96) == "64 does not divide 96"
    assert PER_ROW.problem(7) is None and FITTED.problem(7) is None
    assert PerGroup(64).columns(128) == 64 and PerGroup(64).scales(128) == 2
    assert PER_ROW.columns(96) == 96 and PER_ROW.scales(96) == 1
    with pytest.raises(ValueError, match="does not divide 96"):
        PerGroup(64).columns(96)
    with pytest.raises(ValueError, match="not been fitted"):
        FITTED.columns(96)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ((256, 768), PerGroup(128)),
        ((576, 1536), PerGroup(64)),  # SmolLM2-135M
        ((640, 2048, 1024), PerGroup(128)),  # Gemma 3 270M
        ((896, 4864), PerGroup(128)),  # Qwen2.5-0.5B
        ((960, 2560), PerGroup(64)),  # SmolLM2-360M
        ((96, 512), PerGroup(32)),
        ((100, 512), PER_ROW),
        ((), PerGroup(128)),
    ],
)
def test_the_largest_size_that_divides_all_inputs(inputs: tuple[int, ...], expected: object) -> None:
    assert fit(inputs) == expected


def test_hints_name_what_fits() -> None:
    assert fitting([576, 1536]) == [32, 64]
    assert suggestion([576, 1536]) == "32, 64, or -1 for one scale for the whole row"
    assert suggestion([100]) == "-1 for one scale for the whole row"
