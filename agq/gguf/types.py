"""GGUF's block types whose codes a packed file keeps as they are: one row each.

A block is a run of columns of one row that stands in the file as a whole: one scale or more, perhaps a minimum, codes.
All types here have a scale, and perhaps a minimum, for each 32 columns: value = code * scale + minimum. The others have
a scale for 16 columns, or take whole runs of values from tables; `gguf.quants.dequantize` gives those.
Format: ggml-common.h and ggml-quants.c of github.com/ggml-org/ggml.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import IQ4_NL, MXFP4, Q4_K

GROUP = 32  # columns that share a scale
_AT_ONCE = 1 << 16  # values that are made at once: they stay in a core's cache
Pair = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class BlockType:
    """A block type of exact codes.

    Attributes:
        name: in GGUF. bits: of the codes in a packed file, 4 or 8.
        minimum: there is one for each group. Codes of 4 bits without one are signed, -8..7; all others are the numbers
            that the scale multiplies.
        codes: blocks uint8 [n, bytes] -> codes uint8 or int8 [n, columns].
        scales: blocks uint8 [n, bytes] -> (scale, minimum or None), float32 [n, columns / 32].
    """

    name: str
    bits: int
    minimum: bool
    codes: Callable[[np.ndarray], np.ndarray]
    scales: Callable[[np.ndarray], Pair]

    @property
    def bytes(self) -> int:
        """Of a block."""
        return int(GGML_QUANT_SIZES[GGMLQuantizationType[self.name]][1])

    def values(self, blocks: np.ndarray) -> np.ndarray:
        """Blocks uint8 [n, bytes] as floats, float32 [n, columns]: the package's values, in a third of its time."""
        columns = int(GGML_QUANT_SIZES[GGMLQuantizationType[self.name]][0])
        made = np.empty((len(blocks), columns), np.float32)
        step = max(1, _AT_ONCE // columns)
        for start in range(0, len(blocks), step):
            part = np.ascontiguousarray(blocks[start : start + step])
            groups = made[start : start + step].reshape(len(part), -1, GROUP)
            scale, minimum = self.scales(part)
            groups[...] = self.codes(part).reshape(groups.shape)
            groups *= scale[:, :, None]
            if minimum is not None:
                groups += minimum[:, :, None]
        return made


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The float16 at byte `at` as float32 [n, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(data: np.ndarray, run: int = 16) -> np.ndarray:
    """uint8 [n, bytes] -> [n, 2 * bytes]: of each `run` bytes the low halves, then the high ones."""
    data = data.reshape(len(data), -1, run)
    halves = np.empty((*data.shape[:2], 2, run), np.uint8)
    np.bitwise_and(data, 0x0F, out=halves[:, :, 0])
    np.right_shift(data, 4, out=halves[:, :, 1])
    return halves.reshape(len(data), -1)


def _fifth(blocks: np.ndarray, at: int) -> np.ndarray:
    """Bit 4 of the codes of a block of 32, from the four bytes at `at`: 0 or 16."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << 4


def _scale_of_32(blocks: np.ndarray) -> Pair:
    return _half(blocks, 0), None


def _scale_and_minimum_of_32(blocks: np.ndarray) -> Pair:
    return _half(blocks, 0), _half(blocks, 2)


def _signed(codes: np.ndarray, zero: int) -> np.ndarray:
    return (codes - np.uint8(zero)).view(np.int8)


def _table(kvalues: tuple[int, ...], codes: np.ndarray) -> np.ndarray:
    """Values of indices 0..15."""
    return np.array(kvalues, np.int8)[codes]


def _k_scales(blocks: np.ndarray) -> Pair:
    """Eight scales and minima of 6 bits, times the block's own two float16."""
    scale, minimum = Q4_K.get_scale_min(np.ascontiguousarray(blocks[:, 4:16]))
    return _half(blocks, 0) * scale.astype(np.float32), -(_half(blocks, 2) * minimum.astype(np.float32))


def _k_fifth(blocks: np.ndarray) -> np.ndarray:
    """Bit 4 of the codes of Q5_K: bit g of the 32 bytes for the group g of 32 columns."""
    bits = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[None, :, None]
    return ((bits & 1) << 4).reshape(len(blocks), -1)


def _iq4_xs_scales(blocks: np.ndarray) -> Pair:
    """Eight scales of 6 bits, minus 32, times the block's float16."""
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)
    low = blocks[:, 4:8, None] >> np.array([0, 4], np.uint8)
    six = (low.reshape(len(blocks), 8) & 0x0F) | ((high.astype(np.uint8) & 3) << 4)
    return _half(blocks, 0) * _signed(six, 32).astype(np.float32), None


_ROWS = (
    BlockType("Q4_0", 4, False, lambda b: _signed(_nibbles(b[:, 2:]), 8), _scale_of_32),
    BlockType("Q4_1", 4, True, lambda b: _nibbles(b[:, 4:]), _scale_and_minimum_of_32),
    BlockType("Q5_0", 8, False, lambda b: _signed(_nibbles(b[:, 6:]) | _fifth(b, 2), 16), _scale_of_32),
    BlockType("Q5_1", 8, True, lambda b: _nibbles(b[:, 8:]) | _fifth(b, 4), _scale_and_minimum_of_32),
    BlockType("Q8_0", 8, False, lambda b: b[:, 2:].view(np.int8), _scale_of_32),
    BlockType("Q4_K", 4, True, lambda b: _nibbles(b[:, 16:], 32), _k_scales),
    BlockType("Q5_K", 8, True, lambda b: _nibbles(b[:, 48:], 32) | _k_fifth(b), _k_scales),
    BlockType("IQ4_NL", 8, False, lambda b: _table(IQ4_NL.kvalues, _nibbles(b[:, 2:])), _scale_of_32),
    BlockType("IQ4_XS", 8, False, lambda b: _table(IQ4_NL.kvalues, _nibbles(b[:, 8:])), _iq4_xs_scales),
    BlockType(
        "MXFP4",
        8,
        False,
        lambda b: _table(MXFP4.kvalues, _nibbles(b[:, 1:])),
        lambda b: (MXFP4.e8m0_to_fp32_half(b[:, :1]), None),
    ),
)
# By name.
BLOCKS = {row.name: row for row in _ROWS}
# GGUF's floats -> safetensors dtype.
FLOATS = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
