"""Layout rl16: the definition in docs/artifact.md, written out element by element, and round trips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agq.artifact import layout
from agq.formats import WEIGHTS

shapes = st.tuples(st.integers(1, 70), st.integers(1, 200))


def codes(shape: tuple[int, int], low: int, high: int, dtype: type, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(dtype)


@pytest.mark.parametrize("shape", [(1, 1), (16, 32), (17, 40), (33, 100), (40, 72)])
def test_u4_byte_by_byte(shape: tuple[int, int]) -> None:
    rows, columns = shape
    values = codes(shape, 0, 15, np.uint8)
    data = layout.pack_u4(values)
    padded = np.zeros((layout.round_up(rows, 16), layout.round_up(columns, 32)), np.uint8)
    padded[:rows, :columns] = values
    units = padded.shape[1] // 8
    assert data.nbytes == layout.weight_bytes(WEIGHTS["u4"], rows, columns)
    for panel in range(padded.shape[0] // 16):
        for unit in range(units):
            for row in range(16):
                for byte in range(4):
                    value = data[((panel * units + unit) * 16 + row) * 4 + byte]
                    assert value & 15 == padded[panel * 16 + row, 8 * unit + byte]
                    assert value >> 4 == padded[panel * 16 + row, 8 * unit + 4 + byte]


@pytest.mark.parametrize("shape", [(1, 1), (16, 32), (17, 40), (40, 72)])
def test_i8_and_float_element_by_element(shape: tuple[int, int]) -> None:
    rows, columns = shape
    values = codes(shape, -128, 127, np.int8)
    data = layout.pack_i8(values).view(np.int8)
    units = layout.round_up(columns, 32) // 4
    floats = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    flat = layout.pack_rows(floats)
    for row in range(rows):
        panel, lane = divmod(row, 16)
        for column in range(columns):
            unit, byte = divmod(column, 4)
            assert data[((panel * units + unit) * 16 + lane) * 4 + byte] == values[row, column]
            assert flat[(panel * columns + column) * 16 + lane] == floats[row, column]


@settings(max_examples=60, deadline=None)
@given(shape=shapes, seed=st.integers(0, 99))
def test_round_trips(shape: tuple[int, int], seed: int) -> None:
    rows, columns = shape
    u4, i8 = codes(shape, 0, 15, np.uint8, seed), codes(shape, -128, 127, np.int8, seed)
    assert np.array_equal(layout.unpack_u4(layout.pack_u4(u4), rows, columns), u4)
    assert np.array_equal(layout.unpack_i8(layout.pack_i8(i8), rows, columns), i8)
    assert layout.pack_i8(i8).nbytes == layout.weight_bytes(WEIGHTS["i8"], rows, columns)
    for dtype in (np.float32, np.float16, np.uint16, np.int8):
        values = i8.astype(dtype)
        packed = layout.pack_rows(values)
        assert packed.nbytes == layout.rows_bytes(rows, columns, packed.itemsize)
        assert packed.dtype == dtype and np.array_equal(layout.unpack_rows(packed, rows, columns), values)


@given(shape=shapes)
@settings(max_examples=30, deadline=None)
def test_pieces_join_to_the_whole(shape: tuple[int, int]) -> None:
    values = codes(shape, 0, 15, np.uint8)
    pieces = [values[start : start + 32] for start in range(0, shape[0], 32)]
    assert np.array_equal(np.concatenate([layout.pack_u4(piece) for piece in pieces]), layout.pack_u4(values))
    assert np.array_equal(np.concatenate([layout.pack_rows(piece) for piece in pieces]), layout.pack_rows(values))


def test_sizes_by_hand() -> None:
    """33 rows are three panels of 16, 72 columns are padded to 96; float columns are not padded."""
    assert (layout.PANEL, layout.COLUMN_PAD, layout.ALIGN) == (16, 32, 64)
    u4, i8, f16 = (WEIGHTS[name] for name in ("u4", "i8", "f16"))
    assert layout.weight_bytes(u4, 33, 72) == 48 * 96 // 2 and layout.weight_bytes(i8, 33, 72) == 48 * 96
    assert layout.weight_bytes(f16, 33, 72) == 48 * 72 * 2 and layout.weight_bytes(u4, 16, 32) == 256
    assert [layout.round_up(value, 16) for value in (0, 1, 16, 17)] == [0, 16, 16, 32]


def test_padding_is_zero() -> None:
    data = layout.pack_u4(np.full((1, 1), 15, np.uint8))
    assert data[0] == 15 and not data[1:].any()
    assert layout.pack_rows(np.ones((3, 2), np.float32)).reshape(2, 16)[:, 3:].sum() == 0
