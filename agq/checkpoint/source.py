"""What readers of quantized folders ask of a checkpoint: its tensors by name. `Checkpoint` (folder.py) is one."""

from pathlib import Path
from typing import Protocol

import numpy as np

from agq.models import ModelParts


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

    def has(self, name: str) -> bool:
        """Whether a tensor is stored."""
        ...

    def read_raw(self, name: str) -> tuple[str, np.ndarray]:
        """(safetensors dtype, elements as stored: bits for BF16), mapped into memory."""
        ...

    def read(self, name: str) -> np.ndarray:
        """A float tensor as float32."""
        ...
