"""The quantized linears of compressed-tensors folders: codes, scales and zero points."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from agq.checkpoint.config_writer import quantization_config
from agq.checkpoint.module_scheme import INT, PACKED, ModuleScheme
from agq.checkpoint.packing import check_range, unpack_int, unpack_zero_points
from agq.checkpoint.quantization_config import CompressedTensors
from agq.checkpoint.record import AgqRecord
from agq.checkpoint.source import TensorSource
from agq.errors import AgqError
from agq.formats import Granularity
from agq.models import Linear
from agq.recipe import ActivationScheme
from agq.recipe.schemes import FLOAT_INPUT

__all__ = [
    "INT",
    "PACKED",
    "CompressedTensors",
    "ModuleScheme",
    "Quantization",
    "QuantizedSource",
    "StoredLinear",
    "activation_scheme",
    "quantization_config",
    "read_codes",
    "read_linear",
    "read_scales",
]


class Quantization(Protocol):
    """Which linear of a checkpoint is stored as codes, and how."""

    @property
    def config(self) -> dict[str, Any]:
        """What the file says of it, for records (JSON)."""
        ...

    def scheme(self, module: str) -> ModuleScheme | None:
        """How a linear is quantized; None: it is stored in floating point."""
        ...

    def modules(self) -> Collection[str]:
        """The quantized linears."""
        ...


class QuantizedSource(TensorSource, Protocol):
    """A checkpoint that says how its linears are quantized."""

    @property
    def quantization(self) -> Quantization | None:
        """config.json's word; None: nothing is quantized."""
        ...

    @property
    def record(self) -> AgqRecord:
        """agq.json's word."""
        ...


@dataclass(frozen=True)
class StoredLinear:
    """A quantized weight: w = (codes - zero) * scale.

    Attributes:
        codes: int8 [out, in], signed (-8..7 for 4 bits).
        scale: float32 [out, groups]. zero: int8 [out, groups], or None when symmetric.
        bits: of an integer format. group_size: what shares a scale.
        activations: scheme of the input (agq.json's where it names the module; bits 16: not quantized).
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None
    bits: int
    group_size: Granularity
    activations: ActivationScheme

    def dequantize(self) -> np.ndarray:
        """float32 [out, in]."""
        groups = self.scale.shape[1]
        rows, columns = self.codes.shape
        values = self.codes.astype(np.float32).reshape(rows, groups, columns // groups)
        if self.zero is not None:
            values -= self.zero.astype(np.float32)[:, :, None]
        values *= self.scale[:, :, None]
        return values.reshape(rows, columns)


def read_codes(checkpoint: QuantizedSource, module: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
    """Signed codes int8 [rows, in] of a quantized linear; `rows` selects output rows (slice or indices)."""
    linear, scheme = _quantized(checkpoint, module)
    if scheme.format == PACKED:
        words = checkpoint.read_raw(f"{module}.weight_packed")[1][rows]
        return unpack_int(words, scheme.bits, linear.in_features)
    codes = np.array(checkpoint.read_raw(f"{module}.weight")[1][rows])
    check_range(codes, scheme.bits, f"`{module}.weight`")
    return codes


def read_scales(checkpoint: QuantizedSource, module: str) -> tuple[np.ndarray, np.ndarray | None]:
    """(scale float32 [out, groups], zero int8 [out, groups] or None) of a quantized linear.

    Raises:
        AgqError: a scale that is negative or not finite.
    """
    linear, scheme = _quantized(checkpoint, module)
    rows, groups = linear.out_features, scheme.groups(linear.in_features)
    name = f"{module}.weight_scale"
    scale = checkpoint.read(name)
    if not np.isfinite(scale).all() or (scale < 0).any():
        raise AgqError(f"`{name}` holds values that are negative or not finite", hint="quantize the model again")
    scale = np.array(np.broadcast_to(scale.reshape(-1, groups), (rows, groups)))
    if scheme.symmetric:
        return scale, None
    name = f"{module}.weight_zero_point"
    raw = checkpoint.read_raw(name)[1]
    if scheme.format == PACKED and scheme.strategy != "tensor":
        return scale, unpack_zero_points(raw, scheme.bits, rows)
    check_range(raw, scheme.bits, f"`{name}`")
    return scale, np.array(np.broadcast_to(raw.reshape(-1, groups), (rows, groups)))


def read_linear(checkpoint: QuantizedSource, module: str) -> StoredLinear:
    """Everything about a quantized linear (AgqError when the module is not quantized)."""
    _, scheme = _quantized(checkpoint, module)
    codes = read_codes(checkpoint, module)
    scale, zero = read_scales(checkpoint, module)
    return StoredLinear(codes, scale, zero, scheme.bits, scheme.group_size, activation_scheme(checkpoint, module))


def activation_scheme(checkpoint: QuantizedSource, module: str) -> ActivationScheme:
    """How the input of a linear is quantized: agq.json's word, else config.json's; bits 16 for linears left in
    float."""
    if module in checkpoint.record.activations:
        return checkpoint.record.activations[module]
    scheme = checkpoint.quantization.scheme(module) if checkpoint.quantization else None
    return scheme.activations if scheme else FLOAT_INPUT


def _quantized(checkpoint: QuantizedSource, module: str) -> tuple[Linear, ModuleScheme]:
    scheme = checkpoint.quantization.scheme(module) if checkpoint.quantization else None
    linear = checkpoint.parts.linear(module)
    if scheme is None or linear is None:
        raise AgqError(f"`{module}` is not a quantized linear of `{checkpoint.path}`")
    return linear, scheme
