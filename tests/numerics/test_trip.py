"""Agile-Quant's quantizers: worked vectors, and the exactness of the integer realizations.

What cannot run here, for want of LLaMA-7B and the machines: the published perplexities (WikiText-2: 5.68 in fp16, 5.85
with GPTQ, 6.16 as W4A8, 8.81 as W4A4 with pruning).
"""

from __future__ import annotations

import itertools

import pytest
import torch

from agq.numerics.trip import (
    LEAST_SCALE,
    StaticQuantizer,
    TripObserver,
    calibrate,
    log2_softmax,
    symmetric,
    symmetric_scale,
    uniform,
    uniform_parameters,
)
from tests.agile.integer import fold_weights, product_folded, product_segments


def test_log2_of_probabilities() -> None:
    """The worked values, and the ends of the range: below 2^-15.5 there is nothing."""
    p = torch.tensor([0.3, 0.7, 2**-15.4, 2**-15.6, 2**-0.49, 1.0, 0.0, 0.25])
    expected = [0.25, 0.5, 2**-15, 0.0, 1.0, 1.0, 0.0, 0.25]
    assert log2_softmax(p).tolist() == expected


def test_log2_rows_stay_near_one() -> None:
    """Rows are not renormalized; their sums lie between 2^-0.5 and 2^0.5, less what vanishes below 2^-15.5."""
    torch.manual_seed(0)
    sums = log2_softmax(torch.softmax(torch.randn(500, 40) * 3, dim=-1)).sum(dim=-1)
    assert 2**-0.5 - 40 * 2**-15.5 < float(sums.min()) <= float(sums.max()) < 2**0.5


def test_trip_worked_vector() -> None:
    """Two channels, one of them with outliers: scale, zero point, exponents, codes and values as computed by hand."""
    x = torch.tensor([[-1.0, -8.0], [0.52, 4.1], [0.9, 16.0]])
    quantizer = calibrate(x, 8, 3)
    assert quantizer.scale == pytest.approx(24 / 255 / 8, rel=1e-7)
    assert quantizer.zero == 85
    assert quantizer.alpha.tolist() == [0, 3]
    # 0.9 is 76.5 steps: a tie between 161 (76 steps) and 162 (77), which the last bit of the arithmetic decides.
    codes = quantizer.codes(x)
    assert codes[:2].tolist() == [[0, 0], [129, 129]]
    assert codes[2].tolist() in ([161, 255], [162, 255])
    last = 0.90588 if codes[2, 0] == 162 else 0.89412
    expected = torch.tensor([[-1.0, -8.0], [0.51765, 4.14118], [last, 16.0]])
    assert torch.allclose(quantizer(x), expected, atol=1e-5)


def test_trip_without_exponents_is_the_uniform_quantizer() -> None:
    torch.manual_seed(1)
    x = torch.randn(50, 7) * 3 + 1
    assert torch.equal(calibrate(x, 8, 0)(x), uniform(x, float(x.min()), float(x.max()), 8))


def test_uniform_parameters() -> None:
    """The range always contains 0, which is a code; a constant zero tensor keeps the least scale."""
    assert uniform_parameters(0.0, 15.0, 4) == (1.0, 0)
    assert uniform_parameters(5.0, 15.0, 4) == (1.0, 0)
    assert uniform_parameters(-15.0, -5.0, 4) == (1.0, 15)
    assert uniform_parameters(-3.0, 12.0, 4) == (1.0, 3)
    assert uniform_parameters(-64.0, 56.0, 4, 3) == (1.0, 8)
    assert uniform_parameters(0.0, 0.0, 8, 3) == (pytest.approx(LEAST_SCALE), 0)


@pytest.mark.parametrize(("bits", "scale", "code"), [(8, 2 / 127.5, 127), (4, 2 / 7.5, 7)])
def test_symmetric_of_the_released_code(bits: int, scale: float, code: int) -> None:
    """amax / 127.5 (7.5): the largest value is clipped by half a step, its negative is not."""
    found = symmetric_scale(torch.tensor(2.0), bits)
    assert float(found) == pytest.approx(scale, rel=1e-6)
    values = symmetric(torch.tensor([2.0, 2.02, -2.02, 0.0]), found, bits)
    assert values.tolist() == pytest.approx([code * scale, code * scale, -(code + 1) * scale, 0.0], rel=1e-5)
    assert float(symmetric_scale(torch.tensor(0.0), bits)) == pytest.approx(LEAST_SCALE)


