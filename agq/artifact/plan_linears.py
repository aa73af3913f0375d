"""How each linear is packed: its formats, and where its numbers come from."""

from dataclasses import replace
from typing import Any

from agq.artifact.linear_info import LinearInfo
from agq.artifact.sources import Fused, LinearSource, float_type, fused_linears
from agq.checkpoint.base import Checkpoint
from agq.checkpoint.compressed_tensors import activation_scheme
from agq.checkpoint.module_scheme import group_problem
from agq.checkpoint.static import StaticInput
from agq.errors import AgqError
from agq.formats import ACTIVATIONS, INTEGERS, PER_ROW, TABLES, WEIGHTS, PerGroup, integer_format, weight_format
from agq.formats.activations import WIDE
from agq.formats.cache import DEFAULT_TABLE
from agq.formats.groups import Fitted, Granularity, fit
from agq.formats.limits import CHANNEL_EXPONENT
from agq.formats.weights import BYTE_CODES, SCALE
from agq.models import Linear, ModelSpec
from agq.models.folding import fold_linears

# What packing itself rounds the weights of an unquantized folder to.
ROUNDED = {f"int{row.bits}": row for row in INTEGERS.values()}
# The same of heads.
_ROUNDED_HEADS = {f"int{row.bits}": WEIGHTS[row.types[0]] for row in TABLES.values() if row.integer}


def plan_linears(
    checkpoint: Checkpoint, spec: ModelSpec, weights: str | None, head_bits: int | None, integer: bool
) -> list[LinearSource]:
    """A source of each linear of the artifact that the checkpoint stores, the head last.

    Args:
        spec: of the artifact: where it has a matrix before the head, the embedding is packed as the head.
        weights: what float weights of the blocks are packed as (a float type, or a key of ROUNDED); None: their own.
        head_bits: of the head; None: as `pack` says. integer: the weights of the blocks will be codes.

    Raises:
        AgqError: all linears that cannot be packed, with the reasons.
    """
    planner = _Planner(checkpoint, spec, weights)
    planner.plan(head_bits, integer)
    if planner.problems:
        raise AgqError("; ".join(f"{what}: {fold_linears(items)}" for what, items in planner.problems.items()))
    return [source.settled() for source in planner.sources]


def head_width(checkpoint: Checkpoint, weights: str | None, wanted: int | None, integer: bool) -> int:
    """Bits of a head that the checkpoint stores in floats; arguments as of `plan_linears`."""
    bits = wanted or checkpoint.record.head_bits
    if bits is not None:
        return bits
    source = float_type(checkpoint, [f"{checkpoint.parts.head}.weight"])
    return DEFAULT_TABLE.bits if integer else weight_format(weights or source).bits


