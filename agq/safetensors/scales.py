"""Scales of quantized weights as folders store them. Torch-free; agq/numerics/quantizers.py rounds tensors so."""

from __future__ import annotations

import numpy as np


def round_scale(scale: np.ndarray, stored: str) -> np.ndarray:
    """float32 scales [groups, shares] of falling shares, no NaN, rounded in their place to bf16 values that a
    safetensors dtype holds exactly; what becomes 0 or infinite is 1."""
    _to_bf16(scale)
    if stored == "F16":
        half = np.minimum(scale, np.float32(65280)).astype(np.float16)  # the largest bf16 value that fp16 holds
        scale[...] = half
        _to_bf16(scale)
    if not (scale[:, -1].min() > 0 and scale[:, 0].max() < np.inf):
        scale[~((scale > 0) & np.isfinite(scale))] = 1
    return scale


def _to_bf16(values: np.ndarray) -> None:
    """Rounds float32 values, no NaN, to the nearest bf16 value in their place, ties to even."""
    bits = values.view(np.uint32)
    odd = bits >> np.uint32(16)
    odd &= np.uint32(1)
    odd += np.uint32(0x7FFF)
    bits += odd
    bits &= np.uint32(0xFFFF0000)
