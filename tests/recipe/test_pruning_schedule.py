"""Token pruning as numbers: which layers, how many tokens each removes, and the schedule of a wanted sparsity."""

from __future__ import annotations

import pytest

from agq.errors import AgqError
from agq.recipe.pruning import PruningOptions


def test_layers_count_from_one_and_blocks_from_zero() -> None:
    assert PruningOptions("9,13-15", 0.2).blocks == (8, 12, 13, 14)
    assert PruningOptions("3,1-2,2", 0.2).blocks == (0, 1, 2)
    assert PruningOptions().blocks == () and PruningOptions().gamma == 0 and not PruningOptions().any
    assert not PruningOptions("1-2", 0.0).any and PruningOptions("1-2", 0.1).any


def test_layers_together_remove_beta() -> None:
    """Two layers of gamma = 1/2 leave a quarter: beta = 3/4."""
    options = PruningOptions("2-3", 0.75)
    assert options.gamma == pytest.approx(0.5)
    assert options.counts(100, 5) == [100, 50, 25, 25, 25]
    assert options.sparsity(100, 5) == pytest.approx(1 - 225 / 500)
    # Removed is the whole part of the share: 21 -> 21 - 10 -> 11 - 5.
    assert options.counts(21, 3) == [21, 11, 6]
    assert PruningOptions("1", 0.3).counts(10, 2) == [7, 7]


def test_first_and_last_token_stay() -> None:
    options = PruningOptions("1-3", 0.999)
    assert options.gamma == pytest.approx(0.9)
    assert options.counts(10, 4) == [2, 2, 2, 2]  # 9 of 10 would go, 8 may
    assert options.counts(3, 2) == [2, 2] and options.counts(2, 2) == [2, 2] and options.counts(1, 1) == [1]


def test_least_beta_that_reaches_a_sparsity() -> None:
    """Against a search through all steps of 0.001."""
    options = PruningOptions("2-4,6", 0.1, "paper", "code-compat")
    for wanted in (0.0, 0.05, 0.2, 0.45):
        found = options.with_sparsity(wanted, 200, 6)
        betas = (step / 1000 for step in range(951))
        assert found.beta == next(b for b in betas if PruningOptions("2-4,6", b).sparsity(200, 6) >= wanted)
        assert (found.layers, found.positions, found.scores) == ("2-4,6", "paper", "code-compat")
    most = PruningOptions("2-4,6", 0.95).sparsity(200, 6)
    assert options.with_sparsity(most, 200, 6).beta <= 0.95
    assert options.with_sparsity(most + 1e-6, 200, 6) is None


def test_layers_that_the_model_lacks() -> None:
    assert PruningOptions("5-6", 0.2).check(6).blocks == (4, 5)
    with pytest.raises(AgqError, match="names layer 6, the model has 5"):
        PruningOptions("5-6", 0.2).check(5)
    for text in ("0", "3-2", "a", "1,,2", "-3"):
        with pytest.raises(AgqError):
            PruningOptions(text, 0.2)
    PruningOptions("3-3", 0.2)
    for beta in (-0.1, 1.0):
        with pytest.raises(AgqError, match="beta"):
            PruningOptions("1", beta)
