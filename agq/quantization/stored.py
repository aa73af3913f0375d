"""Codes and scales as the tensors of a compressed-tensors folder. Numpy only."""

from __future__ import annotations

import numpy as np

from agq.checkpoint.compressed_tensors import PACKED
from agq.checkpoint.module_scheme import FLOAT
from agq.checkpoint.packing import pack_int, pack_zero_points
from agq.formats.weights import FP8
from agq.quantization.state import RawTensors
from agq.safetensors.files import f32_to_bf16


def store_float(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values as the elements of a safetensors dtype (bits for BF16)."""
    if dtype == "BF16":
        return f32_to_bf16(values)
    return values.astype(np.float16 if dtype == "F16" else np.float32)


def stored_linear(
    module: str,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray | None,
    bits: int,
    format: str,
    scale_dtype: str,
) -> RawTensors:
    """The tensors of a quantized linear.

    codes: int8 [out, in] (signed), of FP8 uint8; scale, zero: [out, groups], zero holding whole numbers, None where
    there are none. format: "pack-quantized", "int-quantized" or "float-quantized"; scale_dtype: "F32", "F16" or "BF16".
    """
    tensors: RawTensors = {}
    if format == PACKED:
        tensors[f"{module}.weight_packed"] = ("I32", pack_int(codes, bits))
        tensors[f"{module}.weight_shape"] = ("I64", np.array(codes.shape, dtype=np.int64))
    else:
        tensors[f"{module}.weight"] = (str(FP8.stored) if format == FLOAT else "I8", codes)
    tensors[f"{module}.weight_scale"] = (scale_dtype, store_float(scale, scale_dtype))
    if zero is not None:
        zero = zero.astype(np.int8)
        if format == PACKED:
            tensors[f"{module}.weight_zero_point"] = ("I32", pack_zero_points(zero, bits))
        else:
            tensors[f"{module}.weight_zero_point"] = ("I8", zero)
    return tensors
