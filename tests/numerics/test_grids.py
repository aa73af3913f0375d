"""Grids by hand: limits of the codes, columns, groups that lie away from zero, stored scales, clip and chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agq.formats.cache import four_bit_group
from agq.numerics.quantizers import (
    Grid,
    dequantize_weight,
    fake_quantize,
    quantize_weight,
    round_scale,
    weight_grid,
)


@pytest.mark.parametrize(
    ("bits", "symmetric", "low", "high"),
    [(4, True, -8, 7), (4, False, -8, 7), (8, True, -127, 127), (8, False, -128, 127)],
)
def test_codes_stay_within_their_limits(bits: int, symmetric: bool, low: int, high: int) -> None:
    """Symmetric 8-bit codes leave -128 out, whatever the weights."""
    grid = Grid(torch.ones(1, 1), torch.zeros(1, 1), bits, symmetric, 4)
    assert grid.limits == (low, high)
    codes = quantize_weight(torch.tensor([[-1000.0, low, high, 1000.0]]), grid)
    assert codes.dtype == torch.int8 and codes.tolist() == [[low, low, high, high]]


def test_columns_carry_their_groups_scale_and_zero() -> None:
    grid = Grid(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, -8.0]]), 4, False, 3)
    scale, zero = grid.columns()
    assert scale.tolist() == [[1, 3]] * 3 + [[2, 4]] * 3 and zero.tolist() == [[5, 7]] * 3 + [[6, -8]] * 3
    scale, zero = grid.columns(torch.tensor([5, 0, 3, 2]))
    assert scale.tolist() == [[2, 4], [1, 3], [2, 4], [1, 3]] and zero.tolist() == [[6, -8], [5, 7], [6, -8], [5, 7]]
    assert scale.is_contiguous() and zero.is_contiguous()


@pytest.mark.parametrize("mse", [False, True])
@pytest.mark.parametrize(("sign", "zero", "codes"), [(1.0, -8.0, [-6, -4, 2, 7]), (-1.0, 7.0, [5, 3, -3, -8])])
def test_groups_away_from_zero_keep_it_in_their_range(mse: bool, sign: float, zero: float, codes: list[int]) -> None:
    """4, 8, 20, 30 are covered from 0 on, in steps of 2; the second group has steps of 4: each has its own scale."""
    weight = sign * torch.tensor([[4.0, 8.0, 20.0, 30.0, 8.0, 16.0, 40.0, 60.0]])
    grid = weight_grid(weight, 4, False, 4, mse)
    assert grid.scale.tolist() == [[2.0, 4.0]] and grid.zero.tolist() == [[zero, zero]]
    found = quantize_weight(weight, grid)
    assert found.tolist() == [codes + codes]
    assert torch.equal(dequantize_weight(found, grid), weight)


def test_zero_point_is_a_code() -> None:
    """Of -3.49 .. 11.5 in steps of 1 (bf16 of 14.99 / 15): round(3.49) = 3 below zero, and halves to even: 2.5 -> 2."""
    weight = torch.tensor([[-3.49, 11.5], [-2.5, 12.5], [-3.5, 11.5]])
    grid = weight_grid(weight, 4, False, 2)
    assert grid.scale.tolist() == [[1.0]] * 3 and grid.zero.tolist() == [[-5.0], [-6.0], [-4.0]]


def test_zero_point_stays_a_code_where_the_stored_scale_is_smaller() -> None:
    """255.98 / 255 is stored as 1, so that round(255.98) = 256 would lie one beyond the codes."""
    grid = weight_grid(torch.tensor([[-255.98, -1.0]]), 8, False, -1)
    assert grid.scale.tolist() == [[1.0]] and grid.zero.tolist() == [[127.0]]


def test_rounding_is_half_to_even() -> None:
    grid = Grid(torch.full((1, 1), 2.0), torch.zeros(1, 1), 4, True, 8)
    weight = torch.tensor([[1.0, 3.0, 5.0, 7.0, -1.0, -3.0, -5.0, -7.0]])
    assert quantize_weight(weight, grid).tolist() == [[0, 2, 2, 4, 0, -2, -2, -4]]


def test_scale_of_symmetric_weights() -> None:
    """4 bits: amax / 7.5, of whichever sign; 8 bits: amax / 127."""
    weight = torch.tensor([[15.0, -3.0, 1.0, 0.0], [3.0, -30.0, 1.0, 0.0]])
    assert weight_grid(weight, 4, True, -1).scale.tolist() == [[2.0], [4.0]]
    assert weight_grid(weight / 15 * 127, 8, True, -1).scale.tolist() == [[1.0], [2.0]]


def test_stored_scales() -> None:
    """bf16 halves to even: 1 + 1/256 -> 1, 1 + 3/256 -> 1 + 4/256. fp16 ends at 65280 in bf16's steps, and its smallest
    is 2^-24; what is not positive and finite becomes 1."""
    values = torch.tensor([1 + 1 / 256, 1 + 3 / 256, 2.0**-24, 2.0**-26, 1e9, 0.0, float("inf"), float("nan"), -2.0])
    assert round_scale(values).tolist()[:7] == [1.0, 1.015625, 2.0**-24, 2.0**-26, 238 * 2.0**22, 1.0, 1.0]
    assert round_scale(values)[7:].tolist() == [1.0, 1.0]
    half = round_scale(values, torch.float16)
    assert half.tolist()[:6] == [1.0, 1.015625, 2.0**-24, 1.0, 65280.0, 1.0] and half[8] == 1.0


def test_clip_search_knows_the_importance_of_each_channel() -> None:
    """Against an exhaustive search in float64, in two groups, with a mean square of its own for each column."""
    draw = np.random.default_rng(0)
    weight = draw.standard_t(3, (4, 64)).astype(np.float32)
    importance = draw.gamma(0.3, size=64).astype(np.float32)
    for symmetric in (True, False):
        grid = weight_grid(torch.from_numpy(weight), 4, symmetric, 32, True, torch.from_numpy(importance))
        for row in range(4):
            for group in range(2):
                part = slice(32 * group, 32 * group + 32)
                w, share = weight[row, part].astype(np.float64), importance[part].astype(np.float64)
                errors = []
                for step in range(61):
                    shrunk = torch.from_numpy(np.float32([w.min(), w.max()]) * np.float32(1 - step * 0.6 / 60))[None]
                    tried = weight_grid(shrunk, 4, symmetric, -1)
                    scale, zero = float(tried.scale), float(tried.zero)
                    codes = np.clip(np.rint(w / scale) + zero, -8, 7)
                    errors.append((share * np.abs((codes - zero) * scale - w) ** 2.4).sum())
                scale, zero = float(grid.scale[row, group]), float(grid.zero[row, group])
                found = (np.clip(np.rint(w / scale) + zero, -8, 7) - zero) * scale
                assert (share * np.abs(found - w) ** 2.4).sum() == pytest.approx(min(errors), rel=1e-3)


@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (4, True), (4, False)])
def test_activations_against_float64(bits: int, symmetric: bool) -> None:
    """Every row and group with numbers of its own, more rows than are worked on at once, and a clip."""
    draw = np.random.default_rng(bits)
    x = (draw.normal(size=(3000, 192)) * draw.uniform(0.1, 50, (3000, 1)) + draw.normal(size=(3000, 1))).astype(
        np.float32
    )
    x[7] = 0
    for clip in (1.0, 0.8):
        found = (
            fake_quantize(torch.from_numpy(x).reshape(2, 1500, 192), bits, symmetric, 96, clip).numpy().reshape(-1, 96)
        )
        rows = x.reshape(-1, 96).astype(np.float64)
        if symmetric:
            most = 127 if bits == 8 else 7
            scale = np.abs(rows).max(axis=1, keepdims=True) * clip / most
            scale[scale == 0] = 1
            expected = np.clip(np.rint(rows / scale), -most, most) * scale
        else:
            low, high = np.minimum(rows.min(axis=1), 0) * clip, np.maximum(rows.max(axis=1), 0) * clip
            scale = ((high - low) / 15)[:, None]
            scale[scale == 0] = 1
            zero = np.rint(-low[:, None] / scale)
            expected = (np.clip(np.rint(rows / scale) + zero, 0, 15) - zero) * scale
        differs = np.abs(found - expected) > 1e-5 * np.abs(rows).max(axis=1, keepdims=True)
        assert differs.mean() < 1e-4  # float32 against float64: a tie may fall the other way


def test_sixteen_bits_change_nothing() -> None:
    x = torch.randn(3, 7)
    assert fake_quantize(x, 16, True, 5) is x


def test_groups_of_the_kv_cache() -> None:
    assert [four_bit_group(width) for width in (32, 64, 96, 128, 160, 192, 256)] == [32, 64, 96, 128, 160, 192, 128]
