"""Where the rows of a packed linear come from: pieces of Hugging Face linears, in the order that the engine wants.

Query, key and value are one matrix in the artifact, gate and up another; fused rows that are interleaved per head
(BLOOM, GPT-NeoX) are sorted.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from agq.artifact import layout
from agq.artifact.linear_info import LinearInfo
from agq.artifact.rounding import group_codes, group_scales
from agq.checkpoint.base import Checkpoint
from agq.checkpoint.module_scheme import ModuleScheme
from agq.checkpoint.source import Scales
from agq.checkpoint.static import StaticInput
from agq.errors import AgqError
from agq.formats import ACTIVATIONS
from agq.formats.groups import Fitted
from agq.formats.weights import BY_STORED, BYTE_CODES, EXACT
from agq.models import BlockParts, Linear, ModelSpec
from agq.models.parts import STACKED, qkv_rows
from agq.safetensors.files import bf16_to_f32, f32_to_bf16
from agq.system.threads import default_threads

PIECE = 1 << 22  # elements that are converted at a time
_BYTE = BYTE_CODES.limits(symmetric=True)


@dataclass(frozen=True)
class Fused:
    """A linear of the artifact: `name`, and the Hugging Face linears whose rows it stacks.

    `order`: rows of the one linear in the wanted order (a qkv per head), or None for all rows as they are.
    """

    name: str
    linears: tuple[Linear, ...]
    order: np.ndarray | None = None

    @property
    def out_features(self) -> int:
        """Rows in all."""
        return sum(linear.out_features for linear in self.linears)

    @property
    def in_features(self) -> int:
        """Columns."""
        return self.linears[0].in_features

    def pieces(self, start: int, stop: int) -> Iterator[tuple[str, slice | np.ndarray]]:
        """(module, its rows) that make up the fused rows start..stop."""
        first = 0
        for linear in self.linears:
            low, high = max(start - first, 0), min(stop - first, linear.out_features)
            if low < high:
                yield linear.module, slice(low, high) if self.order is None else self.order[low:high]
            first += linear.out_features

    def spans(self) -> Iterator[tuple[int, int]]:
        """Row ranges of whole panels that are converted at a time."""
        step = max(PIECE // self.in_features // layout.PANEL, 1) * layout.PANEL
        for start in range(0, self.out_features, step):
            yield start, min(start + step, self.out_features)


def fused_linears(block: BlockParts, spec: ModelSpec) -> list[Fused]:
    """The four linears of a block: qkv, out, up, down."""
    parts = block.linears
    name = f"blocks.{block.index}."
    if "qkv" in parts:
        order = None if block.qkv_order == STACKED else np.concatenate(qkv_rows(spec, block.qkv_order))
        qkv = Fused(name + "qkv", (parts["qkv"],), order)
    else:
        qkv = Fused(name + "qkv", (parts["q"], parts["k"], parts["v"]))
    up = tuple(parts[role] for role in ("gate_up", "gate", "up") if role in parts)
    return [qkv, Fused(name + "out", (parts["o"],)), Fused(name + "up", up), Fused(name + "down", (parts["down"],))]


class LinearSource:
    """Produces the tensors of one linear of the artifact, piece by piece."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        fused: Fused,
        info: LinearInfo,
        scheme: ModuleScheme | None,
        static: StaticInput | None = None,
    ):
        """`scheme`: of the codes that the checkpoint stores; None: they are made here (by rounding), or the linear
        stays in floats. `static`: the quantizer of static activations; with 8 bits its exponents are folded into the
        codes and its zero point into the bias."""
        self.checkpoint = checkpoint
        self.fused = fused
        self.info = info
        self.scheme = scheme
        self.static = static
        self._made: np.ndarray | None = None  # scales, from the time that codes are made until they are written

    def settled(self) -> "LinearSource":
        """This one, when what depends on stored values is known: the type of the scales, and zero points where a
        symmetric code is -128."""
        if self.scheme is None:
            return self
        found = self.scales()
        values = [item for item in (found.scale, found.minimum) if item is not None]
        types = (name for name in self.scheme.scale_types if all(fits(item, name) for item in values))
        info = replace(self.info, scale_dtype=next(types, EXACT), ordered=found.order is not None)
        if not (info.asym or info.minimum or info.act_static) and self.needs_zero_points():
            info = replace(info, asym=True)
        return LinearSource(self.checkpoint, self.fused, info, self.scheme, self.static)

    def tensors(self) -> dict[str, Callable[[], Iterable[np.ndarray]]]:
        """Tensor name -> function yielding its bytes as arrays."""
        name = self.fused.name
        found: dict[str, Callable[[], Iterable[np.ndarray]]] = {f"{name}.weight": self.weight}
        if self.info.quantized:
            found[f"{name}.scale"] = self.scale
            if self.info.minimum:
                found[f"{name}.minimum"] = self.minimum
            if self.info.asym:
                found[f"{name}.zero"] = self.zero
        if self.info.bias:
            found[f"{name}.bias"] = self.bias
        if self.info.ordered:
            found[f"{name}.input_order"] = self.input_order
        if self.static is not None:
            shifts = self.static.shifts
            found[f"{name}.act_exponent"] = lambda: [shifts]
        return found

    @property
    def _folded(self) -> StaticInput | None:
        """The static quantizer whose exponents the codes take in."""
        return None if self.static is None or ACTIVATIONS[self.static.bits].coarse else self.static

    def _folded_codes(self, static: StaticInput, start: int, stop: int) -> np.ndarray:
        """(code - zero) * 2^exponent, int8 [rows, in]: at most 15 << 3 = 120."""
        codes = self._codes(start, stop).astype(np.int16)
        zero = self.scales().zero
        if zero is not None:
            codes -= np.repeat(zero[start:stop].astype(np.int16), codes.shape[1] // zero.shape[1], axis=1)
        return (codes << static.shifts.astype(np.int16)).astype(np.int8)

    def weight(self) -> Iterator[np.ndarray]:
        """Weight panels."""
        static = self._folded
        for start, stop in self.fused.spans():
            if not self.info.quantized:
                yield layout.pack_rows(to_float(self._floats(start, stop), self.info.dtype, self.fused.name))
            elif static is not None:
                yield layout.pack_codes(self.info.format, self._folded_codes(static, start, stop))
            else:
                yield layout.pack_codes(self.info.format, self._codes(start, stop))
        for linear in self.fused.linears:
            for leaf in ("weight", "weight_packed", "qweight"):
                if self.checkpoint.has(f"{linear.module}.{leaf}"):
                    self.checkpoint.release(f"{linear.module}.{leaf}")

    def scale(self) -> Iterator[np.ndarray]:
        """Scale panels."""
        yield self._scale_panels(self.scales().scale)
        self._made = None

    def minimum(self) -> Iterator[np.ndarray]:
        """Panels of the minima."""
        minimum = self.scales().minimum
        assert minimum is not None  # info.minimum says that there are some
        yield self._scale_panels(minimum)

    def input_order(self) -> Iterator[np.ndarray]:
        """The inputs that the columns multiply, uint32."""
        order = self.scales().order
        assert order is not None  # info.ordered says that there is one
        yield order.astype("<u4", copy=False)

    def _scale_panels(self, values: np.ndarray) -> np.ndarray:
        return layout.pack_rows(to_float(values, self.info.scale_dtype or EXACT, self.fused.name))

    def zero(self) -> Iterator[np.ndarray]:
        """Zero point panels, stored as the codes are: 0..15 for u4, signed for i8. Rows of padding have 0."""
        found = self.scales()
        values = np.zeros(found.scale.shape, np.int8) if found.zero is None else found.zero
        yield layout.pack_rows(values + np.int8(self.info.format.offset))

    def bias(self) -> Iterator[np.ndarray]:
        """float32 biases; with folded static activations what the operand code - 128 leaves out is added to them."""
        bias = np.zeros(self.fused.out_features, np.float32)
        if self.fused.linears[0].bias:
            pieces = self.fused.pieces(0, self.fused.out_features)
            bias = np.concatenate([self.checkpoint.read_rows(f"{module}.bias", rows) for module, rows in pieces])
        if (static := self._folded) is not None:
            scale = self.scales().scale.astype(np.float64)
            for start, stop in self.fused.spans():
                codes = self._folded_codes(static, start, stop)
                sums = codes.reshape(stop - start, scale.shape[1], -1).sum(axis=2, dtype=np.int64)
                constant = static.scale * (128 - static.zero) * (sums * scale[start:stop]).sum(axis=1)
                bias[start:stop] = (bias[start:stop] + constant).astype(np.float32)
        yield bias

    def scales(self) -> Scales:
        """Scales, and zero points or minima, of all rows in fused order."""
        if self.scheme is None:
            if self._made is None:
                found = [self._scales_of(self._floats(start, stop)) for start, stop in self.fused.spans()]
                self._made = np.concatenate(found)
            return Scales(self._made)
        parts = [self.checkpoint.scales(linear.module) for linear in self.fused.linears]
        order = slice(None) if self.fused.order is None else self.fused.order

        def joined(values: list[np.ndarray | None]) -> np.ndarray | None:
            there = [item for item in values if item is not None]
            return np.concatenate(there)[order] if there else None

        scale = np.concatenate([part.scale for part in parts])[order]
        orders = [part.order for part in parts]
        if not all(_same_order(orders[0], item) for item in orders):
            names = ", ".join(f"`{linear.module}`" for linear in self.fused.linears)
            raise AgqError(f"{names} are computed together, but have columns in different orders")
        zero, minimum = joined([part.zero for part in parts]), joined([part.minimum for part in parts])
        return Scales(scale, zero, minimum, orders[0])

    def needs_zero_points(self) -> bool:
        """Whether symmetric codes of a quantized folder include one that only the kernels with zero points take: -128
        of 8 bits."""
        lowest = self.info.format.limits(symmetric=True)[0]
        if lowest == self.info.format.limits(symmetric=False)[0]:
            return False
        return any((self._codes(start, stop) < lowest).any() for start, stop in self.fused.spans())

    def _floats(self, start: int, stop: int) -> np.ndarray:
        pieces = self.fused.pieces(start, stop)
        return np.concatenate([self.checkpoint.read_rows(f"{module}.weight", rows) for module, rows in pieces])

    def _codes(self, start: int, stop: int) -> np.ndarray:
        if self.scheme is not None:
            pieces = self.fused.pieces(start, stop)
            return np.concatenate([self.checkpoint.codes(module, rows) for module, rows in pieces])
        values, scale = self._floats(start, stop), self.scales().scale[start:stop]
        if self._searched:
            return group_codes(values, scale, self.info.format)
        return quantize_rows(values, scale[:, 0])

    @property
    def _searched(self) -> bool:
        """Whether scales of weights that are rounded here are searched for each group."""
        return isinstance(self.info.format.group, Fitted)

    def _scales_of(self, values: np.ndarray) -> np.ndarray:
        """Scales [rows, groups] of weights that are rounded here."""
        if not np.isfinite(values.sum(dtype=np.float64)):
            names = ", ".join(f"`{linear.weight}`" for linear in self.fused.linears)
            raise AgqError(f"{names} holds values that are not finite", hint="the checkpoint is damaged")
        if not self._searched:
            return row_scale(values)[:, None]
        stored = float_type(self.checkpoint, [linear.weight for linear in self.fused.linears])
        columns = self.info.group.columns(self.info.inputs)
        return group_scales(values, columns, self.info.format, stored, default_threads())


def _same_order(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def row_scale(values: np.ndarray) -> np.ndarray:
    """Scale of each row for symmetric 8-bit codes: bf16(amax / 127), as float32 [rows] (docs/arithmetic.md)."""
    amax = np.abs(values).max(axis=1).astype(np.float32)
    return bf16_to_f32(f32_to_bf16(amax / np.float32(_BYTE[1])))


def quantize_rows(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """clamp(rint(w / scale), -127, 127) as int8; 0 where the scale is 0."""
    divisor = np.where(scale > 0, scale, np.float32(1))[:, None]
    codes = np.rint(values / divisor)
    np.clip(codes, *_BYTE, out=codes)
    return np.where(scale[:, None] > 0, codes, 0).astype(np.int8)


def to_float(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """float32 values as f32, f16 or bf16 (bits). AgqError where f16 cannot hold them."""
    return _CONVERSIONS[dtype](values, name)


def _to_half(values: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if not np.isfinite(half[np.isfinite(values)]).all():
        raise AgqError(f"`{name}` holds values that fp16 cannot", hint="pack as bf16 or f32 instead")
    return half


_CONVERSIONS: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
    "f32": lambda values, name: values.astype("<f4", copy=False),
    "bf16": lambda values, name: f32_to_bf16(values).reshape(values.shape),
    "f16": _to_half,
}


def fits(values: np.ndarray, dtype: str) -> bool:
    """Whether every float32 value is one of a float type."""
    with np.errstate(over="ignore"):
        return bool((_ROUNDINGS[dtype](values) == values).all())


# float32 values rounded to an element type, as float32 again.
_ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "f32": lambda values: values,
    "bf16": lambda values: bf16_to_f32(f32_to_bf16(values)).reshape(values.shape),
    "f16": lambda values: values.astype(np.float16).astype(np.float32),
}


def float_type(checkpoint: Checkpoint, names: list[str]) -> str:
    """The element type that holds all of these tensors exactly."""
    kinds = {BY_STORED[checkpoint.dtype(name)].name for name in names}
    return kinds.pop() if len(kinds) == 1 else EXACT
