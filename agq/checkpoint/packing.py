"""Bytes of compressed-tensors' integer weights: codes <-> int32 words.

`pack-quantized`: element i of a row stands, plus 2^(bits-1), in bits bits*(i mod (32/bits)) of word i // (32/bits),
least significant first; a ragged tail is padded with zero bits. Zero points are packed by the same rule along the rows.
"""

import numpy as np

from agq.errors import AgqError


def packed_words(count: int, bits: int) -> int:
    """int32 words that `count` codes of 4 or 8 bits take."""
    return -(-count * bits // 32)


def pack_int(codes: np.ndarray, bits: int) -> np.ndarray:
    """Signed codes int8 [rows, columns] (4 bits: -8..7) -> int32 [rows, ceil(columns * bits / 32)].

    Raises:
        ValueError: bits other than 4 or 8, codes out of range.
    """
    if bits not in (4, 8):
        raise ValueError(f"bits must be 4 or 8, not {bits}")
    codes = np.asarray(codes)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if codes.size and (codes.min() < low or codes.max() > high):
        raise ValueError(f"codes of {bits} bits must be in {low}..{high}")
    rows, columns = codes.shape
    words = packed_words(columns, bits)
    unsigned = np.zeros((rows, words * 32 // bits), np.uint8)
    unsigned[:, :columns] = (codes.astype(np.int16) - low).astype(np.uint8)
    if bits == 4:
        unsigned = unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
    return np.ascontiguousarray(unsigned).view("<i4")


def unpack_int(words: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """The inverse of pack_int: int32 [rows, words] -> int8 [rows, columns]."""
    data = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    if bits == 8:
        return (data[:, :columns] ^ np.uint8(0x80)).view(np.int8)
    if bits != 4:
        raise ValueError(f"bits must be 4 or 8, not {bits}")
    codes = np.empty((data.shape[0], data.shape[1] * 2), np.int8)
    codes[:, 0::2] = (data & 0xF).view(np.int8)
    codes[:, 1::2] = (data >> 4).view(np.int8)
    codes = codes[:, :columns]
    codes -= 8
    return codes


def pack_int4(codes: np.ndarray) -> np.ndarray:
    """Signed 4-bit codes int8 [out, in] -> `weight_packed` int32 [out, ceil(in/8)]."""
    return pack_int(codes, 4)


def pack_zero_points(zero: np.ndarray, bits: int) -> np.ndarray:
    """Signed zero points int8 [out, groups] -> `weight_zero_point` int32 [ceil(out * bits / 32), groups]."""
    return np.ascontiguousarray(pack_int(np.asarray(zero).T, bits).T)


def unpack_zero_points(words: np.ndarray, bits: int, rows: int) -> np.ndarray:
    """The inverse of pack_zero_points: int8 [rows, groups]."""
    return np.ascontiguousarray(unpack_int(np.asarray(words).T, bits, rows).T)


def check_range(codes: np.ndarray, bits: int, what: str) -> None:
    """AgqError when codes stored one per byte leave the range of their bits."""
    if bits == 4 and codes.size and (codes.min() < -8 or codes.max() > 7):
        raise AgqError(f"{what} holds codes outside -8..7, which 4 bits cannot mean", hint="the folder is damaged")
