"""Rounding to nearest by packing itself: codes of 4 bits with a scale per group of columns, without calibration and
without PyTorch.

Scales are those of `method: rtn` for the same model: symmetric, of each group's range shrunk by the share that makes
the sum of |w - Q(w)|^2.4 least (agq/formats/clips.py). The C library searches; what it leaves open, and all where there
is no library, is computed here in float64. (Torch computes it in float32: where two shares agree to six digits, it may
choose the other one.)
"""

from __future__ import annotations

import numpy as np

from agq.formats.clips import NORM, SHARES
from agq.formats.weights import WeightFormat
from agq.native.clip_search import STEP, Grids, clip_search, library
from agq.safetensors.scales import round_scale

_PART = 1 << 12  # groups that are searched at a time
_SHARES = np.array(SHARES, np.float32)


def group_scales(values: np.ndarray, columns: int, format: WeightFormat, stored: str, threads: int = 1) -> np.ndarray:
    """Scales float32 [rows, groups] of float32 weights [rows, inputs]; columns: of a group. stored: element type of
    the weights' folder, which would hold the scales too. A group of zeros has the scale 1."""
    groups = np.ascontiguousarray(values, np.float32).reshape(-1, columns)
    low, high = format.limits(symmetric=True)
    found = library() if columns % STEP == 0 else None
    scale = np.empty(len(groups), np.float32)
    for start in range(0, len(groups), _PART):
        part = groups[start : start + _PART]
        amax = np.abs(part).max(axis=1, keepdims=True)
        tried = round_scale(amax * _SHARES / np.float32((high - low) / 2), stored.upper())
        best, sure = np.zeros(len(part), np.int32), np.zeros(len(part), bool)
        if found is not None:
            best, sure = clip_search(found, Grids(part, tried, (low, high)), threads)
        left = np.flatnonzero(~sure)
        for some in np.array_split(left, max(1, len(left) // 64)):
            best[some] = _exact(part[some], tried[some], low, high)
        scale[start : start + _PART] = tried[np.arange(len(part)), best]
    return scale.reshape(len(values), -1)


def _exact(groups: np.ndarray, scale: np.ndarray, low: int, high: int) -> np.ndarray:
    """The first step with the least error. groups: [n, size], scale: [n, steps]."""
    values, steps = groups[:, None].astype(np.float64), scale[:, :, None].astype(np.float64)
    codes = np.clip(np.rint(groups[:, None] / scale[:, :, None]), low, high)
    return np.asarray((np.abs(codes * steps - values) ** NORM).sum(axis=2).argmin(axis=1), np.int32)


def group_codes(values: np.ndarray, scale: np.ndarray, format: WeightFormat) -> np.ndarray:
    """Codes int8 [rows, inputs] of float32 weights: clamp(rint(w / scale))."""
    rows, inputs = values.shape
    grouped = values.reshape(rows, scale.shape[1], -1) / scale[:, :, None]
    codes = np.rint(grouped)
    np.clip(codes, *format.limits(symmetric=True), out=codes)
    made: np.ndarray = codes.reshape(rows, inputs).astype(np.int8)
    return made
