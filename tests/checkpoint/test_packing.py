"""Packed integer weights by hand: the words of a few codes, their order, offset, padding and direction."""

from __future__ import annotations

import numpy as np
import pytest

from agq.checkpoint.packing import (
    check_range,
    pack_int,
    pack_zero_points,
    packed_words,
    unpack_int,
    unpack_zero_points,
)
from agq.errors import AgqError


def hexes(words: np.ndarray) -> list[list[str]]:
    return [[f"{int(word) & 0xFFFFFFFF:08x}" for word in row] for row in words]


def test_eight_codes_of_four_bits_fill_a_word_from_its_low_end() -> None:
    """-8 stands as 0, 0 as 8, 7 as 15; the ninth code begins a word whose rest is zero bits."""
    codes = np.array([[-8, -7, -6, 0, 1, 2, 6, 7, -5], [7, 7, 7, 7, 7, 7, 7, 7, 7]], np.int8)
    words = pack_int(codes, 4)
    assert words.dtype == np.int32 and words.flags.c_contiguous
    assert hexes(words) == [["fea98210", "00000003"], ["ffffffff", "0000000f"]]
    found = unpack_int(words, 4, 9)
    assert found.dtype == np.int8 and np.array_equal(found, codes)


def test_long_rows_word_by_word() -> None:
    """Two matrices of one shape, so that nothing left over from the first can stand in the second."""
    for seed in (0, 1):
        codes = np.random.default_rng(seed).integers(-8, 8, (5, 203)).astype(np.int8)
        words = pack_int(codes, 4)
        assert words.shape == (5, 26)
        for row in range(5):
            for column in range(208):
                expected = codes[row, column] + 8 if column < 203 else 0
                assert (int(words[row, column // 8]) >> 4 * (column % 8)) & 15 == expected
        assert np.array_equal(unpack_int(words, 4, 203), codes)


def test_four_codes_of_eight_bits_fill_a_word_from_its_low_end() -> None:
    codes = np.array([[-128, -1, 0, 127, 1]], np.int8)
    words = pack_int(codes, 8)
    assert hexes(words) == [["ff807f00", "00000081"]]
    found = unpack_int(words, 8, 5)
    assert found.dtype == np.int8 and np.array_equal(found, codes)


def test_zero_points_are_packed_down_the_rows() -> None:
    """Rows of one group share a word: 10 rows are two words, the second with two codes."""
    zero = np.array([[-8, 7], [-7, 6], [-6, 5], [-5, 4], [-4, 3], [-3, 2], [-2, 1], [-1, 0], [0, -1], [1, -2]], np.int8)
    words = pack_zero_points(zero, 4)
    assert words.flags.c_contiguous
    assert hexes(words) == [["76543210", "89abcdef"], ["00000098", "00000067"]]
    assert np.array_equal(unpack_zero_points(words, 4, 10), zero)


@pytest.mark.parametrize(("count", "bits", "words"), [(1, 4, 1), (8, 4, 1), (9, 4, 2), (4, 8, 1), (5, 8, 2), (0, 4, 0)])
def test_number_of_words(count: int, bits: int, words: int) -> None:
    assert packed_words(count, bits) == words


@pytest.mark.parametrize(("bits", "low", "high"), [(4, -8, 7), (8, -128, 127)])
def test_all_codes_of_the_bits_and_no_others(bits: int, low: int, high: int) -> None:
    everything = np.arange(low, high + 1, dtype=np.int16)[None]
    assert np.array_equal(unpack_int(pack_int(everything, bits), bits, everything.size), everything)
    for wrong in (low - 1, high + 1):  # one alone, among codes that are right
        codes = np.zeros((2, 8), np.int16)
        codes[1, 3] = wrong
        with pytest.raises(ValueError, match=rf"{low}\.\.{high}"):
            pack_int(codes, bits)
    assert pack_int(np.zeros((0, 8), np.int8), bits).shape[0] == 0
    with pytest.raises(ValueError, match=r"-8\.\.7"):
        pack_int(np.full((1, 8), 8, np.int8), 4)


def test_codes_stored_one_per_byte_keep_to_their_bits() -> None:
    check_range(np.array([[-8, 7]], np.int8), 4, "x")
    check_range(np.array([[-128, 127]], np.int8), 8, "x")
    check_range(np.zeros((0, 4), np.int8), 4, "x")
    for wrong in (-9, 8):
        with pytest.raises(AgqError, match=r"x holds codes outside -8\.\.7"):
            check_range(np.array([[0, wrong]], np.int8), 4, "x")
