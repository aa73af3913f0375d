"""Formats of the inputs of linears: one row each."""

from __future__ import annotations

from dataclasses import dataclass

from agq.errors import AgqError
from agq.formats.choices import any_of
from agq.formats.groups import FITTED, PER_ROW, Granularity


@dataclass(frozen=True)
class ActivationFormat:
    """How the input of a linear is quantized.

    Attributes:
        bits: in recipes and folders. code: in artifacts and the C library. They differ for floats alone.
        quantized: integers.
        symmetric: codes lie symmetrically around 0 where the user does not say.
        asymmetric: dynamic codes (a scale for each token or group) may have a zero point.
        coarse: so few codes that ranges are clipped, attention sinks keep a wider format (`sinks`) and inputs that
            lose too much get a finer one.
        group: granularity where the user names none.
    """

    bits: int
    code: int
    quantized: bool = True
    symmetric: bool = True
    asymmetric: bool = False
    coarse: bool = False
    group: Granularity = PER_ROW


_ROWS = (
    ActivationFormat(4, 4, symmetric=False, asymmetric=True, coarse=True, group=FITTED),
    ActivationFormat(8, 8),
    ActivationFormat(16, 32, quantized=False, asymmetric=True),
)
# By their bits in recipes.
ACTIVATIONS = {row.bits: row for row in _ROWS}
# By their bits in artifacts.
BY_CODE = {row.code: row for row in _ROWS}
FLOAT = next(row for row in _ROWS if not row.quantized)
# What sink tokens have in place of a coarse format, what static activations have where they are not, and what output
# heads of integers read.
WIDE = ACTIVATIONS[8]
# What static activations have where they are few codes.
NARROW = ACTIVATIONS[4]
QUANTIZED = {row.bits: row for row in _ROWS if row.quantized}


def activation_format(bits: int) -> ActivationFormat:
    """The row of so many bits, as recipes write them. Raises AgqError where there is none."""
    if bits not in ACTIVATIONS:
        raise AgqError(
            f"activations of {bits} bits are not available",
            hint=f"use {any_of(ACTIVATIONS)} ({FLOAT.bits}: not quantized)",
        )
    return ACTIVATIONS[bits]
