"""Ranges of static quantizers: over several tensors, with and without percentiles, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agq.numerics.trip import LEAST_SCALE, MOST_EXPONENT, StaticQuantizer, TripObserver, calibrate, uniform_parameters


def settled(tensors: list[torch.Tensor], bits: int = 8, k: int = 0, percentile: float = 1.0) -> tuple[float, int]:
    observer = TripObserver(bits, k, percentile)
    for x in tensors:
        observer.range(x)
    observer.settle()
    return observer.scale, observer.zero


def test_range_is_that_of_all_tensors() -> None:
    """The smallest value stands in one, the largest in another, neither in the last: -51 .. 204 in steps of 1."""
    tensors = [
        torch.tensor([[-51.0, 3.0]]),
        torch.tensor([[204.0], [1.0]]),
        torch.zeros(0, 2),
        torch.tensor([[-1.0, 2.0]]),
    ]
    assert settled(tensors) == (1.0, 51)
    assert settled(tensors, k=3) == (0.125, 51)
    assert settled(tensors, bits=4) == (17.0, 3)


def test_percentile_leaves_the_same_number_out_at_both_ends() -> None:
    """Of 1000 values 0.99 leaves 5 out at each end; the ends are averaged over the tensors."""
    first = torch.arange(1000.0)[torch.randperm(1000)].reshape(100, 10) - 300  # -295 .. 694 are left
    second = 2 * torch.arange(1000.0).reshape(10, 100) - 1000  # -990 .. 988
    scale, zero = settled([first], percentile=0.99)
    assert scale == pytest.approx((694 + 295) / 255, rel=1e-6) and zero == round(295 / (989 / 255))
    scale, zero = settled([first, second], percentile=0.99)
    low, high = (-295 - 990) / 2, (694 + 988) / 2
    assert scale == pytest.approx((high - low) / 255, rel=1e-6) and zero == round(-low / ((high - low) / 255))
    assert settled([first], percentile=0.9999) == settled([first])  # a twentieth of a value is none


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("percentile", [1.0, 0.9])
def test_values_that_are_not_finite(bad: float, percentile: float) -> None:
    observer = TripObserver(8, percentile=percentile)
    observer.range(torch.tensor([[1.0, -2.0, bad]]))
    with pytest.raises(ValueError, match="not finite"):
        observer.settle()


def test_parameters_at_the_ends() -> None:
    """A zero point is a code, at the least scale too."""
    assert uniform_parameters(-15.4, 0.0, 4) == (pytest.approx(15.4 / 15, rel=1e-6), 15)
    assert uniform_parameters(-1e-9, 1e-9, 8, 2) == (pytest.approx(LEAST_SCALE), 0)
    scale, _ = uniform_parameters(0.0, 1.0, 8)
    assert scale == float(np.float32(1 / 255))  # as it is stored


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_and_values_against_float64(bits: int) -> None:
    """All exponents that exist, values beyond both ends."""
    alpha = torch.arange(MOST_EXPONENT + 1, dtype=torch.uint8)
    quantizer = StaticQuantizer(bits, 0.25, 5, alpha)
    step = 0.25 * 2.0 ** np.arange(MOST_EXPONENT + 1)
    x = np.arange(-12.0, 2**bits + 6)[:, None] * step + 0.3 * step
    codes = np.clip(np.rint(x / step) + 5, 0, 2**bits - 1)
    assert np.array_equal(quantizer.codes(torch.from_numpy(x.astype(np.float32))), codes)
    assert np.array_equal(quantizer(torch.from_numpy(x.astype(np.float32))), (codes - 5) * step)


def test_equal_errors_take_the_smallest_exponent() -> None:
    """Every exponent of a channel of zeros has no error; multiples of 8 steps are exact with each up to 3."""
    x = torch.tensor([[0.0, 8.0, 2.0, -64.0], [0.0, 16.0, 6.0, 56.0]])
    quantizer = calibrate(x, 4, 3)
    assert (quantizer.scale, quantizer.zero) == (1.0, 8)
    # 4 bits reach from -8 to 7 steps: 16 and 8 need steps of 4 or 8 (2 cuts 16 off at 14), 6 and 2 steps of 1.
    assert quantizer.alpha.tolist() == [0, 2, 0, 3]


def test_one_token_decides() -> None:
    """-64, 8 and 56 of a range in steps of 8, K = 3 as by default: -8 steps of 8, 4 of 2, 7 of 8."""
    quantizer = calibrate(torch.tensor([[-64.0, 8.0, 56.0]]), 4)
    assert quantizer.scale == 1.0 and quantizer.alpha.tolist() == [3, 1, 3]
    observer = TripObserver(4)
    assert observer.k == 3 and observer.percentile == 1.0


def test_second_pass_adds_over_tensors_and_dimensions() -> None:
    """More rows than are worked on at once, in two tensors of three dimensions."""
    draw = torch.Generator().manual_seed(0)
    width = 1 << 12
    parts = [torch.randn(2, 60, width, generator=draw), 9 * torch.randn(1, 40, width, generator=draw)]
    parts[1][..., : width // 2] *= 0.001
    observer = TripObserver(4, 2)
    for x in parts:
        observer.range(x)
    observer.settle()
    for x in parts:
        observer.errors(x)
    found = observer.quantizer()
    x = torch.cat([part.reshape(-1, width) for part in parts]).double()
    errors = []
    for alpha in range(3):
        step = 2**alpha * found.scale
        codes = torch.clamp(torch.round(x / step) + found.zero, 0, 15)
        errors.append(((codes - found.zero) * step - x).square().sum(dim=0))
    assert torch.equal(found.alpha.long(), torch.stack(errors).argmin(dim=0))
    assert len(found.alpha.unique()) > 1
