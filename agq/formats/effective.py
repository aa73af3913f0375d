"""Effective bits of activations: what the inputs of a model's linears have on average.

A scheme's name says the bits that most inputs have. Some keep a finer format because they would lose too much, so a
W4A4 model has more than 4 bits. A perplexity without this mean does not compare with that of other software.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agq.formats.activations import ActivationFormat
from agq.formats.groups import Granularity, PerGroup


@dataclass(frozen=True)
class Width:
    """Bits of an input, and what shares a scale."""

    bits: int
    group: Granularity

    def finer(self, other: Width) -> bool:
        """More bits than `other`, or as many in smaller groups."""
        if self.bits != other.bits or not isinstance(self.group, PerGroup):
            return self.bits > other.bits
        return not isinstance(other.group, PerGroup) or self.group.size < other.group.size


@dataclass(frozen=True)
class LinearInput:
    """What linears of a block read together.

    words: its format for people. products: multiply-accumulates for each token, of all linears that read it.
    """

    format: ActivationFormat
    group: Granularity
    words: str
    products: int

    @property
    def width(self) -> Width:
        """Bits and group."""
        return Width(self.format.bits, self.group)


@dataclass(frozen=True)
class Kind:
    """Inputs of one format. share: their part of all multiply-accumulates; raised: finer than the scheme says."""

    words: str
    bits: int
    inputs: int
    share: float
    raised: bool


@dataclass(frozen=True)
class ActivationBits:
    """Effective bits of the inputs of all linears in a model's blocks.

    Attributes:
        mean: bits, each input weighted with the multiply-accumulates that read it. Floats count as 16.
        kinds: the formats, the one with most multiply-accumulates first.
        coarse: some inputs have so few bits that others may have been given more.
    """

    mean: float
    kinds: tuple[Kind, ...]
    coarse: bool

    @property
    def inputs(self) -> int:
        """All of them."""
        return sum(kind.inputs for kind in self.kinds)

    @property
    def raised_inputs(self) -> float:
        """Share of the inputs that are finer than the scheme says."""
        return sum(kind.inputs for kind in self.kinds if kind.raised) / self.inputs

    @property
    def raised_products(self) -> float:
        """Share of the multiply-accumulates that read those."""
        return sum((kind.share for kind in self.kinds if kind.raised), 0.0)

    def describe(self) -> str:
        """The mean and what is finer than the scheme says, for people: "4.58; 28 of 60 inputs are finer ..."."""
        found = sum(kind.inputs for kind in self.kinds if kind.raised)
        if not found:
            return number(self.mean)
        return (
            f"{number(self.mean)}; {found} of {self.inputs} inputs are finer than the scheme says, "
            f"{100 * self.raised_products:.0f} % of multiply-accumulates"
        )

    def to_dict(self) -> dict[str, Any]:
        """All but the mean, JSON types."""
        return {
            "raised_inputs": self.raised_inputs,
            "raised_products": self.raised_products,
            "kinds": [vars(kind) for kind in self.kinds],
        }


def mean_words(bits: float) -> str:
    """Effective bits for people: "4 activation bits", "4.58 activation bits"."""
    return f"{number(bits)} activation bits"


def number(bits: float) -> str:
    """A mean number of bits: "4", "4.58"."""
    return f"{bits:.2f}".rstrip("0").rstrip(".")


def activation_bits(inputs: Iterable[LinearInput], scheme: Width | None) -> ActivationBits | None:
    """The effective bits of a model's inputs; None where all are floats, or there are none. scheme: what inputs have
    that are not raised; None: not known, so none is."""
    inputs = list(inputs)
    if not any(item.format.quantized for item in inputs):
        return None
    total = sum(item.products for item in inputs)
    table: dict[tuple[str, int, bool], list[int]] = {}
    for item in inputs:
        raised = scheme is not None and item.width.finer(scheme)
        table.setdefault((item.words, item.format.bits, raised), []).append(item.products)
    kinds = [
        Kind(words, bits, len(products), sum(products) / total, raised)
        for (words, bits, raised), products in table.items()
    ]
    mean = sum(item.format.bits * item.products for item in inputs) / total
    coarse = any(item.format.coarse for item in inputs)
    return ActivationBits(mean, tuple(sorted(kinds, key=lambda kind: -kind.share)), coarse)
