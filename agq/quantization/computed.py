"""What the blocks of a run leave for the writer of its folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agq.checkpoint.static import StaticRecord
from agq.quantization.plan import Plan
from agq.quantization.written import WrittenModel


def clips_of(layers: list[dict[str, Any]]) -> dict[str, float]:
    """The clips of the activations by module, from the layers' reports."""
    return {report["module"]: report["act_clip"] for report in layers}


@dataclass(frozen=True)
class Computed:
    """What a run has in its work folder when all blocks are done. plan: with what was found necessary on the way;
    parameters: the model's other tensors; layers: reports, in model order; statics: quantizers of static activations;
    tuned: what tuning did, allocation: how formats were chosen, None without."""

    plan: Plan
    parameters: WrittenModel
    layers: list[dict[str, Any]]
    statics: StaticRecord | None = None
    tuned: dict[str, Any] | None = None
    allocation: dict[str, Any] | None = None

    @property
    def clips(self) -> dict[str, float]:
        """Of the activations by module."""
        return clips_of(self.layers)
