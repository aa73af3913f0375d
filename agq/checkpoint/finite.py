"""Weights that are numbers: a model with NaN or infinity among them is damaged, and nothing is made of it."""

import numpy as np

# Bits of the exponent by dtype, all of them set in NaN and infinity, and the type to look at them.
_EXPONENT = {"BF16": (0x7F80, np.uint16), "F16": (0x7C00, np.uint16), "F32": (0x7F800000, np.uint32)}
_CHUNK = 1 << 22  # elements looked at together


def all_finite(dtype: str, values: np.ndarray) -> bool:
    """Whether values, given as a safetensors file stores them, are all finite; True for integers."""
    if dtype not in _EXPONENT:
        return True
    mask, kind = _EXPONENT[dtype]
    bits = values.reshape(-1).view(kind)
    return not any(((bits[at : at + _CHUNK] & mask) == mask).any() for at in range(0, len(bits), _CHUNK))
