"""An independent writer: tensors of a quantized linear from codes, scales and minima that a test has made."""

import numpy as np

from agq.artifact import layout
from agq.artifact.linear_info import LinearInfo
from agq.artifact.sources import to_float
from agq.errors import AgqError
from agq.formats.weights import EXACT
from agq.safetensors.files import bf16_to_f32


def linear_tensors(
    info: LinearInfo,
    codes: np.ndarray,
    scale: np.ndarray,
    minimum: np.ndarray | None = None,
    zero: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Weight = (code - zero) * scale + minimum, for whole panels of 16 rows or the last rows of a matrix: so it can be
    packed in pieces.

    Args:
        info: how the linear is stored; `minimum` and `asym` say whether the last two arguments are there.
        codes: int8 [rows, inputs], counted from 0 where there are minima and no zero points (u4: 0..15), else signed
            (u4: -8..7).
        scale, minimum: float32 [rows, groups]; values of `info.scale_dtype`. zero: int8 [rows, groups], signed.

    Returns:
        "weight", "scale", "minimum", "zero" -> arrays in layout rl16, flat, to be stored as `NAME.weight` and so on.

    Raises:
        AgqError: shapes that do not fit, codes out of range, a scale or minimum that scale_dtype does not hold exactly.
    """
    groups = (codes.shape[0], info.groups)
    for what, values, shape in (
        ("codes", codes, (codes.shape[0], info.inputs)),
        ("scales", scale, groups),
        ("minima", minimum, groups if info.minimum else None),
        ("zero points", zero, groups if info.asym else None),
    ):
        if (None if values is None else values.shape) != shape:
            raise AgqError(f"{what} of a linear do not have the shape {shape}")
    return {
        "weight": layout.PACKERS[info.format.name][0](_stored(info, codes, "code")),
        "scale": layout.pack_rows(_exact(info, scale, "scale")),
        **({} if minimum is None else {"minimum": layout.pack_rows(_exact(info, minimum, "minimum"))}),
        **({} if zero is None else {"zero": layout.pack_rows(_stored(info, zero, "zero point").view(np.int8))}),
    }


def _stored(info: LinearInfo, codes: np.ndarray, what: str) -> np.ndarray:
    """Signed codes as memory has them: uint8, or int8 where the format has no offset."""
    low, high = info.format.limits(symmetric=not info.asym)
    shift = info.format.offset - info.offset
    if codes.size and not (low + shift <= int(codes.min()) and int(codes.max()) <= high + shift):
        raise AgqError(f"a {what} is not between {low + shift} and {high + shift}")
    stored = codes.astype(np.int8) + np.int8(info.offset)
    return stored.view(np.uint8) if info.format.offset else stored


def _exact(info: LinearInfo, values: np.ndarray, what: str) -> np.ndarray:
    """Values as elements of scale_dtype."""
    dtype = info.scale_dtype or EXACT
    found = to_float(values.astype(np.float32, copy=False), dtype, what)
    back = bf16_to_f32(found) if found.dtype == np.uint16 else found.astype(np.float32)
    if not np.array_equal(back, values):
        raise AgqError(f"a {what} is not a {dtype} number")
    return found
