"""A quantized linear of a checkpoint, whatever it is stored as: codes, scales, zero points, and its input's scheme."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agq.checkpoint.config_writer import quantization_config
from agq.checkpoint.module_scheme import INT, PACKED, ModuleScheme
from agq.checkpoint.quantization_config import CompressedTensors
from agq.checkpoint.record import AgqRecord
from agq.checkpoint.source import Scales
from agq.errors import AgqError
from agq.formats import Granularity
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
    "read_linear",
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


class QuantizedSource(Protocol):
    """A checkpoint that says how its linears are quantized."""

    @property
    def path(self) -> Path:
        """The folder or file, for messages."""
        ...

    @property
    def quantization(self) -> Quantization | None:
        """config.json's word; None: nothing is quantized."""
        ...

    @property
    def record(self) -> AgqRecord:
        """agq.json's word."""
        ...

    def codes(self, module: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Signed codes int8 [rows, in] of a quantized linear."""
        ...

    def scales(self, module: str) -> Scales:
        """Its scales."""
        ...


@dataclass(frozen=True)
class StoredLinear:
    """A quantized weight: w = (codes - zero) * scale.

    Attributes:
        codes: int8 [out, in], signed (-8..7 for 4 bits).
        scale: float32 [out, groups]. zero: int8 [out, groups], or None when symmetric.
        bits: of an integer format. group_size: what shares a scale.
        activations: scheme of the input (agq.json's where it names the module; bits 16: not quantized).
        order: uint32 [in], the inputs that the columns of the codes multiply; None: in the model's order.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None
    bits: int
    group_size: Granularity
    activations: ActivationScheme
    order: np.ndarray | None = None

    def dequantize(self) -> np.ndarray:
        """float32 [out, in], columns in the model's order."""
        groups = self.scale.shape[1]
        rows, columns = self.codes.shape
        values = self.codes.astype(np.float32).reshape(rows, groups, columns // groups)
        if self.zero is not None:
            values -= self.zero.astype(np.float32)[:, :, None]
        values *= self.scale[:, :, None]
        found = values.reshape(rows, columns)
        return found if self.order is None else found[:, np.argsort(self.order)]


def read_linear(checkpoint: QuantizedSource, module: str) -> StoredLinear:
    """Everything about a quantized linear (AgqError when the module is not quantized)."""
    scheme = checkpoint.quantization.scheme(module) if checkpoint.quantization else None
    if scheme is None:
        raise AgqError(f"`{module}` is not a quantized linear of `{checkpoint.path}`")
    codes, scales = checkpoint.codes(module), checkpoint.scales(module)
    activations = activation_scheme(checkpoint, module)
    return StoredLinear(codes, scales.scale, scales.zero, scheme.bits, scheme.group_size, activations, scales.order)


def activation_scheme(checkpoint: QuantizedSource, module: str) -> ActivationScheme:
    """How the input of a linear is quantized: agq.json's word, else config.json's; bits 16 for linears left in
    float."""
    if module in checkpoint.record.activations:
        return checkpoint.record.activations[module]
    scheme = checkpoint.quantization.scheme(module) if checkpoint.quantization else None
    return scheme.activations if scheme else FLOAT_INPUT