class _Planner:
    def __init__(self, checkpoint: Checkpoint, spec: ModelSpec, weights: str | None):
        self.checkpoint = checkpoint
        self.spec = spec
        self.weights = weights
        self.problems: dict[str, list[Linear]] = {}
        self.sources: list[LinearSource] = []

    def plan(self, head_bits: int | None, integer: bool) -> None:
        checkpoint, parts = self.checkpoint, self.checkpoint.parts
        fused = [item for block in parts.blocks() for item in fused_linears(block, checkpoint.spec)]
        for name, linear in (("project_in", parts.project_in_linear), ("project_out", parts.project_out_linear)):
            if linear is not None:
                fused.append(Fused(name, (linear,)))
        row = ROUNDED.get(self.weights or "")
        grouped = row is not None and isinstance(row.group, Fitted)
        for item in fused:
            # Groups are fitted to the blocks' linears; the projections around them stay as they are then.
            inside = item.name.startswith("blocks.")
            self._add(item, self.weights if inside or not grouped else None)
        head = replace(parts.head_linear, module=parts.embed) if self.spec.head_matrix else parts.head_linear
        self._add_head(Fused("head", (head,)), head_bits, integer)

    def _add_head(self, fused: Fused, head_bits: int | None, integer: bool) -> None:
        checkpoint = self.checkpoint
        module = fused.linears[0].module
        if checkpoint.quantization is not None and checkpoint.quantization.scheme(module) is not None:
            info = self._add(fused, None)
            if head_bits is not None and info.dtype not in TABLES[head_bits].types:
                raise AgqError(
                    f"`{module}` is stored quantized: it cannot be packed with {head_bits} bits",
                    hint="leave `head_bits` out",
                )
            return
        source = float_type(checkpoint, [f"{module}.weight"])
        row = TABLES[head_width(checkpoint, self.weights, head_bits, integer)]
        self._add(fused, f"int{row.bits}" if row.integer else row.of(self.weights, source).name)

    def _add(self, fused: Fused, weights: str | None) -> LinearInfo:
        """Plans one linear. `weights`: the type that float weights are packed as; None: their own."""
        checkpoint = self.checkpoint
        modules = [linear.module for linear in fused.linears]
        schemes = [checkpoint.quantization.scheme(name) if checkpoint.quantization else None for name in modules]
        activations = [activation_scheme(checkpoint, name) for name in modules]
        online = [
            (checkpoint.record.hadamards.get(name, 0), checkpoint.record.clips.get(name, 1.0)) for name in modules
        ]
        shape: dict[str, Any] = {"out": fused.out_features, "inputs": fused.in_features, "bias": fused.linears[0].bias}
        alike = {item and (item.bits, item.symmetric, item.group_size, item.minimum) for item in schemes}
        if len(alike) > 1 or len(set(activations)) > 1 or len(set(online)) > 1:
            self._problem("linears that are computed together must have one scheme", fused)
        statics = [checkpoint.statics.inputs.get(name) for name in modules]
        if any(item is not statics[0] and (statics[0] is None or not statics[0].same(item)) for item in statics):
            self._problem("linears that read one input must have one static quantizer", fused)
        scheme, activation, static = schemes[0], activations[0], statics[0]
        whole = PerGroup(fused.in_features)  # the same as one scale per row
        group = PER_ROW if scheme is None or scheme.group_size == whole else scheme.group_size
        act_group = PER_ROW if activation.group_size == whole else activation.group_size
        for what, size in (("group size", group), ("activation group size", act_group)):
            if isinstance(size, PerGroup) and size.problem(fused.in_features):
                self._problem(group_problem(size, fused.in_features, what), fused)
                group = act_group = PER_ROW
        hadamard, clip = online[0]
        if hadamard and fused.in_features % hadamard:
            self._problem(f"a Hadamard block of {hadamard} does not divide {fused.in_features} columns", fused)
            hadamard = 0
        if hadamard and fused.name == "head" and self.spec.tied:
            self._problem("a head tied to the embedding cannot have a Hadamard transform", fused)
        shape["hadamard"] = hadamard
        acts: dict[str, Any] = {"act_bits": activation.format.code}
        if activation.quantized:
            acts |= {"act_group": act_group, "act_symmetric": activation.symmetric}
            acts["act_clip"] = clip
        if scheme is not None:
            dtype = integer_format(scheme.bits).name
            acts |= {"asym": not scheme.symmetric, "minimum": scheme.minimum}
            info = LinearInfo(**shape, **acts, dtype=dtype, scale_dtype=SCALE, group=group)
            if static is not None:
                info = self._static(info, static, fused)
        elif row := (ROUNDED | _ROUNDED_HEADS).get(weights or ""):
            if not activation.quantized:
                acts = {"act_bits": WIDE.code}
            group = self._fitted(fused) if isinstance(row.group, Fitted) else row.group
            group = PER_ROW if group == whole else group
            info = LinearInfo(**shape, **acts, dtype=row.name, scale_dtype=SCALE, group=group)
        else:
            if activation.quantized:
                self._problem("activations cannot be quantized where weights are floats", fused)
            dtype = weights or float_type(checkpoint, [f"{name}.weight" for name in modules])
            info = LinearInfo(**shape, dtype=dtype)
        self.sources.append(LinearSource(checkpoint, fused, info, scheme, static if info.act_static else None))
        return info

    def _fitted(self, fused: Fused) -> Granularity:
        """Groups where weights are rounded here: the largest that suits all linears of the blocks, or the head."""
        inside = fused.name.startswith("blocks.")
        linears = self.checkpoint.parts.block_linears() if inside else fused.linears
        return fit(linear.in_features for linear in linears)

    def _static(self, info: LinearInfo, static: StaticInput, fused: Fused) -> LinearInfo:
        """The linear with static activations. With 8 bits the channels' powers of two go into the weights, which become
        8-bit codes without zero points."""
        if static.channel_scale is not None:
            raise AgqError(
                f"`{self.checkpoint.path}` has static activations with a scale per channel "
                "(`agile.mode: code-compat`), which no integer product computes",
                hint="`agq eval-ppl FOLDER` measures it with the torch reference; quantize with "
                "`agile.mode: trip` to pack it",
            )
        if int(static.shifts.max()) > CHANNEL_EXPONENT:
            what = f"the engine computes channel exponents up to {CHANNEL_EXPONENT} (`agile.k`), not those of"
            self._problem(what, fused)
        if not info.format.folds:
            self._problem("static activations are computed with 4-bit weights only, not those of", fused)
        if self.problems:
            return info
        if not ACTIVATIONS[static.bits].coarse:
            info = replace(info, dtype=BYTE_CODES.name, asym=False, bias=True)
        return replace(
            info,
            act_static=True,
            act_scale=static.scale,
            act_zero=static.zero,
            act_bits=static.bits,
            act_group=PER_ROW,
            act_symmetric=False,
        )

    def _problem(self, what: str, fused: Fused) -> None:
        self.problems.setdefault(what, []).extend(fused.linears)
