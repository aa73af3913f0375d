"""What a quantized model does to values on their way, as functions on float32 tensors: inputs of linears, keys and
values, heads of integer attention, rows of the output head. The arithmetic is that of docs/arithmetic.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from agq.checkpoint.static import StaticInput
from agq.formats import KV_CACHE, PER_ROW
from agq.formats.activations import WIDE
from agq.formats.cache import CACHES
from agq.formats.groups import Fitted, fit
from agq.formats.weights import BYTE_CODES, FLOAT_BITS, code_format
from agq.numerics.hadamard import fwht, largest_power_of_two
from agq.numerics.quantizers import (
    dequantize_weight,
    fake_quantize,
    fake_quantize_kv,
    fake_quantize_kv4,
    quantize_weight,
    weight_grid,
)
from agq.numerics.trip import StaticQuantizer, symmetric
from agq.recipe import ActivationScheme
from agq.reference.block import InputTransform, identity

# What the integer formats of the KV cache (agq/formats/cache.py) do to keys and values, by their bits.
_KV_QUANTIZERS: dict[int, InputTransform] = {8: fake_quantize_kv, 4: fake_quantize_kv4}


def activation_quantizer(
    scheme: ActivationScheme | None, clip: float = 1.0, hadamard: int = 0, sinks: int = 0
) -> InputTransform:
    """What is done to a linear's inputs, float32 [..., n, channels] of tokens from position 0 on: a Walsh-Hadamard
    transform in blocks of `hadamard` channels (0: none), then the dynamic quantizer of `scheme` over the share `clip`
    of the range (none for 16 bits or None). With 4 bits the first `sinks` tokens have 8 instead, symmetric, per token
    and without clip."""
    if scheme is None or not scheme.quantized:
        return (lambda x: fwht(x, hadamard)) if hadamard else identity

    def transform(x: Tensor) -> Tensor:
        x = fwht(x, hadamard) if hadamard else x
        columns = scheme.group_size.columns(x.shape[-1])
        read = fake_quantize(x, scheme.bits, scheme.symmetric, columns, clip)
        if sinks and scheme.coarse:
            read[..., :sinks, :] = fake_quantize(x[..., :sinks, :], WIDE.bits, True)
        return read

    return transform


def static_quantizer(static: StaticInput, hadamard: int = 0) -> InputTransform:
    """What is done to the input of a linear with static activations, after a Walsh-Hadamard transform where there is
    one."""
    if static.channel_scale is not None:
        scale = torch.from_numpy(static.channel_scale)
        return lambda x: symmetric(fwht(x, hadamard) if hadamard else x, scale.to(x.device), static.bits)
    quantizer = StaticQuantizer(static.bits, static.scale, static.zero, torch.from_numpy(static.exponent))
    return (lambda x: quantizer(fwht(x, hadamard))) if hadamard else quantizer


def head_quantizer(scales: dict[str, np.ndarray]) -> Callable[[str, Tensor], Tensor]:
    """code-compat: q, k, v [batch, heads, n, head_dim] in symmetric 8-bit steps of each head. scales: float32 [heads]
    by name."""
    steps = {name: torch.from_numpy(values)[:, None, None] for name, values in scales.items()}
    return lambda name, x: symmetric(x, steps[name].to(x.device), 8)


def kv_quantizer(bits: int) -> InputTransform:
    """8 or 4: the integer caches of docs/arithmetic.md; 16 or 32: keys and values as computed. Raises AgqError for
    other widths."""
    if bits in _KV_QUANTIZERS:
        return _KV_QUANTIZERS[bits]
    if bits != FLOAT_BITS:
        KV_CACHE.check(bits)
    return identity


def kv_rotation(bits: int, head_dim: int) -> InputTransform:
    """What is done to queries and keys before the keys are quantized: with 4 bits a Walsh-Hadamard transform of each
    head, in blocks of the largest power of two that divides it."""
    size = largest_power_of_two(head_dim)
    return (lambda x: fwht(x, size)) if bits in CACHES and CACHES[bits].rotated else identity


def table_rows(weight: Tensor, bits: int = BYTE_CODES.bits) -> Tensor:
    """float32 [rows, columns] as an artifact holds the output head and the embedding with codes of `bits`: symmetric,
    one scale per row with 8 bits, one per group with fewer, searched (docs/arithmetic.md). A row that is not finite has
    no codes and stays NaN."""
    grouped = isinstance(code_format(bits).group, Fitted)
    group = fit([weight.shape[1]]) if grouped else PER_ROW
    grid = weight_grid(weight, bits, True, group.columns(weight.shape[1]), mse=grouped)
    values = dequantize_weight(quantize_weight(weight, grid), grid)
    return torch.where(torch.isfinite(weight).all(dim=1, keepdim=True), values, torch.nan)
