"""Static activations of Agile-Quant (arXiv 2312.05693) as data: how the ranges of activations are calibrated, which
inputs have 4 bits. Plain Python, no torch, no numpy.

The weights are quantized first, with activations in floating point; then the calibration windows pass through the
quantized weights and every linear's input gets one scale, one zero point and a power of two for each channel
(agq/quantization/agile/).
"""

from __future__ import annotations

from dataclasses import dataclass

from agq import structured
from agq.errors import AgqError
from agq.formats.activations import NARROW, WIDE
from agq.structured import setting

MODES = ("off", "trip", "code-compat")
OBSERVERS = ("minmax", "percentile")
# Roles whose inputs have 4 bits. "agile": those that the released code has 4-bit quantizers for.
FOUR_BIT_ROLES = {
    "none": (),
    "agile": ("o", "gate", "up", "gate_up", "down"),
    "all": ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down"),
}
MOST_K = 8


@dataclass(frozen=True)
class AgileOptions:
    """Static activations.

    Attributes:
        mode: "off": activations are quantized dynamically, as the scheme says. "trip": one scale and zero point per
            tensor and a power of two per channel, what the paper describes and the engine computes. "code-compat": one
            symmetric scale per channel, and q, k, v quantized per head before rotary positions, what the released code
            simulates; computed by the torch reference only.
        k: largest exponent of a channel: steps differ by up to 2^k. 0: one step for the whole tensor. The engine
            computes up to 3.
        observer: range of a tensor from its extremes ("minmax"), or from a percentile of each window, averaged
            ("percentile").
        percentile: share of the values inside that range.
        softmax_bits: 4: probabilities are powers of two down to 2^-15 (log2 quantizer) and q, k, v are static 8-bit
            integers; 0: attention as without this section.
        four_bits: which inputs have 4 bits instead of 8: "none"; "agile": those of o, gate and up (fc1), down (fc2);
            "all".
        windows: calibration windows whose activations are looked at, from the first on.
    """

    mode: str = setting("off", choices=MODES)
    k: int = setting(3, least=0, most=MOST_K, hint="the engine computes up to 3")
    observer: str = setting("minmax", choices=OBSERVERS)
    percentile: float = 0.99999
    softmax_bits: int = 4
    four_bits: str = setting("none", choices=tuple(FOUR_BIT_ROLES))
    windows: int = setting(16, least=1)

    def __post_init__(self) -> None:
        structured.check(self)
        if not 0.5 < self.percentile <= 1:
            raise AgqError(f"percentile is {self.percentile}, not above 0.5 and at most 1", hint="0.99999 is 99.999 %")
        if self.softmax_bits not in (0, 4):
            raise AgqError(f"softmax_bits is {self.softmax_bits}", hint="use 4 (powers of two), or 0 for none")

    @property
    def active(self) -> bool:
        """Activations are static."""
        return self.mode != "off"

    def bits(self, role: str) -> int:
        """Width of the input of a linear by its role."""
        return (NARROW if role in FOUR_BIT_ROLES[self.four_bits] else WIDE).bits
