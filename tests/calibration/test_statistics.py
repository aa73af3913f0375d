"""Statistics of a linear's inputs against numpy on all tokens at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agq.calibration.file import PERCENTILES, TOKEN_QUANTILES
from agq.calibration.statistics import InputStatistics


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    """Six channels of different sizes and means: one all negative, one all positive, one tiny, one zero."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(500, 6)) * [1, 8, 0.01, 3, 1e-8, 0] + [0, 1, 0, 0, 0, 0]
    x[:, 2], x[:, 3] = -np.abs(x[:, 2]) - 0.5, np.abs(x[:, 3]) + 2
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def found(inputs: np.ndarray) -> dict[str, np.ndarray]:
    statistics = InputStatistics(6, torch.device("cpu"))
    for part in (inputs[:200].reshape(2, 100, 6), inputs[200:220], inputs[220:]):
        statistics.add(torch.from_numpy(part))
    assert statistics.tokens == 500
    return {name.removeprefix("m."): value.numpy() for name, value in statistics.tensors("m").items()}


def test_extremes_and_moments(inputs: np.ndarray, found: dict[str, np.ndarray]) -> None:
    assert np.array_equal(found["minimum"], inputs.min(axis=0)) and np.array_equal(found["maximum"], inputs.max(axis=0))
    assert np.array_equal(found["absmax"], np.abs(inputs).max(axis=0))
    assert np.allclose(found["second_moment"], (inputs.astype(np.float64) ** 2).mean(axis=0), rtol=1e-6)
    assert all(value.dtype == np.float32 for value in found.values())


def test_quantiles_of_the_largest_channel_of_a_token(inputs: np.ndarray, found: dict[str, np.ndarray]) -> None:
    expected = np.quantile(np.abs(inputs).max(axis=1).astype(np.float64), TOKEN_QUANTILES)
    assert np.allclose(found["token_absmax"], expected, rtol=1e-6)


def test_percentiles_are_exact_to_half_a_bin(inputs: np.ndarray, found: dict[str, np.ndarray]) -> None:
    """The value that as many tokens reach, to 1/32 of it; never above the largest; 0 below 2^-20."""
    ordered = np.sort(np.abs(inputs), axis=0)
    for row, percentile in enumerate(PERCENTILES):
        exact = ordered[int(np.ceil(max(percentile / 100 * 500, 1))) - 1]
        values = found["percentiles"][row]
        assert np.all(np.abs(values[:4] - exact[:4]) <= exact[:4] / 32), percentile
        assert values[4] == values[5] == 0
        assert np.all(values <= ordered[-1])


def test_percentiles_by_hand() -> None:
    """Bins begin at 1, 1 + 1/16, ...: 1.5 lies in [1.5, 1.5625), whose middle is above the largest value seen; 1 in
    [1, 1.0625), whose middle is not."""
    statistics = InputStatistics(1, torch.device("cpu"))
    statistics.add(torch.tensor([[1.0]] * 90 + [[-1.5]] * 10))
    values = dict(zip(PERCENTILES, statistics.percentiles()[:, 0].tolist(), strict=True))
    for percentile, value in values.items():
        assert value == (1.03125 if percentile <= 90 else 1.5), percentile
