"""Quantizers against values computed by hand or by plain numpy loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agq.formats import PER_ROW
from agq.numerics.quantizers import (
    dequantize_weight,
    fake_quantize,
    fake_quantize_kv,
    fake_quantize_kv4,
    quantize_weight,
    round_scale,
    weight_grid,
)
from agq.quantization.clip import search_clip
from agq.recipe import ActivationScheme


def bf16(value: float) -> float:
    """Rounded to nearest even at 8 significant bits, by integer arithmetic on the float32 pattern."""
    bits = int(np.array(value, np.float32).view(np.uint32))
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return float(np.array(bits, np.uint32).view(np.float32))


def test_symmetric_weights_by_hand() -> None:
    """4 bits: scale amax / 7.5, codes -8..7; the largest positive value is cut off by half a step."""
    weight = torch.tensor([[7.5, -7.5, 1.0, 0.4]])
    grid = weight_grid(weight, 4, True, -1)
    assert grid.scale.tolist() == [[1.0]] and grid.zero.tolist() == [[0.0]]
    codes = quantize_weight(weight, grid)
    assert codes.tolist() == [[7, -8, 1, 0]]  # 7.5 rounds to the even 8, which is cut off at 7
    assert dequantize_weight(codes, grid).tolist() == [[7.0, -8.0, 1.0, 0.0]]


def test_asymmetric_weights_by_hand() -> None:
    """Range -3..12 in 15 steps of 1: zero = -8 + 3."""
    weight = torch.tensor([[-3.0, 12.0, 0.0, 4.4]])
    grid = weight_grid(weight, 4, False, -1)
    assert grid.scale.tolist() == [[1.0]] and grid.zero.tolist() == [[-5.0]]
    codes = quantize_weight(weight, grid)
    assert codes.tolist() == [[-8, 7, -5, -1]]
    assert dequantize_weight(codes, grid).tolist() == [[-3.0, 12.0, 0.0, 4.0]]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [-1, 32])
def test_weights_against_loops(bits: int, symmetric: bool, group: int) -> None:
    draw = np.random.default_rng(bits)
    weight = draw.normal(size=(5, 64)).astype(np.float32)
    grid = weight_grid(torch.from_numpy(weight), bits, symmetric, group)
    codes = quantize_weight(torch.from_numpy(weight), grid).numpy()
    size = 64 if group == -1 else group
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if symmetric and bits == 8:
        low = -127
    for row in range(5):
        for start in range(0, 64, size):
            part = weight[row, start : start + size]
            if symmetric:
                scale, zero = bf16(np.abs(part).max() / np.float32(127 if bits == 8 else 7.5)), 0
            else:
                least, most = min(part.min(), 0), max(part.max(), 0)
                scale = bf16((most - least) / np.float32(high - low))
                zero = int(np.clip(low - np.rint(least / np.float32(scale)), low, high))
            expected = np.clip(np.rint(part / np.float32(scale)) + zero, low, high)
            assert grid.scale[row, start // size] == scale and grid.zero[row, start // size] == zero
            assert np.array_equal(codes[row, start : start + size], expected)


def test_scales_are_bf16_values_that_their_storage_holds() -> None:
    values = torch.tensor([1.0, 1.00390625, 3e-9, 0.0, 1e6])
    rounded = round_scale(values)
    assert rounded.tolist()[:2] == [bf16(1.0), bf16(1.00390625)] and rounded[3] == 1.0  # a group of zeros
    half = round_scale(values, torch.float16)
    assert torch.equal(half, half.half().float()) and half[2] == 1.0 and half[4] == 65280.0


def test_clip_search_finds_the_best_of_its_grid() -> None:
    """One large value among 127 small ones: the range is cut; the error is that of an exhaustive search."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 128, generator=draw)
    weight[:, 7] = 6.0
    grid = weight_grid(weight, 4, True, 128, mse=True)
    plain = weight_grid(weight, 4, True, 128)
    assert torch.all(grid.scale < plain.scale)
    for row in range(3):
        least = np.inf
        for step in range(61):
            scale = np.float32(
                bf16(np.float32(weight[row].abs().max()) * np.float32(1 - step * 0.01) / np.float32(7.5))
            )
            w = weight[row].numpy()
            least = min(least, (np.abs(np.clip(np.rint(w / scale), -8, 7) * scale - w) ** 2.4).sum())
        found = dequantize_weight(quantize_weight(weight, grid), grid)[row] - weight[row]
        assert float((found.abs() ** 2.4).sum()) == pytest.approx(least, rel=1e-5)


