"""Number formats of linears: bits, symmetry and groups of weights and activations, and the patterns that give some
linears others."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from agq import structured
from agq.errors import AgqError
from agq.formats import (
    ACTIVATIONS,
    FITTED,
    INTEGERS,
    PER_ROW,
    ActivationFormat,
    Granularity,
    WeightFormat,
    activation_format,
    groups,
    integer_format,
    words,
)
from agq.formats.activations import FLOAT
from agq.formats.weights import FLOAT_BITS, FP8
from agq.structured import Place

# What there are kernels for.
_INTEGERS = tuple(words.name(row.bits, bits, True) for row in INTEGERS.values() for bits in row.activations)
# The scheme with weights of FP8, by the name of its format.
FLOAT8 = FP8.name.upper()
SCHEMES = (*_INTEGERS, FLOAT8)
# All weights left in floating point, for overrides.
_NONE = words.name(FLOAT_BITS, FLOAT.bits, True)


def _check_group(group: Granularity, what: str, whole: str) -> None:
    if problem := group.problem():
        whole_row = groups.to_recipe(PER_ROW)
        raise AgqError(
            f"group size {groups.to_recipe(group)} of the {what} is not available: {problem}",
            hint=f"use a multiple of {groups.STEP}, such as {groups.FITTED_SIZES[0]}, or {whole_row} for one scale per "
            f"{whole}",
        )


@dataclass(frozen=True)
class WeightScheme:
    """Weights of a linear. bits: of an integer format, or 16: left in floating point. group_size: what shares a scale,
    in recipes a number of columns, -1 or "auto". floats: the bits are those of floats, with a scale for each row (FP8).
    """

    bits: int
    symmetric: bool = True
    group_size: Granularity = FITTED
    floats: bool = False

    def __post_init__(self) -> None:
        if self.floats:
            if self.bits != FP8.bits:
                raise AgqError(f"weights of {self.bits}-bit floats are not available", hint=f"use {FP8.bits} bits")
            if not self.symmetric or self.group_size != FP8.group:
                raise AgqError(
                    f"weights of {FLOAT8} have one scale per output channel and no zero points",
                    hint="leave the options about groups and zero points away",
                )
        elif self.quantized:
            integer_format(self.bits)
        _check_group(self.group_size, "weights", "output channel")

    @property
    def quantized(self) -> bool:
        """Of fewer bits than the model's."""
        return self.bits != FLOAT_BITS

    @property
    def format(self) -> WeightFormat:
        """The row of the bits. Raises AgqError where the weights are not quantized."""
        return FP8 if self.floats else integer_format(self.bits)

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        found = {"bits": self.bits, "symmetric": self.symmetric, "group_size": groups.to_recipe(self.group_size)}
        return found | ({"floats": True} if self.floats else {})


@dataclass(frozen=True)
class ActivationScheme:
    """Dynamically quantized inputs of a linear. bits: 4, 8, or 16: not quantized. group_size: what shares a scale."""

    bits: int
    symmetric: bool
    group_size: Granularity = PER_ROW

    def __post_init__(self) -> None:
        if not self.symmetric and not self.format.asymmetric:
            few = ", ".join(str(row.bits) for row in ACTIVATIONS.values() if row.quantized and row.asymmetric)
            raise AgqError(
                f"{self.bits}-bit activations are symmetric", hint=f"asymmetric activations exist with {few} bits"
            )
        _check_group(self.group_size, "activations", "token")

    @property
    def format(self) -> ActivationFormat:
        """The row of the bits."""
        return activation_format(self.bits)

    @property
    def quantized(self) -> bool:
        """Integers."""
        return self.format.quantized

    @property
    def coarse(self) -> bool:
        """So few codes that they need care (ActivationFormat.coarse)."""
        return self.format.coarse

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return {"bits": self.bits, "symmetric": self.symmetric, "group_size": groups.to_recipe(self.group_size)}


# Inputs as they are.
FLOAT_INPUT = ActivationScheme(FLOAT.bits, True)


