"""What the kernels of one level cost on one machine: few numbers, from which `roofline` puts together any model.

A *curve* says what an operation costs where so many tokens are computed together. Weights that are read once serve all
of them, so one token costs what reading costs, and many what multiplying costs; the points between show where one turns
into the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agq.artifact.linear_info import LinearInfo
from agq.formats import words


@dataclass(frozen=True)
class Point:
    """The cost of an operation for `tokens` tokens together: `call` seconds each time, and `unit` seconds for each of
    its units (what a unit is, the curve's owner says)."""

    tokens: int
    call: float
    unit: float


@dataclass(frozen=True)
class Curve:
    """Points by rising tokens. Between two of them costs are interpolated linearly; beyond the last one they rise in
    proportion to the tokens, below the first one they stay."""

    points: tuple[Point, ...]

    def at(self, tokens: int) -> Point:
        """The cost for `tokens` tokens together."""
        first, last = self.points[0], self.points[-1]
        if tokens <= first.tokens:
            return Point(tokens, first.call, first.unit)
        if tokens >= last.tokens:
            times = tokens / last.tokens
            return Point(tokens, last.call * times, last.unit * times)
        index = next(i for i, point in enumerate(self.points) if point.tokens > tokens)
        low, high = self.points[index - 1], self.points[index]
        share = (tokens - low.tokens) / (high.tokens - low.tokens)
        return Point(tokens, low.call + share * (high.call - low.call), low.unit + share * (high.unit - low.unit))

    def seconds(self, tokens: int, units: float, calls: int = 1) -> float:
        """Seconds of `calls` operations of `units` units in all, for `tokens` tokens together."""
        point = self.at(tokens)
        return calls * point.call + units * point.unit


@dataclass(frozen=True)
class Attention:
    """Attention in one layer, in seconds, for each channel of the queries.

    Attributes:
        call: of a pass of tokens that come one by one, whatever their channels. one: of such a query with a key.
        token: of a token of a prompt beside its keys. pair: of such a query with a key.
    """

    call: float
    one: float
    token: float
    pair: float


@dataclass(frozen=True)
class KernelTable:
    """Costs on one machine with one number of threads.

    Attributes:
        machine: in words. measured: on this machine, now; else put together from documented figures. threads: that
            compute. level: the instruction-set level, or what serves the model. memory: bytes that a model may take.
        bandwidth: bytes read per second. peak: 8-bit multiply-accumulates per second. instruction: that makes them.
        linears: by `format_name`: a unit is a weight. inputs: norm, transform and quantization of the inputs of
            linears, by the same name: a unit is a channel of an input.
        kv_store: rotary positions, and keys and values into the cache, by its bits: a unit is a channel of q, k or v.
        attention: by the bits of the cache.
        forward: what a forward pass costs beside all that: a unit is a layer.
        most: tokens computed at once.
        sources: where documented figures come from, in words.
    """

    machine: str
    level: str
    threads: int
    measured: bool
    memory: int
    bandwidth: float
    peak: float
    instruction: str
    linears: Mapping[str, Curve]
    inputs: Mapping[str, Curve]
    kv_store: Mapping[int, Curve]
    attention: Mapping[int, Attention]
    forward: Curve
    most: int
    sources: tuple[str, ...] = field(default=())

    def rates(self) -> list[dict[str, Any]]:
        """JSON-ready: for each format and number of tokens together, multiply-accumulates a second in large linears."""
        return [
            {"format": name, "tokens": point.tokens, "products_per_s": point.tokens / point.unit}
            for name, curve in self.linears.items()
            for point in curve.points
            if point.unit > 0
        ]


def format_name(info: LinearInfo) -> str:
    """What the rows of a kernel table are called by: the words of a linear's formats, and the type of its scales."""
    scales = f", {info.scale_dtype} scales" if info.scale_dtype else ""
    return words.linear(*info.words()) + scales
