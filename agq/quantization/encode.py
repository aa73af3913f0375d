"""Quantized linears as the tensors of a compressed-tensors folder, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agq.checkpoint.packing import unpack_int, unpack_zero_points
from agq.numerics.fp8 import fp8_weight
from agq.numerics.quantizers import Grid, dequantize_weight
from agq.quantization.state import RawTensors
from agq.quantization.stored import stored_linear
from agq.quantization.walk import QuantizedLinear
from agq.recipe import Scheme

TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def encode(module: str, linear: QuantizedLinear, format: str, scale_dtype: str) -> RawTensors:
    """The tensors of a quantized linear. format: "pack-quantized", "int-quantized" or "float-quantized"; scale_dtype:
    "F32", "F16" or "BF16"."""
    grid = linear.grid
    zero = None if grid.symmetric else grid.zero.cpu().numpy()
    return stored_linear(
        module, linear.codes.cpu().numpy(), grid.scale.cpu().numpy(), zero, grid.bits, format, scale_dtype
    )


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
