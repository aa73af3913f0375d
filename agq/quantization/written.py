"""What the writer of folders asks a model for: TransformedParameters, computed with torch, or the model as it is."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from agq.checkpoint import Checkpoint
from agq.models import ModelParts, ModelSpec
from agq.quantization.transforms.plan import TransformPlan


class WrittenModel(Protocol):
    """checkpoint: the source; plan: what is done to it; spec, parts: of the model that is written."""

    checkpoint: Checkpoint
    plan: TransformPlan
    spec: ModelSpec
    parts: ModelParts

    def values(self, name: str) -> np.ndarray:
        """A tensor, float32. Not asked for where the plan is empty."""

    def hadamard(self, module: str) -> int:
        """Block length of the online transform of a module's input; 0: none."""

    def head_matrix(self) -> np.ndarray | None:
        """By which the embedding serves as output head, float32 [hidden, hidden]; None: there is no such matrix."""


class Untransformed:
    """A model as it is."""

    def __init__(self, checkpoint: Checkpoint, plan: TransformPlan) -> None:
        self.checkpoint, self.plan = checkpoint, plan
        self.spec, self.parts = checkpoint.spec, checkpoint.parts

    def values(self, name: str) -> np.ndarray:
        """A tensor, float32."""
        return self.checkpoint.read(name)

    def hadamard(self, module: str) -> int:
        """No input is transformed."""
        del module
        return 0

    def head_matrix(self) -> None:
        """The head is what it was."""
