"""Quantized linears as stored tensors, by hand: bytes of codes, scales and zero points, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agq.formats import PER_ROW, PerGroup
from agq.numerics.quantizers import Grid, dequantize_weight
from agq.quantization.encode import decode, decode_codes, encode
from agq.quantization.stored import store_float
from agq.quantization.walk import QuantizedLinear
from agq.recipe import ActivationScheme, Scheme, WeightScheme

EIGHT = [[-8, -7, 0, 7, 1, 2, 3, 4], [6, 5, 4, 3, -1, -2, -3, -4], [0, 0, 1, 1, 2, 2, -5, -6]]
CODES = torch.tensor(EIGHT).to(torch.int8).repeat(1, 8)  # two groups of 32
SCALE = torch.tensor([[0.5, 0.25], [1.0, 2.0], [0.125, 4.0]])
ZERO = torch.tensor([[-8.0, 7.0], [3.0, 0.0], [-1.0, 5.0]])


def linear(symmetric: bool) -> tuple[QuantizedLinear, Scheme]:
    scheme = Scheme(WeightScheme(4, symmetric, PerGroup(32)), ActivationScheme(8, True))
    grid = Grid(SCALE, torch.zeros_like(ZERO) if symmetric else ZERO, 4, symmetric, 32)
    return QuantizedLinear(CODES, grid, scheme), scheme


def test_floats_are_stored_to_nearest_even() -> None:
    """bf16 keeps 8 bits: 1 + 1/256 lies in the middle of two and goes to the even 1, 1 + 3/256 to 1 + 4/256."""
    values = np.array([1.0, 1 + 1 / 256, 1 + 3 / 256, -0.3, 65280.0], np.float32)
    assert [f"{bits:04x}" for bits in store_float(values, "BF16")] == ["3f80", "3f80", "3f82", "be9a", "477f"]
    half = store_float(values, "F16")
    assert half.dtype == np.float16 and half.tolist() == [1.0, 1.00390625, 1.01171875, -0.300048828125, 65280.0]
    single = store_float(values, "F32")
    assert single.dtype == np.float32 and np.array_equal(single, values)


def test_packed_tensors_by_hand() -> None:
    quantized, _ = linear(symmetric=False)
    tensors = encode("m", quantized, "pack-quantized", "BF16")
    assert {name: (dtype, value.shape) for name, (dtype, value) in tensors.items()} == {
        "m.weight_packed": ("I32", (3, 8)), "m.weight_shape": ("I64", (2,)), "m.weight_scale": ("BF16", (3, 2)),
        "m.weight_zero_point": ("I32", (1, 2)),
    }  # fmt: skip
    for row, word in zip(tensors["m.weight_packed"][1], ("cba9f810", "4567bcde", "23aa9988"), strict=True):
        assert [f"{int(found) & 0xFFFFFFFF:08x}" for found in row] == [word] * 8
    assert tensors["m.weight_shape"][1].tolist() == [3, 64]
    assert [f"{bits:04x}" for bits in tensors["m.weight_scale"][1].ravel()] == [
        "3f00", "3e80", "3f80", "4000", "3e00", "4080",
    ]  # fmt: skip
    assert [f"{int(word):08x}" for word in tensors["m.weight_zero_point"][1][0]] == ["000007b0", "00000d8f"]


def test_plain_tensors_by_hand() -> None:
    quantized, _ = linear(symmetric=False)
    tensors = encode("m", quantized, "int-quantized", "F16")
    assert sorted(tensors) == ["m.weight", "m.weight_scale", "m.weight_zero_point"]
    assert tensors["m.weight"][0] == "I8" and np.array_equal(tensors["m.weight"][1], CODES.numpy())
    dtype, zero = tensors["m.weight_zero_point"]
    assert dtype == "I8" and zero.dtype == np.int8 and np.array_equal(zero, ZERO.numpy())
    assert "m.weight_zero_point" not in encode("m", linear(True)[0], "int-quantized", "F16")


@pytest.mark.parametrize("format", ["pack-quantized", "int-quantized"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_way_back(format: str, dtype: str, symmetric: bool) -> None:
    quantized, scheme = linear(symmetric)
    tensors = encode("m", quantized, format, dtype)
    codes, grid = decode_codes("m", tensors, scheme, 64)
    assert codes.dtype == torch.int8 and torch.equal(codes, CODES)
    assert torch.equal(grid.scale, SCALE) and torch.equal(grid.zero, quantized.grid.zero) and grid.group_size == 32
    zero = quantized.grid.zero.repeat_interleave(32, dim=1)
    expected = (CODES.float() - zero) * SCALE.repeat_interleave(32, dim=1)
    assert torch.equal(decode("m", tensors, scheme, 64), expected)
    assert torch.equal(dequantize_weight(codes, grid), expected)


def test_one_group_per_row() -> None:
    grid = Grid(SCALE[:, :1], torch.zeros(3, 1), 4, True, 64)
    scheme = Scheme(WeightScheme(4, True, PER_ROW), ActivationScheme(8, True))
    _, found = decode_codes("m", encode("m", QuantizedLinear(CODES, grid, scheme), "pack-quantized", "F32"), scheme, 64)
    assert found.group_size == 64
