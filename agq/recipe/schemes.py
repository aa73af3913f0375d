"""Number formats of linears: bits, symmetry and groups of weights and activations, and the patterns that give some
linears others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from agq import structured
from agq.errors import AgqError
from agq.structured import Place

GROUP_STEP = 32  # the kernels pad columns to 32: a scale covers a multiple of that
SCHEMES = ("W4A4", "W4A8", "W4A16", "W8A8", "W8A16")


def _check_group(group_size: int, what: str) -> None:
    if group_size != -1 and (group_size < GROUP_STEP or group_size % GROUP_STEP):
        raise AgqError(
            f"group size {group_size} of the {what} is not available",
            hint=f"use a multiple of {GROUP_STEP}, such as 128, or -1 for one scale per {_WHOLE[what]}",
        )


_WHOLE = {"weights": "output channel", "activations": "token"}


@dataclass(frozen=True)
class WeightScheme:
    """Integer weights. bits: 4 or 8 (16: left in floating point). group_size: columns per scale, -1: one scale per
    output row.
    """

    bits: int
    symmetric: bool = True
    group_size: int = 128

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, 16):
            raise AgqError(f"weights of {self.bits} bits are not available", hint="use 4 or 8 (16: not quantized)")
        _check_group(self.group_size, "weights")


@dataclass(frozen=True)
class ActivationScheme:
    """Dynamically quantized inputs of a linear. bits: 4, 8, or 16 for not quantized. group_size: columns per scale, -1:
    per token.
    """

    bits: int
    symmetric: bool
    group_size: int = -1

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, 16):
            raise AgqError(
                f"activations of {self.bits} bits are not available", hint="use 4, 8 or 16 (16: not quantized)"
            )
        if self.bits == 8 and not self.symmetric:
            raise AgqError("8-bit activations are symmetric", hint="asymmetric activations exist with 4 bits")
        _check_group(self.group_size, "activations")


@dataclass(frozen=True)
class Scheme:
    """The number formats of one linear: its weights and its inputs."""

    weights: WeightScheme
    activations: ActivationScheme

    def __post_init__(self) -> None:
        if self.name.removesuffix("_ASYM") not in (*SCHEMES, "W16A16"):
            raise AgqError(f"scheme {self.name} is not available", hint=f"schemes: {', '.join(SCHEMES)}")

    @classmethod
    def of(
        cls,
        weight_bits: int,
        act_bits: int,
        group_size: int | None = None,
        symmetric: bool = True,
        act_group_size: int | None = None,
        act_symmetric: bool | None = None,
    ) -> Scheme:
        """A scheme from its bits; what is None takes its default.

        Defaults: 4-bit weights in groups of 128, 8-bit weights per channel; 8-bit activations per token and symmetric,
        4-bit activations in groups of 128 and asymmetric.
        """
        if group_size is None:
            group_size = 128 if weight_bits == 4 else -1
        if act_group_size is None:
            act_group_size = 128 if act_bits == 4 else -1
        if act_symmetric is None:
            act_symmetric = act_bits != 4
        return cls(
            WeightScheme(weight_bits, symmetric, group_size), ActivationScheme(act_bits, act_symmetric, act_group_size)
        )

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The scheme of a preset name, in any case: "W4A8", "W4A4", "W8A8", "W4A16", "W8A16", and "..._ASYM" for
        asymmetric weights.

        "W16A16" leaves a linear as it is (for overrides). Raises AgqError listing the names for anything else.
        """
        match = re.fullmatch(r"W(4|8|16)A(4|8|16)(_ASYM)?", name.strip().upper())
        if not match or (match[1] == "16" and match[3]):
            raise AgqError(
                f"unknown scheme `{name}`", hint=f"schemes: {', '.join(SCHEMES)}; W4A8_ASYM for asymmetric weights"
            )
        return cls.of(int(match[1]), int(match[2]), symmetric=match[3] is None)

    @property
    def name(self) -> str:
        """The preset name, without group sizes."""
        return f"W{self.weights.bits}A{self.activations.bits}" + ("" if self.weights.symmetric else "_ASYM")

    @property
    def quantized(self) -> bool:
        """False for W16A16."""
        return self.weights.bits != 16

    def describe(self) -> str:
        """One line for people: "W4A4: weights g128 symmetric, activations g128 asymmetric"."""
        weights = _granularity(self.weights.group_size, "per channel", self.weights.symmetric)
        if self.activations.bits == 16:
            return f"{self.name}: weights {weights}"
        activations = _granularity(self.activations.group_size, "per token", self.activations.symmetric)
        return f"{self.name}: weights {weights}, activations {activations}"

    def to_dict(self) -> dict[str, Any]:
        """{"weights": {...}, "activations": {...}}, JSON types only."""
        return {"weights": structured.plain(self.weights), "activations": structured.plain(self.activations)}

    @classmethod
    def from_dict(cls, data: Any, place: Place | None = None, path: tuple[Any, ...] = ()) -> Scheme:
        """A preset name, or the table that `to_dict` makes (missing keys take the preset's defaults). Raises
        AgqError.
        """
        place = place or structured.in_recipe
        if isinstance(data, str):
            return structured.at(place, path, lambda: cls.parse(data))
        table = structured.table(data, ("weights", "activations"), place, path)
        parts = {}
        for name, kind in (("weights", WeightScheme), ("activations", ActivationScheme)):
            part = structured.table(table.get(name), structured.names(kind), place, (*path, name))
            parts[name] = {key: structured.typed(kind, key, part[key], place, (*path, name, key)) for key in part}
            if "bits" not in part:
                raise AgqError(f"{place((*path, name))}: `bits` is missing")
        weights, acts = parts["weights"], parts["activations"]
        return structured.at(
            place,
            path,
            lambda: cls.of(
                weights["bits"],
                acts["bits"],
                weights.get("group_size"),
                weights.get("symmetric", True),
                acts.get("group_size"),
                acts.get("symmetric"),
            ),
        )


