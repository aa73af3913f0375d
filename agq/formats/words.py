"""Schemes in words, for people: one dialect for every command, table and error.

A part is a width, then what shares a scale, then `asym` where there are zero points and `with minimum` where there are
minima: "4 g128", "8 per row asym", "4 per token asym", "4 g32 with minimum", "bf16". A linear is both of its parts:
"W4 g128, A8 per token".
"""

from __future__ import annotations

from agq.formats.activations import ActivationFormat
from agq.formats.groups import Fitted, Granularity, PerGroup
from agq.formats.weights import WeightFormat

# Inputs that are not quantized.
FLOAT_INPUT = "float"


def granularity(group: Granularity, whole: str) -> str:
    """ "g128", "per row". whole: what a scale covers where it covers everything: "row", "token", "tensor"."""
    if isinstance(group, Fitted):
        return "groups that fit"
    return f"g{group.size}" if isinstance(group, PerGroup) else f"per {whole}"


def weights(
    format: WeightFormat, group: Granularity, symmetric: bool, whole: str = "row", minimum: bool = False
) -> str:
    """Weights of a linear: "4 g128", "8 per row asym", "4 g32 with minimum"; of floats the name of their type."""
    if not format.integer:
        return format.name
    least = " with minimum" if minimum else ""
    return f"{format.bits} {granularity(group, whole)}{_zero_points(symmetric)}{least}"


def activations(format: ActivationFormat, group: Granularity, symmetric: bool) -> str:
    """Dynamic activations of a linear: "8 per token", "4 g128 asym"; FLOAT_INPUT."""
    if not format.quantized:
        return FLOAT_INPUT
    return f"{format.bits} {granularity(group, 'token')}{_zero_points(symmetric)}"


def static_activations(format: ActivationFormat, per_channel: bool) -> str:
    """Static activations: "8 static, TRIP" or "8 static per channel"."""
    return f"{format.bits} static{' per channel' if per_channel else ', TRIP'}"


def online(hadamard: int, clip: float, ordered: bool = False) -> str:
    """What is done to an input before it is quantized, to be appended to its words: ", hadamard 128, clip 0.9", or
    nothing. hadamard: block, 0: none; clip: share of the range; ordered: columns are read in another order."""
    order = ", activation order" if ordered else ""
    return order + (f", hadamard {hadamard}" if hadamard else "") + (f", clip {clip:g}" if clip != 1 else "")


def linear(weight_words: str, activation_words: str) -> str:
    """Both parts: "W4 g128, A8 per token"; "W4 g128, float activations"; "f16 weights, float activations"."""
    left = f"W{weight_words}" if weight_words[0].isdigit() else f"{weight_words} weights"
    if activation_words[0].isdigit():
        return f"{left}, A{activation_words}"
    kind, _, rest = activation_words.partition(",")
    return f"{left}, {kind} activations" + (f",{rest}" if rest else "")


def name(weight_bits: int, activation_bits: int, symmetric: bool) -> str:
    """The short name of a scheme, without groups: "W4A8", "W4A8_ASYM" with zero points of the weights."""
    return f"W{weight_bits}A{activation_bits}" + ("" if symmetric else "_ASYM")


def _zero_points(symmetric: bool) -> str:
    return "" if symmetric else " asym"