def test_exponents_minimize_the_error_over_all_tensors() -> None:
    """Two windows whose best exponents differ: the choice is that of their concatenation; equal errors take the
    smallest."""
    torch.manual_seed(2)
    windows = [
        torch.randn(40, 6) * torch.tensor([1.0, 1, 2, 4, 8, 0]),
        torch.randn(90, 6) * torch.tensor([3.0, 1, 1, 1, 16, 0]),
    ]
    observer = TripObserver(8, 3)
    for x in windows:
        observer.range(x)
    observer.settle()
    for x in windows:
        observer.errors(x)
    found, x = observer.quantizer(), torch.cat(windows).double()
    for channel in range(6):
        errors = []
        for alpha in range(4):
            step = 2**alpha * found.scale
            q = torch.clamp(torch.round(x[:, channel] / step) + found.zero, 0, 255)
            errors.append(float(((q - found.zero) * step - x[:, channel]).square().sum()))
        assert int(found.alpha[channel]) == errors.index(min(errors))
    assert int(found.alpha[5]) == 0


def test_percentile_cuts_outliers() -> None:
    x = torch.zeros(1000, 10)
    x[:, :] = torch.linspace(-1, 1, 10000).reshape(1000, 10)
    x[0, 0], x[1, 1] = -50.0, 90.0
    cut, whole = TripObserver(8, 3, 0.99), TripObserver(8, 3)
    for observer in (cut, whole):
        observer.range(x)
        observer.settle()
    assert whole.scale == pytest.approx(140 / 255 / 8, rel=1e-6)
    assert cut.scale == pytest.approx(2 * 0.99 / 255 / 8, rel=0.01)


def test_observer_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="no calibration data"):
        TripObserver(8).settle()
    observer = TripObserver(8)
    observer.range(torch.tensor([[float("nan"), 1.0]]))
    with pytest.raises(ValueError, match="not finite"):
        observer.settle()


@pytest.mark.parametrize("bits", [4, 8])
def test_realizations_agree_bit_for_bit(bits: int) -> None:
    """Fake quantization, weights shifted, and segments of channels give the same integers before the scale."""
    torch.manual_seed(3)
    x = torch.randn(30, 200) * torch.exp(torch.randn(200))
    weights = torch.randint(-15, 16, (24, 200))
    quantizer = calibrate(x, bits, 3)
    codes = quantizer.codes(x)
    # Float64 holds every partial sum exactly: the fake-quantized product divided by the scale is the integer itself.
    steps = (codes - quantizer.zero).double() * 2.0 ** quantizer.alpha.double()
    fake = (steps @ weights.double().t()).long()
    assert torch.equal(product_folded(codes, quantizer.zero, weights, quantizer.alpha), fake)
    assert torch.equal(product_segments(codes, quantizer.zero, weights, quantizer.alpha), fake)
    assert torch.equal(quantizer(x), steps.float() * torch.tensor(quantizer.scale))


def test_folding_limits() -> None:
    """Asymmetric 4-bit weights (-15..15) fit int8 up to an exponent of 3, symmetric ones (-8..7) to one of 3 without
    -128."""
    three = torch.full((2,), 3)
    assert fold_weights(torch.tensor([[-15, 15]]), three).tolist() == [[-120, 120]]
    with pytest.raises(ValueError, match="int8"):
        fold_weights(torch.tensor([[-15, 15]]), three + 1)


def test_accumulators_fit_int32() -> None:
    """The largest sums of LLaMA-7B's longest product (11008 inputs), by its extreme operands, not by formula alone."""
    n = 11008
    codes, weights = torch.full((1, n), 255), torch.full((1, n), 15)
    assert int(product_folded(codes, 0, weights, torch.zeros(n))) == 42_105_600
    assert int(product_folded(codes, 0, weights, torch.full((n,), 3))) == 336_844_800 < 2**31
    # Probabilities as powers of two: the largest row sum, sqrt 2, in units of 2^-15, times |v| = 128.
    assert 128 * 2**15 * 2**0.5 == pytest.approx(5.93e6, rel=1e-3)
    accumulator = sum(128 << (15 - code) for code in itertools.repeat(1, 2))
    assert accumulator == 128 * 2**15 < 5.9e6


def test_codes_use_products_with_the_inverse() -> None:
    """docs/arithmetic.md: round(x * ((1/scale) 2^-alpha)), ties to even."""
    quantizer = StaticQuantizer(8, 0.5, 128, torch.tensor([0, 1, 2, 3], dtype=torch.uint8))
    x = torch.tensor([[0.25, 0.5, 1.0, 2.0], [0.75, 1.5, 3.0, 6.0], [-1e9, 1e9, -1e9, 1e9]])
    assert quantizer.codes(x).tolist() == [[128, 128, 128, 128], [130, 130, 130, 130], [0, 255, 0, 255]]
