"""The quantizers of Agile-Quant as pure tensor functions: uniform asymmetric, uniform symmetric, log2, and TRIP.

TRIP gives a tensor one scale s and one zero point, and each channel c a power of two 2^alpha_c by which its step is
coarser: the channels with outliers keep the step 2^K s, the others get one up to 2^K times finer. It is FQ-ViT's
power-of-two factor (arXiv 2111.13824), calibrated on the tokens that survive pruning. Products x * (1/s) instead of x /
s: what the integer kernels compute (docs/arithmetic.md, "Static activations").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Smallest scale: the float32 machine epsilon, as in FQ-ViT's observers.
LEAST_SCALE = 1.1920928955078125e-07
# Elements that are worked on at once, so that temporaries stay in a core's cache.
_CHUNK = 1 << 18
# Largest exponent that can be searched for; the engine computes up to 3.
MOST_EXPONENT = 8


@dataclass(frozen=True)
class StaticQuantizer:
    """Unsigned codes q = clip(round(x / (2^alpha_c scale)) + zero, 0, 2^bits - 1), channels in the last dimension.

    scale, zero: of the tensor; alpha: uint8 [channels].
    """

    bits: int
    scale: float
    zero: int
    alpha: Tensor

    def codes(self, x: Tensor) -> Tensor:
        """float32 [..., channels] -> the codes, float32 integers."""
        factor = (1.0 / torch.tensor(self.scale, dtype=torch.float32, device=x.device)) / self._powers(x.device)
        return torch.round(x * factor).add_(self.zero).clamp_(0, (1 << self.bits) - 1)

    def __call__(self, x: Tensor) -> Tensor:
        """x as the integer kernels see it: (q - zero) 2^alpha_c scale, float32 of x's shape."""
        step = torch.tensor(self.scale, dtype=torch.float32, device=x.device) * self._powers(x.device)
        return self.codes(x).sub_(self.zero).mul_(step)

    def _powers(self, device: torch.device) -> Tensor:
        """2^alpha, float32 [channels]. From a table: torch's own powers are not exact everywhere."""
        table = torch.tensor([float(1 << alpha) for alpha in range(MOST_EXPONENT + 1)], device=device)
        return table[self.alpha.to(device, torch.int64)]


def uniform_parameters(low: float, high: float, bits: int, k: int = 0) -> tuple[float, int]:
    """Scale and zero point for values in [low, high], which is widened to contain 0.

    k: the largest exponent of TRIP: the range is covered with the step 2^k scale.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    top = (1 << bits) - 1
    coarse = max((high - low) / top, LEAST_SCALE * (1 << k))
    zero = min(max(round(-low / coarse), 0), top)
    return float(torch.tensor(coarse / (1 << k), dtype=torch.float32)), zero


def uniform(x: Tensor, low: float, high: float, bits: int) -> Tensor:
    """Uniform asymmetric fake quantization of a whole tensor (one scale, one zero point)."""
    scale, zero = uniform_parameters(low, high, bits)
    return StaticQuantizer(bits, scale, zero, torch.zeros(x.shape[-1], dtype=torch.uint8))(x)


def symmetric_scale(amax: Tensor, bits: int) -> Tensor:
    """The released code's symmetric scale, float32 of amax's shape: amax / 127.5 or amax / 7.5, at least LEAST_SCALE.

    +amax maps to 127.5 and is clipped to 127.
    """
    return (amax.float() / (((1 << bits) - 1) / 2)).clamp_(min=LEAST_SCALE)


def symmetric(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Uniform symmetric fake quantization: codes in [-2^(b-1), 2^(b-1) - 1]; scale broadcasts against x."""
    half = 1 << (bits - 1)
    return torch.round(x / scale).clamp_(-half, half - 1).mul_(scale)


def log2_softmax(p: Tensor, bits: int = 4) -> Tensor:
    """Log2 fake quantization of probabilities: 2^-round(-log2 p), and 0 where that exponent is 2^bits or more. Rows are
    not renormalized."""
    exponent = torch.round(-torch.log2(p))
    return torch.where(exponent >= 1 << bits, 0.0, torch.exp2(-exponent.clamp(0, (1 << bits) - 1)))


class TripObserver:
    """Calibrates a StaticQuantizer in two passes over the same tensors: `range` for all of them, `settle`, then
    `errors`.

    k: largest exponent, 0 for a plain per-tensor quantizer. percentile: share of each tensor's values that lies inside
    the range at both ends together, averaged over the tensors; 1: the range itself (TRIP does not clip).
    """

    def __init__(self, bits: int, k: int = 3, percentile: float = 1.0) -> None:
        self.bits, self.k, self.percentile = bits, k, percentile
        self.lows: list[float] = []
        self.highs: list[float] = []
        self.scale, self.zero = 1.0, 0
        self._errors: Tensor | None = None

    def range(self, x: Tensor) -> None:
        """First pass: x float32 [..., channels]."""
        if x.numel() == 0:
            return
        if self.percentile < 1:
            flat = x.reshape(-1)
            outside = int((1 - self.percentile) / 2 * flat.numel())
            self.lows.append(float(flat.kthvalue(1 + outside).values))
            self.highs.append(float(flat.kthvalue(flat.numel() - outside).values))
        else:
            low, high = torch.aminmax(x)
            self.lows.append(float(low))
            self.highs.append(float(high))

    def settle(self) -> None:
        """Ends the first pass. Raises ValueError where nothing was seen or a value was not finite."""
        if not self.lows:
            raise ValueError("no calibration data")
        if self.percentile < 1:
            low, high = sum(self.lows) / len(self.lows), sum(self.highs) / len(self.highs)
        else:
            low, high = min(self.lows), max(self.highs)
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise ValueError("calibration data is not finite")
        self.scale, self.zero = uniform_parameters(low, high, self.bits, self.k)

    def errors(self, x: Tensor) -> None:
        """Second pass: adds the squared errors of every channel with every exponent."""
        x = x.reshape(-1, x.shape[-1])
        if self._errors is None:
            self._errors = torch.zeros(self.k + 1, x.shape[1], dtype=torch.float64, device=x.device)
        step = max(1, _CHUNK // x.shape[1])
        for start in range(0, x.shape[0], step):
            part = x[start : start + step]
            for alpha in range(self.k + 1):
                exponents = torch.full((x.shape[1],), alpha, dtype=torch.uint8)
                quantizer = StaticQuantizer(self.bits, self.scale, self.zero, exponents)
                self._errors[alpha] += (quantizer(part) - part).square_().sum(dim=0, dtype=torch.float64)

    def quantizer(self) -> StaticQuantizer:
        """Ends the second pass: each channel's exponent of least squared error, the smallest among equal ones."""
        errors = self._errors
        assert errors is not None
        best = torch.zeros(errors.shape[1], dtype=torch.int64, device=errors.device)
        least = errors[0].clone()
        for alpha in range(1, self.k + 1):
            better = errors[alpha] < least
            best[better] = alpha
            least = torch.where(better, errors[alpha], least)
        return StaticQuantizer(self.bits, self.scale, self.zero, best.to(torch.uint8).cpu())


def calibrate(x: Tensor, bits: int, k: int = 3, percentile: float = 1.0) -> StaticQuantizer:
    """The quantizer of one tensor, float32 [..., channels]."""
    observer = TripObserver(bits, k, percentile)
    observer.range(x)
    observer.settle()
    observer.errors(x)
    return observer.quantizer()
