"""A linear of an artifact: how it is stored and computed, and from it the tensors that it needs."""

from dataclasses import dataclass, fields
from types import UnionType
from typing import Any

from agq.artifact import layout
from agq.errors import AgqError
from agq.formats import (
    PER_ROW,
    SCALES,
    WEIGHTS,
    ActivationFormat,
    Granularity,
    WeightFormat,
    groups,
    weight_format,
    words,
)
from agq.formats.activations import BY_CODE, FLOAT
from agq.formats.limits import STATIC_SCALES
from agq.formats.weights import BYTE_CODES, EXACT
from agq.models.fields import added, newest, read, stored

# Fields that artifacts name otherwise; fields that they write as numbers.
_KEYS = {"inputs": "in"}
_GROUPS = ("group", "act_group")
# Element types of scales, and of weights, that came later.
_SINCE: dict[str | None, int] = {"f16": 5}
_WEIGHTS_SINCE = {"i6": 6}


@dataclass(frozen=True)
class TensorSize:
    """Logical type and shape of a tensor, and the bytes that it needs (before padding to 64)."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def stored(self) -> int:
        """Bytes in the file."""
        return layout.round_up(self.nbytes, layout.ALIGN)


@dataclass(frozen=True)
class LinearInfo:
    """A linear as the engine computes it (agq_linear of kernels/include/agq.h).

    Attributes:
        out, inputs: logical shape. dtype: f32, f16, bf16, i8, i6, u4. scale_dtype: f32, bf16 or f16, None for float
            weights.
        group: what shares a scale. asym: has zero points.
        act_bits: 32 (float), 8 or 4. act_group: what shares a scale. act_symmetric. bias: has one (f32).
        hadamard: block of the Walsh-Hadamard transform of the input, 0: none. act_clip: share of the range that the
            activations' codes cover.
        act_static: static activations of act_scale and act_zero, with an exponent per column.
        minimum: weight = (code - zero) * scale + minimum, one of scale_dtype per group; without zero points codes are
            counted from 0, those of u4, too.
        ordered: column c of the weights multiplies input `input_order[c]`. hadamard and act_group count in that order.
    """

    out: int
    inputs: int
    dtype: str
    scale_dtype: str | None = None
    group: Granularity = PER_ROW
    asym: bool = False
    act_bits: int = FLOAT.code
    act_group: Granularity = PER_ROW
    act_symmetric: bool = True
    bias: bool = False
    hadamard: int = 0
    act_clip: float = 1.0
    act_static: bool = False
    act_scale: float = 1.0
    act_zero: int = 0
    minimum: bool = added(False, 5)
    ordered: bool = added(False, 7)

    @property
    def format(self) -> WeightFormat:
        """The row of `dtype`."""
        return weight_format(self.dtype)

    @property
    def activations(self) -> ActivationFormat:
        """The row of `act_bits`."""
        return BY_CODE[self.act_bits]

    @property
    def quantized(self) -> bool:
        """Integer weights."""
        return self.format.integer

    @property
    def sinks(self) -> bool:
        """Activations are dynamic and coarse: sink tokens have wider ones."""
        return self.activations.coarse and not self.act_static

    @property
    def groups(self) -> int:
        """Scales per row."""
        return self.group.scales(self.inputs)

    @property
    def offset(self) -> int:
        """What a stored code has more than the signed one."""
        return 0 if self.minimum and not self.asym else self.format.offset

    @property
    def abi(self) -> int:
        """The oldest version that knows it; 0: all do."""
        return max(newest(self), _SINCE.get(self.scale_dtype, 0), _WEIGHTS_SINCE.get(self.dtype, 0))

    def words(self) -> tuple[str, str]:
        """Weights and activations for people: ("4 g128", "8 per token, hadamard 128")."""
        weights = words.weights(self.format, self.group, not self.asym, minimum=self.minimum)
        return weights, self.input_words() + words.online(self.hadamard, self.act_clip, self.ordered)

    def input_words(self) -> str:
        """The quantizer of the input for people, without what is done to the input before: "8 per token"."""
        if self.act_static:
            return words.static_activations(self.activations, per_channel=False)
        return words.activations(self.activations, self.act_group, self.act_symmetric)

    def weight_bytes(self) -> int:
        """Bytes of the weight tensor."""
        return layout.weight_bytes(self.format, self.out, self.inputs)

    def tensors(self, name: str) -> dict[str, TensorSize]:
        """Names, types, shapes and byte counts of the linear's tensors."""
        found = {f"{name}.weight": TensorSize(self.dtype, (self.out, self.inputs), self.weight_bytes())}
        if self.quantized:
            shape = (self.out, self.groups)
            scale = weight_format(self.scale_dtype or EXACT)
            found[f"{name}.scale"] = TensorSize(scale.name, shape, layout.rows_bytes(*shape, scale.bytes))
            if self.minimum:
                found[f"{name}.minimum"] = found[f"{name}.scale"]
            if self.asym:
                found[f"{name}.zero"] = TensorSize(BYTE_CODES.name, shape, layout.rows_bytes(*shape, 1))
        if self.bias:
            found[f"{name}.bias"] = TensorSize("f32", (self.out,), 4 * self.out)
        if self.act_static:
            found[f"{name}.act_exponent"] = TensorSize("u8", (self.inputs,), self.inputs)
        if self.ordered:
            found[f"{name}.input_order"] = TensorSize("u32", (self.inputs,), 4 * self.inputs)
        return found

    def problem(self) -> str | None:
        """Why no kernel computes this, or None."""
        for what, group in (("group", self.group), ("act_group", self.act_group)):
            if problem := group.problem(self.inputs):
                return f"{what} {problem}"
        if self.dtype not in WEIGHTS or self.quantized != (self.scale_dtype in SCALES):
            return f"{self.dtype} weights with {self.scale_dtype} scales"
        if self.act_bits not in BY_CODE:
            return f"{self.act_bits}-bit activations"
        inputs = self.activations
        if not self.quantized and (inputs.quantized or self.group != PER_ROW or self.asym or self.minimum):
            return "float weights with integer activations, groups, zero points or minima"
        if not inputs.quantized and (self.act_group != PER_ROW or not self.act_symmetric):
            return "float activations with a group or a zero point"
        if not self.act_symmetric and not self.act_static and not inputs.asymmetric:
            return f"asymmetric {self.act_bits}-bit activations"
        if self.hadamard < 0 or self.hadamard & (self.hadamard - 1) or (self.hadamard and self.inputs % self.hadamard):
            return f"a Hadamard block of {self.hadamard} is not a power of two that divides {self.inputs}"
        if not 0 < self.act_clip <= 1 or (self.act_clip != 1 and not inputs.quantized):
            return f"activations of {self.act_bits} bits clipped to {self.act_clip} of their range"
        if self.act_static:
            return self._static_problem()
        if self.act_scale != 1 or self.act_zero:
            return "a static scale or zero point with dynamic activations"
        return None

    def _static_problem(self) -> str | None:
        inputs = self.activations
        if not inputs.quantized or self.act_group != PER_ROW or self.act_symmetric or self.act_clip != 1:
            return "static activations that are float, in groups, symmetric or clipped"
        if self.minimum:
            return "weights with minima and static activations"
        if not inputs.coarse and (self.format != BYTE_CODES or self.asym):
            return "static 8-bit activations without the weights' factors folded into 8-bit codes"
        if not STATIC_SCALES[0] <= self.act_scale <= STATIC_SCALES[1] or not 0 <= self.act_zero < 1 << self.act_bits:
            return f"a static scale of {self.act_scale} with zero point {self.act_zero}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """As in docs/artifact.md."""
        values = {_KEYS.get(name, name): value for name, value in stored(self).items()}
        return values | {key: groups.to_artifact(values[key]) for key in _GROUPS}

    @classmethod
    def from_dict(cls, value: Any, name: str, shape: tuple[int, int]) -> "LinearInfo":
        """Reads what to_dict wrote; AgqError unless it is well-formed, of the given (out, in) shape, and computable."""
        found = read(cls, value, f"description of linear `{name}`", _KEYS, complete=True)
        if not all(_fits(each.type, found[each.name]) for each in fields(cls) if each.name in found):
            raise AgqError(f"description of linear `{name}` has a value of the wrong type")
        if value["dtype"] not in WEIGHTS or value["scale_dtype"] not in (*SCALES, None):
            raise AgqError(f"description of linear `{name}` has an unknown element type")
        if (value["out"], value["in"]) != shape:
            raise AgqError(f"linear `{name}` is {value['out']} x {value['in']}, not {shape[0]} x {shape[1]}")
        if not 0 <= value["group"] <= shape[1] or not 0 <= value["act_group"] <= shape[1]:
            raise AgqError(f"description of linear `{name}` has an impossible group size")
        info = cls(**(found | {key: groups.of_artifact(value[key]) for key in _GROUPS}))
        if reason := info.problem():
            raise AgqError(f"linear `{name}` cannot be computed: {reason}")
        return info


def _fits(kind: Any, value: Any) -> bool:
    """Whether JSON holds `value` for a field of type `kind`. True and False are no numbers."""
    if isinstance(kind, UnionType):
        return isinstance(value, kind)
    return type(value) is (int if kind is Granularity else kind)
