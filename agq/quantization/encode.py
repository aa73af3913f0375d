"""Quantized linears as the tensors of a compressed-tensors folder, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agq.checkpoint.compressed_tensors import PACKED
from agq.checkpoint.module_scheme import FLOAT
from agq.checkpoint.packing import pack_int, pack_zero_points, unpack_int, unpack_zero_points
from agq.formats.weights import FP8
from agq.numerics.fp8 import fp8_weight
from agq.numerics.quantizers import Grid, dequantize_weight
from agq.quantization.state import RawTensors
from agq.quantization.walk import QuantizedLinear
from agq.recipe import Scheme
from agq.safetensors.files import f32_to_bf16

TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def store_float(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values as the elements of a safetensors dtype (bits for BF16)."""
    if dtype == "BF16":
        return f32_to_bf16(values)
    return values.astype(np.float16 if dtype == "F16" else np.float32)


def encode(module: str, linear: QuantizedLinear, format: str, scale_dtype: str) -> RawTensors:
    """The tensors of a quantized linear. format: "pack-quantized", "int-quantized" or "float-quantized"; scale_dtype:
    "F32", "F16" or "BF16"."""
    codes = linear.codes.cpu().numpy()
    grid = linear.grid
    tensors: RawTensors = {}
    if format == PACKED:
        tensors[f"{module}.weight_packed"] = ("I32", pack_int(codes, grid.bits))
        tensors[f"{module}.weight_shape"] = ("I64", np.array(codes.shape, dtype=np.int64))
    else:
        tensors[f"{module}.weight"] = (str(FP8.stored) if format == FLOAT else "I8", codes)
    tensors[f"{module}.weight_scale"] = (scale_dtype, store_float(grid.scale.cpu().numpy(), scale_dtype))
    if not grid.symmetric:
        zero = grid.zero.cpu().numpy().astype(np.int8)
        if format == PACKED:
            tensors[f"{module}.weight_zero_point"] = ("I32", pack_zero_points(zero, grid.bits))
        else:
            tensors[f"{module}.weight_zero_point"] = ("I8", zero)
    return tensors


def decode(module: str, tensors: RawTensors, scheme: Scheme, columns: int) -> Tensor:
    """The inverse of `encode`, dequantized: float32 [out, in]. The same bits as the weights that were encoded."""
    codes, grid = decode_codes(module, tensors, scheme, columns)
    return dequantize_weight(codes, grid) if scheme.weights.format.integer else fp8_weight(codes, grid)


def decode_codes(module: str, tensors: RawTensors, scheme: Scheme, columns: int) -> tuple[Tensor, Grid]:
    """The inverse of `encode`: codes [out, in], int8 or of FP8 uint8, and their grid."""
    bits, size = scheme.weights.bits, scheme.weights.group_size.columns(columns)
    packed = f"{module}.weight_packed" in tensors
    codes = (
        unpack_int(tensors[f"{module}.weight_packed"][1], bits, columns) if packed else tensors[f"{module}.weight"][1]
    )
    dtype, raw = tensors[f"{module}.weight_scale"]
    values = (raw.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else raw.astype(np.float32)
    scale = torch.from_numpy(values)
    zero = torch.zeros_like(scale)
    if not scheme.weights.symmetric:
        stored = tensors[f"{module}.weight_zero_point"][1]
        zero = torch.from_numpy(
            (unpack_zero_points(stored, bits, codes.shape[0]) if packed else stored).astype(np.float32)
        )
    grid = Grid(scale, zero, bits, scheme.weights.symmetric, size)
    return torch.from_numpy(np.array(codes)), grid
