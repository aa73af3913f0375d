"""Static integer scales of one block's attention: what calibration finds and integer attention computes with.

q and k after RoPE are int8 per head, symmetric: code = clip(rint(x / scale), -127, 127), scale = absmax / 127. v is
unsigned 8 bit, one scale and zero point for the block and a power-of-two factor 2^alpha_c for each channel:
code = clip(rint(x / (scale * 2^alpha_c)) + zero, 0, 255). numpy only: calibration, artifacts and the reference share
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agq.errors import AgqError

# Largest exponent of a channel that the engine computes.
MOST_EXPONENT = 15
# Field -> dtype of the stored array; scalars are stored as arrays of one element.
_FIELDS: Mapping[str, np.dtype] = {
    "q_scale": np.dtype(np.float32),
    "k_scale": np.dtype(np.float32),
    "v_scale": np.dtype(np.float32),
    "v_zero": np.dtype(np.uint8),
    "v_exponent": np.dtype(np.uint8),
}


@dataclass(frozen=True)
class AttentionScales:
    """q_scale: float32 [heads]; k_scale: float32 [kv_heads]; v_scale: the finest step of the values; v_zero: 0..255;
    v_exponent: uint8 [kv_heads * head_dim], alpha_c of every channel. Raises AgqError for values that no grid has."""

    q_scale: np.ndarray
    k_scale: np.ndarray
    v_scale: float
    v_zero: int
    v_exponent: np.ndarray

    def __post_init__(self) -> None:
        for name in ("q_scale", "k_scale", "v_exponent"):
            value = np.ascontiguousarray(getattr(self, name), dtype=_FIELDS[name])
            if value.ndim != 1 or value.size == 0:
                raise AgqError(f"attention scales: {name} has shape {value.shape}, one dimension is needed")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "v_scale", float(np.float32(self.v_scale)))
        object.__setattr__(self, "v_zero", int(self.v_zero))
        scales = np.concatenate([self.q_scale, self.k_scale, [np.float32(self.v_scale)]])
        if not np.isfinite(scales).all() or (scales <= 0).any():
            raise AgqError("attention scales: every scale must be a positive finite number")
        if not 0 <= self.v_zero <= 255:
            raise AgqError(f"attention scales: v_zero is {self.v_zero}, not in 0..255")

    def check(self, heads: int, kv_heads: int, head_dim: int, where: str) -> None:
        """Raises AgqError unless the scales fit attention of these sizes and the engine's arithmetic. where: for the
        message."""
        for name, size in (("q_scale", heads), ("k_scale", kv_heads), ("v_exponent", kv_heads * head_dim)):
            found = getattr(self, name).size
            if found != size:
                raise AgqError(f"{where}: {name} has {found} values, the model needs {size}")
        if int(self.v_exponent.max()) > MOST_EXPONENT:
            raise AgqError(f"{where}: an exponent of {int(self.v_exponent.max())} is above {MOST_EXPONENT}")

    def arrays(self, block: int) -> dict[str, np.ndarray]:
        """The named arrays of block `block`: `blocks.{block}.q_scale` and so on."""
        return {
            f"blocks.{block}.{name}": np.atleast_1d(np.asarray(getattr(self, name), dtype=dtype))
            for name, dtype in _FIELDS.items()
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], block: int) -> AttentionScales | None:
        """The scales of block `block` out of `arrays`; None where there are none. Raises AgqError where some are
        missing."""
        names = {name: f"blocks.{block}.{name}" for name in _FIELDS}
        missing = [full for full in names.values() if full not in arrays]
        if len(missing) == len(names):
            return None
        if missing:
            raise AgqError(f"attention scales of block {block}: {missing[0]} is missing")
        values = {name: np.asarray(arrays[full]) for name, full in names.items()}
        for name in ("v_scale", "v_zero"):
            if values[name].size != 1:
                raise AgqError(f"attention scales of block {block}: {names[name]} is not a single number")
        return cls(
            values["q_scale"],
            values["k_scale"],
            float(values["v_scale"].ravel()[0]),
            int(values["v_zero"].ravel()[0]),
            values["v_exponent"],
        )


def save_scales(blocks: list[AttentionScales]) -> dict[str, np.ndarray]:
    """The named arrays of all blocks."""
    named: dict[str, np.ndarray] = {}
    for index, scales in enumerate(blocks):
        named.update(scales.arrays(index))
    return named


def load_scales(arrays: Mapping[str, np.ndarray], layers: int) -> list[AttentionScales] | None:
    """The scales of all `layers` blocks out of named arrays; None where there are none. Raises AgqError where some
    blocks have scales and others none."""
    found = [AttentionScales.from_arrays(arrays, index) for index in range(layers)]
    if all(scales is None for scales in found):
        return None
    missing = [index for index, scales in enumerate(found) if scales is None]
    if missing:
        raise AgqError(f"attention scales of block {missing[0]} are missing, other blocks have theirs")
    return [scales for scales in found if scales is not None]
