"""Formats of what a running model keeps or looks up: the KV cache, the output head, the embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agq.formats.choices import Widths
from agq.formats.weights import WEIGHTS, WeightFormat


@dataclass(frozen=True)
class CacheFormat:
    """A format of keys and values.

    Attributes:
        bits: width.
        quantized: integers.
        rotated: queries and keys go through a Walsh-Hadamard transform before the keys are quantized.
        head_bytes: bytes of key and value of one head at one position, of the head's channels (kernels/src/ops/kv.c,
            kv4.c).
    """

    bits: int
    quantized: bool
    rotated: bool
    head_bytes: Callable[[int], int]


def four_bit_group(channels: int) -> int:
    """Channels of a head that share a scale in the 4-bit cache: 128 where that divides the head, else all."""
    return 128 if channels % 128 == 0 else channels


def _four_bits(channels: int) -> int:
    """A float scale and a byte of zero point for each group. Two key channels share a byte; values are stored in runs
    of 32 channels."""
    codes = -(-channels // 2) + 16 * -(-channels // 32)
    return codes + 2 * (channels // four_bit_group(channels)) * 5


_CACHES = (
    CacheFormat(4, True, True, _four_bits),
    CacheFormat(8, True, False, lambda channels: 2 * (channels + 4)),  # codes and one float scale
    CacheFormat(32, False, False, lambda channels: 2 * 4 * channels),
)
CACHES = {row.bits: row for row in _CACHES}
KV_CACHE = Widths("a KV cache", tuple(CACHES))
# What a model with integer weights gets where nobody names a width; what one of floats gets.
DEFAULT_CACHE, FLOAT_CACHE = CACHES[8], CACHES[32]
# Integer attention keeps codes of static scales, and no scales beside them.
LOG2_CACHE = CacheFormat(8, True, False, lambda channels: 2 * channels)


def cache_format(bits: int) -> CacheFormat:
    """The row of a width. Raises AgqError for another one."""
    KV_CACHE.check(bits)
    return CACHES[bits]


@dataclass(frozen=True)
class TableFormat:
    """A width of output head and embedding, and the element types that have it, the usual one first."""

    bits: int
    types: tuple[str, ...]

    @property
    def integer(self) -> bool:
        """Codes with scales."""
        return WEIGHTS[self.types[0]].integer

    def of(self, *preferred: str | None) -> WeightFormat:
        """The first of the preferred types that has this width, else the usual one."""
        return WEIGHTS[next((name for name in preferred if name in self.types), self.types[0])]


_TABLES = (
    TableFormat(4, ("u4",)),
    TableFormat(6, ("i6",)),
    TableFormat(8, ("i8",)),
    TableFormat(16, ("f16", "bf16")),
    TableFormat(32, ("f32",)),
)
TABLES = {row.bits: row for row in _TABLES}
HEAD = Widths("an output head", tuple(TABLES))
# A table of its own is read row by row: no codes that share bytes.
EMBEDDING = Widths("an embedding", tuple(bits for bits in TABLES if bits % 8 == 0))
# What a quantized model's head has where nobody names a width.
DEFAULT_TABLE = TABLES[8]
# Instead of a width: the one that measuring finds.
AUTO = "auto"
