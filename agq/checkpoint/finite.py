"""Weights that are numbers: a model with NaN or infinity among them is damaged, and nothing is made of it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agq.errors import AgqError
from agq.models.folding import MOST

# Bits by dtype, all of them set in NaN and infinity and in nothing else, and the type to look at them.
_EXPONENT = {
    "BF16": (0x7F80, np.uint16),
    "F16": (0x7C00, np.uint16),
    "F32": (0x7F800000, np.uint32),
    "F8_E4M3": (0x7F, np.uint8),
}
_CHUNK = 1 << 17  # elements looked at together: they stay in a core's cache


def count_not_finite(dtype: str, values: np.ndarray) -> int:
    """How many of the values, given as a safetensors file stores them, are NaN or infinite; 0 for integers."""
    if dtype not in _EXPONENT:
        return 0
    mask, kind = _EXPONENT[dtype]
    bits = values.reshape(-1).view(kind)
    parts = (bits[at : at + _CHUNK] & mask for at in range(0, len(bits), _CHUNK))
    return sum(int(np.count_nonzero(part == mask)) for part in parts)


def refuse_not_finite(path: Path, found: Mapping[str, tuple[int, int]], hint: str) -> None:
    """Raises AgqError that names the tensors. found: tensor -> (values that are not finite, all values); those without
    any do not count."""
    wrong = [f"`{name}` ({bad} of {whole})" for name, (bad, whole) in found.items() if bad]
    if not wrong:
        return
    more = f" and {len(wrong) - MOST} more" if len(wrong) > MOST else ""
    raise AgqError(f"`{path}` is damaged: values that are not finite in {', '.join(wrong[:MOST])}{more}", hint=hint)
