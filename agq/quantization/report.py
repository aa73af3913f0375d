"""What a quantization run tells of its linears and of its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agq.formats.effective import ActivationBits
from agq.quantization.transforms.plan import TransformPlan
from agq.reporting.output import plain


@dataclass(frozen=True)
class LayerReport:
    """What happened to one linear. loss: mean squared output error over calibration tokens, summed over outputs;
    relative: the same over the output's mean square (both nan without calibration data); fallback: RTN because the
    method could not use the inputs; act_clip: share of the range that the input's codes cover."""

    module: str
    scheme: str
    method: str
    loss: float
    relative: float
    damping: float
    fallback: bool
    act_clip: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON: what is not finite becomes None."""
        found: dict[str, Any] = plain(asdict(self))
        return found


@dataclass(frozen=True)
class QuantizeReport:
    """path: the folder written. bits_per_weight: of the quantized linears, scales included. total_bytes: of the weight
    files. layers: one report a linear, in the order of computation. fallbacks: linears that the solver could not do and
    RTN did. resumed: blocks taken from an interrupted run. transforms: what was done to the model before. tuned: what
    tuning did (tune.TuneReport), None without. numbers: what was odd, and which steps were taken back
    (Numbers.record). activation_bits: effective ones, None where inputs are floats. allocation: how formats were chosen
    for a target (Choice.record), None without."""

    path: Path
    bits_per_weight: float
    total_bytes: int
    layers: list[dict[str, Any]]
    fallbacks: int
    resumed: int
    transforms: TransformPlan
    tuned: dict[str, Any] | None = None
    numbers: dict[str, Any] | None = None
    activation_bits: ActivationBits | None = None
    allocation: dict[str, Any] | None = None
