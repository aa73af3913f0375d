"""Weights of FP8 (E4M3, agq/safetensors/fp8.py) with a scale for each row: w^ = value * scale.

As compressed-tensors' dynamic FP8 schemes and "Give Me BF16 or Give Me Death?" (arXiv 2411.02355) have them: the row's
largest weight becomes the largest value, and every weight is rounded by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agq.formats.weights import FP8
from agq.numerics.quantizers import Grid, round_scale

_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def fp8_grid(weight: Tensor, dtype: torch.dtype = torch.bfloat16) -> Grid:
    """Scales amax / 448 of the rows of float32 [rows, columns], rounded to what `dtype` (as they are stored) holds."""
    scale = round_scale(weight.abs().amax(dim=1, keepdim=True) / _LARGEST, dtype)
    return Grid(scale, torch.zeros_like(scale), FP8.bits, True, weight.shape[1])


def round_fp8(weight: Tensor, grid: Grid) -> Tensor:
    """Bytes of the nearest values, ties to even: uint8 [rows, columns]."""
    return (weight / grid.scale).clamp_(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn).view(torch.uint8)


def fp8_weight(codes: Tensor, grid: Grid) -> Tensor:
    """float32 [rows, columns] of bytes: value * scale."""
    return codes.view(torch.float8_e4m3fn).float() * grid.scale