@dataclass(frozen=True)
class Scheme:
    """The number formats of one linear: its weights and its inputs."""

    weights: WeightScheme
    activations: ActivationScheme

    def __post_init__(self) -> None:
        if self.weights.floats:
            known = self.activations == FLOAT_INPUT
        else:
            known = words.name(self.weights.bits, self.activations.bits, True) in (*_INTEGERS, _NONE)
        if not known:
            raise AgqError(f"scheme {self.name} is not available", hint=f"schemes: {', '.join(SCHEMES)}")

    @classmethod
    def of(
        cls,
        weight_bits: int,
        act_bits: int,
        group_size: Granularity | None = None,
        symmetric: bool = True,
        act_group_size: Granularity | None = None,
        act_symmetric: bool | None = None,
        floats: bool = False,
    ) -> Scheme:
        """A scheme from its bits; what is None takes the default of its format.

        Defaults: 4-bit weights in groups that fit the model, 8-bit weights per row; 8-bit activations per token and
        symmetric, 4-bit activations in groups that fit and asymmetric. floats: as in WeightScheme.
        """
        inputs = activation_format(act_bits)
        if group_size is None:
            group_size = PER_ROW if floats or weight_bits == FLOAT_BITS else integer_format(weight_bits).group
        return cls(
            WeightScheme(weight_bits, symmetric, group_size, floats),
            ActivationScheme(
                act_bits,
                inputs.symmetric if act_symmetric is None else act_symmetric,
                inputs.group if act_group_size is None else act_group_size,
            ),
        )

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The scheme of a preset name, in any case: "W4A8", "W4A4", "W8A8", "W4A16", "W8A16", and "..._ASYM" for
        asymmetric weights; "FP8".

        "W16A16" leaves a linear as it is (for overrides). Raises AgqError listing the names for anything else.
        """
        if name.strip().upper() == FLOAT8:
            return cls.of(FP8.bits, FLOAT.bits, floats=True)
        match = re.fullmatch(r"W(\d+)A(\d+)(_ASYM)?", name.strip().upper())
        known = match and int(match[1]) in (*INTEGERS, FLOAT_BITS) and int(match[2]) in ACTIVATIONS
        if not match or not known or (int(match[1]) == FLOAT_BITS and match[3]):
            raise AgqError(
                f"unknown scheme `{name}`", hint=f"schemes: {', '.join(SCHEMES)}; W4A8_ASYM for asymmetric weights"
            )
        return cls.of(int(match[1]), int(match[2]), symmetric=match[3] is None)

    @property
    def name(self) -> str:
        """The preset name, without group sizes."""
        return self._named(self.weights.symmetric)

    @property
    def base(self) -> str:
        """The name without zero points: what has one preset."""
        return self._named(True)

    def _named(self, symmetric: bool) -> str:
        return FLOAT8 if self.weights.floats else words.name(self.weights.bits, self.activations.bits, symmetric)

    @property
    def quantized(self) -> bool:
        """False for W16A16."""
        return self.weights.quantized

    @property
    def fitted(self) -> bool:
        """No group size is left to be fitted to a model."""
        return FITTED not in (self.weights.group_size, self.activations.group_size)

    def fit(self, group: Granularity) -> Scheme:
        """The scheme with `group` where the group size is not said."""
        weights, inputs = self.weights, self.activations
        return Scheme(
            replace(weights, group_size=group) if weights.group_size == FITTED else weights,
            replace(inputs, group_size=group) if inputs.group_size == FITTED else inputs,
        )

    def describe(self) -> str:
        """One line for people: "W4 g128, A4 g128 asym"."""
        if not self.quantized:
            return "not quantized"
        weights, inputs = self.weights, self.activations
        return words.linear(
            words.weights(weights.format, weights.group_size, weights.symmetric),
            words.activations(inputs.format, inputs.group_size, inputs.symmetric),
        )

    def to_dict(self) -> dict[str, Any]:
        """{"weights": {...}, "activations": {...}}, JSON types only."""
        return {"weights": self.weights.to_dict(), "activations": self.activations.to_dict()}

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
            parts[name] = {key: _field(kind, key, part[key], place, (*path, name, key)) for key in part}
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
                weights.get("floats", False),
            ),
        )


def _field(kind: Any, key: str, value: Any, place: Place, path: tuple[Any, ...]) -> Any:
    """A value of a scheme's table as field `key` of dataclass `kind`."""
    if key == "group_size":
        return structured.at(place, path, lambda: groups.of_recipe(value))
    return structured.typed(kind, key, value, place, path)


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
