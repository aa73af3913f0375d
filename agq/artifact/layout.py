"""Layout `rl16` of the packed artifact (docs/artifact.md): panels of 16 output rows, one row per 32-bit lane. All
processors read it.

All functions take whole panels or the last rows of a matrix, so a matrix can be packed in pieces.
"""

from collections.abc import Callable

import numpy as np

from agq.formats import WeightFormat
from agq.formats.groups import STEP

LAYOUT = "rl16"
PANEL = 16  # rows
COLUMN_PAD = STEP  # columns of integer weights are padded up to a multiple
ALIGN = 64  # bytes


def round_up(value: int, multiple: int) -> int:
    """The next multiple."""
    return -(-value // multiple) * multiple


def weight_bytes(format: WeightFormat, rows: int, columns: int) -> int:
    """Bytes of a weight matrix [rows, columns]."""
    if not format.integer:
        return rows_bytes(rows, columns, format.bytes)
    return round_up(rows, PANEL) * round_up(columns, COLUMN_PAD) * format.bits // 8


def rows_bytes(rows: int, columns: int, itemsize: int) -> int:
    """Bytes of a float matrix, or of scales and zero points [rows, groups]."""
    return round_up(rows, PANEL) * columns * itemsize


def _padded(values: np.ndarray, columns: int) -> np.ndarray:
    rows = round_up(values.shape[0], PANEL)
    if (rows, columns) == values.shape:
        return np.ascontiguousarray(values)
    out = np.zeros((rows, columns), values.dtype)
    out[: values.shape[0], : values.shape[1]] = values
    return out


def _lanes(units: np.ndarray, rows: int) -> np.ndarray:
    """Bytes [rows, 4 * units] -> [panel][unit][16 rows][4 bytes], flat."""
    lanes = units.view(np.uint32).reshape(rows // PANEL, PANEL, -1)
    return np.ascontiguousarray(lanes.transpose(0, 2, 1)).reshape(-1).view(np.uint8)


def _unlanes(data: np.ndarray, rows: int) -> np.ndarray:
    """The inverse of _lanes: bytes [rows padded, 4 * units]."""
    panels = round_up(rows, PANEL) // PANEL
    lanes = np.ascontiguousarray(data).view(np.uint32).reshape(panels, -1, PANEL)
    return np.ascontiguousarray(lanes.transpose(0, 2, 1)).reshape(panels * PANEL, -1).view(np.uint8)


def pack_u4(codes: np.ndarray) -> np.ndarray:
    """Codes uint8 0..15 [rows, columns] -> flat uint8 of weight_bytes bytes."""
    codes = _padded(codes, round_up(codes.shape[1], COLUMN_PAD))
    rows = codes.shape[0]
    # A unit of 8 columns is two 32-bit words; the second one becomes the high nibbles of the first.
    words = codes.view(np.uint32).reshape(rows, -1, 2)
    units = words[:, :, 0] | (words[:, :, 1] << np.uint32(4))
    return _lanes(np.ascontiguousarray(units).view(np.uint8), rows)


def unpack_u4(data: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The inverse of pack_u4: uint8 [rows, columns]."""
    units = _unlanes(data, rows).view(np.uint32)
    words = np.empty((units.shape[0], units.shape[1], 2), np.uint32)
    words[:, :, 0] = units & np.uint32(0x0F0F0F0F)
    words[:, :, 1] = (units >> np.uint32(4)) & np.uint32(0x0F0F0F0F)
    return words.reshape(units.shape[0], -1).view(np.uint8)[:rows, :columns]


def pack_i8(codes: np.ndarray) -> np.ndarray:
    """Codes int8 [rows, columns] -> flat uint8 of weight_bytes bytes."""
    codes = _padded(codes, round_up(codes.shape[1], COLUMN_PAD))
    return _lanes(codes.view(np.uint8), codes.shape[0])


def unpack_i8(data: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The inverse of pack_i8: int8 [rows, columns]."""
    return _unlanes(data, rows).view(np.int8)[:rows, :columns]


def pack_i6(codes: np.ndarray) -> np.ndarray:
    """Codes int8 -32..31 [rows, columns] -> flat uint8 of weight_bytes bytes."""
    codes = _padded(codes, round_up(codes.shape[1], COLUMN_PAD))
    rows = codes.shape[0]
    # 32 columns are eight 32-bit words: their low four bits in pairs, their high two bits in fours.
    words = (codes + np.int8(32)).view(np.uint32).reshape(rows, -1, 8)
    low, high = words & np.uint32(0x0F0F0F0F), (words >> np.uint32(4)) & np.uint32(0x03030303)
    units = np.empty((rows, words.shape[1], 6), np.uint32)
    units[:, :, :4] = low[:, :, 0::2] | low[:, :, 1::2] << np.uint32(4)
    fours = high.reshape(rows, -1, 2, 4) << np.arange(0, 8, 2, dtype=np.uint32)
    units[:, :, 4:] = np.bitwise_or.reduce(fours, axis=3)
    return _lanes(units.reshape(rows, -1).view(np.uint8), rows)


def unpack_i6(data: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The inverse of pack_i6: int8 [rows, columns]."""
    units = _unlanes(data, rows).view(np.uint32)
    units = units.reshape(len(units), -1, 6)
    words = np.empty((*units.shape[:2], 8), np.uint32)
    words[:, :, 0::2] = units[:, :, :4] & np.uint32(0x0F0F0F0F)
    words[:, :, 1::2] = (units[:, :, :4] >> np.uint32(4)) & np.uint32(0x0F0F0F0F)
    fours = (units[:, :, 4:, None] >> np.arange(0, 8, 2, dtype=np.uint32)) & np.uint32(0x03030303)
    words |= fours.reshape(words.shape) << np.uint32(4)
    return (words.reshape(len(units), -1).view(np.int8) - np.int8(32))[:rows, :columns]


def pack_rows(values: np.ndarray) -> np.ndarray:
    """Any element type [rows, columns] -> [panel][column][16 rows], flat: float weights, scales, zero points."""
    values = _padded(values, values.shape[1])
    panels = values.reshape(values.shape[0] // PANEL, PANEL, values.shape[1])
    return np.ascontiguousarray(panels.transpose(0, 2, 1)).reshape(-1)


def unpack_rows(data: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The inverse of pack_rows: [rows, columns]."""
    panels = np.asarray(data).reshape(-1, columns, PANEL)
    return np.ascontiguousarray(panels.transpose(0, 2, 1)).reshape(-1, columns)[:rows]


# Order of the codes of an integer format in memory: (pack, unpack), by the format's name. Codes are stored ones: signed
# plus the format's offset.
PACKERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray, int, int], np.ndarray]]] = {
    "u4": (pack_u4, unpack_u4),
    "i8": (pack_i8, unpack_i8),
    "i6": (pack_i6, unpack_i6),
}


def pack_codes(format: WeightFormat, codes: np.ndarray) -> np.ndarray:
    """Signed codes int8 [rows, columns] -> flat uint8 of weight_bytes bytes. Rows of padding hold the stored code 0."""
    pack, _ = PACKERS[format.name]
    return pack((codes + np.int8(format.offset)).view(np.uint8) if format.offset else codes)


def unpack_codes(format: WeightFormat, data: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The inverse of pack_codes: signed codes int8 [rows, columns]."""
    _, unpack = PACKERS[format.name]
    return unpack(data, rows, columns).view(np.int8) - np.int8(format.offset)
