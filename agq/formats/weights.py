"""Element types of weights and of tables (embedding, positions): one row each."""

from __future__ import annotations

from dataclasses import dataclass

from agq.errors import AgqError
from agq.formats.choices import any_of
from agq.formats.groups import FITTED, PER_ROW, Granularity


@dataclass(frozen=True)
class WeightFormat:
    """An element type.

    Attributes:
        name: in artifacts and messages.
        bits: of an element; of a code for integers.
        enum: its constant in kernels/include/agq.h; "": only folders have it.
        stored: safetensors dtype of its elements, as a folder has them; None for codes that a folder packs into words.
        integer: codes, with a scale for each group of columns: weight = (code - zero) * scale.
        offset: what an artifact adds to a signed code. 8 for u4, whose codes 0..15 are unsigned there.
        folds: static 8-bit activations fold their channels' powers of two into its codes, which become bytes.
        pairs: two codes fit one operand of the packed multiplier.
        lowest: its symmetric codes include -2^(bits-1).
        group: granularity where the user names none.
        activations: bits of the inputs (as in recipes) that it goes with; none: only output heads are stored in it.
    """

    name: str
    bits: int
    enum: str
    stored: str | None = None
    integer: bool = False
    offset: int = 0
    folds: bool = False
    pairs: bool = False
    lowest: bool = False
    group: Granularity = PER_ROW
    activations: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Of one element; ValueError where elements share a byte."""
        if self.bits % 8:
            raise ValueError(f"{self.name} elements share bytes")
        return self.bits // 8

    def limits(self, symmetric: bool) -> tuple[int, int]:
        """Smallest and largest signed code. Symmetric codes of 8 bits leave out -128 (docs/arithmetic.md)."""
        half = 1 << (self.bits - 1)
        return (1 - half if symmetric and not self.lowest else -half), half - 1


_ROWS = (
    WeightFormat("f32", 32, "AGQ_F32", "F32"),
    WeightFormat("f16", 16, "AGQ_F16", "F16"),
    WeightFormat("bf16", 16, "AGQ_BF16", "BF16"),
    WeightFormat("i8", 8, "AGQ_I8", "I8", integer=True, activations=(8, 16)),
    WeightFormat(
        "u4",
        4,
        "AGQ_U4",
        integer=True,
        offset=8,
        folds=True,
        pairs=True,
        lowest=True,
        group=FITTED,
        activations=(4, 8, 16),
    ),
    WeightFormat("i6", 6, "AGQ_I6", integer=True, lowest=True, group=FITTED),
)
# Floats of 8 bits (agq/safetensors/fp8.py) with a scale for each row: a form of folders. Their values are computed with
# in 16 or 32 bits.
FP8 = WeightFormat("fp8", 8, "", "F8_E4M3", activations=(16,))
# By name.
WEIGHTS = {row.name: row for row in _ROWS}
FLOATS = {name: row for name, row in WEIGHTS.items() if not row.integer}
# Integer weights by their bits, narrow ones first: what a recipe's `bits` means.
INTEGERS = {row.bits: row for row in sorted(_ROWS, key=lambda row: row.bits) if row.activations}
# Element types of scales.
SCALES = ("f32", "bf16", "f16")
# That of scales, where it holds them exactly.
SCALE = "bf16"
# What a recipe writes for weights that stay in floating point.
FLOAT_BITS = 16
# Elements of one byte, a code each, in artifacts: what embedding rows and folded weights are.
BYTE_CODES = WEIGHTS["i8"]
# The float type that holds values of all of them exactly.
EXACT = "f32"
# safetensors dtype -> row, floats only.
BY_STORED = {row.stored: row for row in FLOATS.values() if row.stored is not None}


def weight_format(name: str) -> WeightFormat:
    """The row of a name. Raises AgqError for an unknown one."""
    if name not in WEIGHTS:
        raise AgqError(f"unknown element type `{name}`", hint=f"known: {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def code_format(bits: int) -> WeightFormat:
    """The row of codes of so many bits, those of heads among them. Raises AgqError where there is none."""
    found = next((row for row in WEIGHTS.values() if row.integer and row.bits == bits), None)
    if found is None:
        raise AgqError(f"codes of {bits} bits are not available")
    return found


def integer_format(bits: int) -> WeightFormat:
    """The row of integer weights of so many bits. Raises AgqError where there is none."""
    if bits not in INTEGERS:
        raise AgqError(
            f"weights of {bits} bits are not available",
            hint=f"use {any_of(INTEGERS)} ({FLOAT_BITS}: not quantized)",
        )
    return INTEGERS[bits]