@dataclass(frozen=True)
class Override:
    """Another scheme for some linears. pattern: "re:..." matched from the start of the module's name, or an exact
    module name.
    """

    pattern: str
    scheme: Scheme

    def __post_init__(self) -> None:
        check_pattern(self.pattern)

    def matches(self, module: str) -> bool:
        return pattern_matches(self.pattern, module)

    @classmethod
    def parse(cls, text: str) -> Override:
        """`PATTERN=SCHEME` of the command line, e.g. "re:.*down_proj=W4A8". Raises AgqError."""
        pattern, sign, scheme = text.rpartition("=")
        if not sign or not pattern:
            raise AgqError(
                f"`{text}` is not an override", hint="write PATTERN=SCHEME, for example 're:.*down_proj=W8A8'"
            )
        return cls(pattern, Scheme.parse(scheme))


def check_pattern(pattern: str) -> None:
    """Raises AgqError unless `pattern` is a module name or "re:" and a regular expression."""
    if not pattern or pattern == "re:":
        raise AgqError("an empty pattern matches no module")
    if pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except re.error as error:
            raise AgqError(f"`{pattern}` is not a regular expression: {error}") from None


def pattern_matches(pattern: str, module: str) -> bool:
    """As compressed-tensors: "re:" patterns match at the start of the name, others are whole names."""
    return re.match(pattern[3:], module) is not None if pattern.startswith("re:") else pattern == module


def _granularity(group_size: int, whole: str, symmetric: bool) -> str:
    size = whole if group_size == -1 else f"g{group_size}"
    return f"{size} {'symmetric' if symmetric else 'asymmetric'}"


def read_override(data: Any, place: Place, path: tuple[Any, ...]) -> Override:
    """An override from parsed YAML: "PATTERN=SCHEME", or a table of `pattern` and `scheme`. place: names where it
    stands, in errors."""
    if isinstance(data, str):
        return structured.at(place, path, lambda: Override.parse(data))
    found = structured.table(data, ("pattern", "scheme"), place, path)
    for name in ("pattern", "scheme"):
        if name not in found:
            raise AgqError(f"{place(path)}: `{name}` is missing")
    pattern = structured.typed(Override, "pattern", found["pattern"], place, (*path, "pattern"))
    scheme = Scheme.from_dict(found["scheme"], place, (*path, "scheme"))
    return structured.at(place, path, lambda: Override(pattern, scheme))
