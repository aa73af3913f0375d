"""FP8 E4M3 (safetensors `F8_E4M3`, torch.float8_e4m3fn): bytes -> float32.

A byte is a sign, 4 bits of exponent (bias 7) and 3 of mantissa. There are no infinities; S.1111.111 is NaN.
Micikevicius et al., "FP8 Formats for Deep Learning", arXiv 2209.05433.
"""

import numpy as np

_NAN = 0x7F
_MANTISSA = 3
_LEAST_EXPONENT = -6  # of normal numbers; below it steps stay as wide


def _table() -> np.ndarray:
    codes = np.arange(256)
    exponent, mantissa = codes >> _MANTISSA & 15, codes & 7
    normal = exponent > 0
    steps = np.where(normal, mantissa + 8, mantissa).astype(np.float32)
    values = np.ldexp(steps, np.where(normal, exponent - 1, 0) + _LEAST_EXPONENT - _MANTISSA)
    values = np.where(codes & 128, -values, values)
    values[codes & _NAN == _NAN] = np.nan
    return values.astype(np.float32)


# Value of every byte, float32 [256].
VALUES = _table()


def decode_e4m3(codes: np.ndarray) -> np.ndarray:
    """float32 values of E4M3 bytes (uint8), same shape. Exact; bytes 0x7F and 0xFF are NaN."""
    return VALUES[codes]
