"""Bytes of compressed-tensors' integer weights: codes <-> int32 words.

`pack-quantized`: the codes of a row, plus 2^(bits-1), as one string of bits, least significant first, padded with zero
bits to whole words. Zero points are packed by the same rule along the rows.
"""

import numpy as np

from agq.errors import AgqError


def packed_words(count: int, bits: int) -> int:
    """int32 words that `count` codes take."""
    return -(-count * bits // 32)


def unpack_unsigned(words: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """Words int32 [rows, words], each row a string of `bits` wide numbers from the low end -> uint8 [rows, columns]."""
    return _of_bytes(np.ascontiguousarray(words, dtype="<i4").view(np.uint8), bits)[:, :columns]


def _lowest(bits: int) -> int:
    if not 1 < bits <= 8:
        raise ValueError(f"bits must be between 2 and 8, not {bits}")
    return -(1 << (bits - 1))


def pack_int(codes: np.ndarray, bits: int) -> np.ndarray:
    """Signed codes int8 [rows, columns] (4 bits: -8..7) -> int32 [rows, ceil(columns * bits / 32)].

    Raises:
        ValueError: bits that no code has, codes out of range.
    """
    low = _lowest(bits)
    rows, columns = codes.shape
    words = packed_words(columns, bits)
    unsigned = np.zeros((rows, -(-words * 32 // bits)), np.uint8)
    wide = codes.dtype != np.int8 and codes.size and (codes.min() < low or codes.max() > -low - 1)
    np.add(codes.astype(np.int8, copy=False).view(np.uint8), np.uint8(-low), out=unsigned[:, :columns])  # modulo 256
    if wide or (unsigned.size and unsigned.max() >> bits):
        raise ValueError(f"codes of {bits} bits must be in {low}..{-low - 1}")
    return np.ascontiguousarray(_to_bytes(unsigned, bits)[:, : 4 * words]).view("<i4")


def unpack_int(words: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """The inverse of pack_int: int32 [rows, words] -> int8 [rows, columns]."""
    low = _lowest(bits)
    codes = unpack_unsigned(words, bits, columns).view(np.int8)
    codes += np.int8(low)  # 8 bits: 0..255 read as int8 is off by 256, which the sum takes back
    return codes


def _to_bytes(values: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [rows, n] below 2^bits -> uint8 [rows, ceil(n * bits / 8)]."""
    if 8 % bits:
        string = np.unpackbits(values[:, :, None], axis=2, count=bits, bitorder="little")
        return np.packbits(string.reshape(len(values), -1), axis=1, bitorder="little")
    share = 8 // bits
    data = values[:, 0::share].copy()
    for place in range(1, share):
        data |= values[:, place::share] << (bits * place)
    return data


def _of_bytes(data: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of _to_bytes, as a new array; ends with whatever the padding holds."""
    if 8 % bits:
        string = np.unpackbits(data, axis=1, bitorder="little")
        whole = string[:, : string.shape[1] // bits * bits].reshape(len(data), -1, bits)
        return np.packbits(whole, axis=2, bitorder="little")[:, :, 0]
    share = 8 // bits
    values = np.empty((data.shape[0], data.shape[1] * share), np.uint8)
    mask = np.uint8((1 << bits) - 1)
    for place in range(share):
        values[:, place::share] = (data >> (bits * place)) & mask
    return values


def pack_zero_points(zero: np.ndarray, bits: int) -> np.ndarray:
    """Signed zero points int8 [out, groups] -> `weight_zero_point` int32 [ceil(out * bits / 32), groups]."""
    return np.ascontiguousarray(pack_int(np.asarray(zero).T, bits).T)


def unpack_zero_points(words: np.ndarray, bits: int, rows: int) -> np.ndarray:
    """The inverse of pack_zero_points: int8 [rows, groups]."""
    return np.ascontiguousarray(unpack_int(np.asarray(words).T, bits, rows).T)


def check_range(codes: np.ndarray, bits: int, what: str) -> None:
    """AgqError when codes stored one per byte leave the range of their bits."""
    low = _lowest(bits)
    high = -low - 1
    if codes.size and (codes.min() < low or codes.max() > high):
        raise AgqError(
            f"{what} holds codes outside {low}..{high}, which {bits} bits cannot mean", hint="the folder is damaged"
        )