def test_importance_moves_the_clip() -> None:
    """A large value that matters keeps its range."""
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(1, 128, generator=draw)
    weight[0, 7] = 6.0
    importance = torch.ones(128)
    importance[7] = 1e4
    assert weight_grid(weight, 4, True, 128, True, importance).scale > weight_grid(weight, 4, True, 128, True).scale


def test_activations_by_hand() -> None:
    x = torch.tensor([[127.0, -63.4, 0.5, 1.5]])
    assert fake_quantize(x, 8, True).tolist() == [[127.0, -63.0, 0.0, 2.0]]  # halves to even
    x = torch.tensor([[-5.0, 10.0, 0.4, 3.6]])
    assert fake_quantize(x, 4, False).tolist() == [[-5.0, 10.0, 0.0, 4.0]]
    assert fake_quantize(torch.zeros(2, 4), 4, False).tolist() == [[0.0] * 4] * 2
    assert fake_quantize(torch.zeros(2, 4), 8, True).tolist() == [[0.0] * 4] * 2
    x = torch.tensor([[-8.0, 7.0, 1.2, 16.0]])  # clip 0.5: -4..8, step 0.8
    assert torch.allclose(fake_quantize(x, 4, False, -1, 0.5), torch.tensor([[-4.0, 7.2, 1.6, 8.0]]))


def test_positive_and_negative_inputs_keep_zero_in_their_range() -> None:
    for sign in (1, -1):
        x = sign * torch.linspace(3, 18, 16)[None]
        found = fake_quantize(x, 4, False)
        assert (found - x).abs().max() <= 18 / 15 / 2 + 1e-5


def test_groups_and_rows_are_independent() -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(3, 5, 64, generator=draw)
    whole = fake_quantize(x, 4, False, 32)
    for token in range(3):
        for row in range(5):
            for start in (0, 32):
                part = x[token, row, start : start + 32]
                assert torch.equal(fake_quantize(part[None], 4, False)[0], whole[token, row, start : start + 32])


def test_kv_quantizers() -> None:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(1, 2, 3, 256, generator=draw)
    assert torch.equal(fake_quantize_kv(x), fake_quantize(x, 8, True))
    assert torch.equal(fake_quantize_kv4(x), fake_quantize(x, 4, False, 128))
    assert torch.equal(fake_quantize_kv4(x[..., :96]), fake_quantize(x[..., :96], 4, False))


@pytest.mark.parametrize(("bits", "symmetric", "group"), [(3, True, -1), (8, False, -1), (4, True, 48)])
def test_what_does_not_exist(bits: int, symmetric: bool, group: int) -> None:
    with pytest.raises(ValueError):
        fake_quantize(torch.zeros(1, 64), bits, symmetric, group)
    with pytest.raises(ValueError):
        weight_grid(torch.zeros(1, 64), 4, True, 48)


def test_clip_of_activations_is_the_best_of_the_grid() -> None:
    """Many normal values: cutting pays; the found clip has the least output error of all that are tried."""
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(200, 512, generator=draw)
    weights = [torch.randn(8, 512, generator=draw), torch.randn(4, 512, generator=draw)]
    scheme = ActivationScheme(4, False, PER_ROW)
    found = search_clip(x, weights, scheme)
    assert found < 1.0

    def error(clip: float) -> float:
        change = fake_quantize(x, 4, False, -1, clip) - x
        return sum(float((change @ weight.t()).square().sum()) for weight in weights)

    assert error(found) == pytest.approx(min(error(clip) for clip in np.arange(0.8, 1.001, 0.02)), rel=1e-4)
