"""What readers of quantized folders ask of a folder: its tensors by name (stored.py). What they give: scales."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from agq.models import ModelParts


@dataclass(frozen=True)
class Scales:
    """What makes values of a linear's codes: value = (code - zero) * scale, or code * scale + minimum.

    Attributes:
        scale: float32 [out, groups]. zero: int8 [out, groups], or None.
        minimum: float32 [out, groups], or None. The code is the stored one then: 0..15 for 4 bits.
        order: uint32 [in]: column c of the codes multiplies input order[c]; None: input c.
    """

    scale: np.ndarray
    zero: np.ndarray | None = None
    minimum: np.ndarray | None = None
    order: np.ndarray | None = None


class TensorSource(Protocol):
    """Named tensors of a model. Names are canonical: with the family's base prefix."""

    @property
    def path(self) -> Path:
        """The folder, for messages."""
        ...

    @property
    def parts(self) -> ModelParts:
        """Names and shapes of the model's parts."""
        ...

    def names(self) -> list[str]:
        """Names of all stored tensors."""
        ...

    def has(self, name: str) -> bool:
        """Whether a tensor is stored."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a stored tensor."""
        ...

    def read_raw(self, name: str) -> tuple[str, np.ndarray]:
        """(safetensors dtype, elements as stored: bits for BF16), mapped into memory."""
        ...

    def read(self, name: str) -> np.ndarray:
        """A float tensor as float32."""
        ...
