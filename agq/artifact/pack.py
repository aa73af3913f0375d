"""Model folder -> packed artifact."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agq.artifact import layout
from agq.artifact.checks import check_attention, refuse_kv_scheme
from agq.artifact.documents import read_documents, special_tokens
from agq.artifact.linear_info import LinearInfo
from agq.artifact.schema import ArtifactModel, linear_shapes, norm_sizes
from agq.artifact.sources import Fused, LinearSource, float_type, fused_linears
from agq.artifact.tables import Pieces, array, coded_rows, document, float_rows, row_scales, stored_codes, stored_scales
from agq.artifact.writer import write_artifact
from agq.checkpoint.attention_scales import AttentionScales, save_scales
from agq.checkpoint.base import Checkpoint
from agq.checkpoint.compressed_tensors import activation_scheme
from agq.checkpoint.quantization_config import ModuleScheme, group_problem
from agq.checkpoint.static import StaticInput
from agq.errors import AgqError, UsageError
from agq.formats import (
    ACTIVATIONS,
    EMBEDDING,
    FLOATS,
    HEAD,
    INTEGERS,
    KV_CACHE,
    PER_ROW,
    TABLES,
    PerGroup,
    integer_format,
    weight_format,
    words,
)
from agq.formats.activations import WIDE
from agq.formats.cache import DEFAULT_CACHE, DEFAULT_TABLE, FLOAT_CACHE
from agq.formats.groups import Fitted, Granularity, fit
from agq.formats.limits import CHANNEL_EXPONENT
from agq.formats.weights import BYTE_CODES, SCALE
from agq.gguf.opening import open_source
from agq.models import Linear
from agq.models.folding import fold_linears
from agq.tokenizer.files import read_tokenizer_files

# What `weights` may say of an unquantized folder: a float type, or codes that packing itself rounds to.
ROUNDED = {f"int{row.bits}": row for row in INTEGERS.values()}
WEIGHTS = (*FLOATS, *ROUNDED)


@dataclass(frozen=True)
class PackReport:
    """What was written.

    Attributes:
        bits_per_weight: stored bits (codes, scales, zero points, padding) per weight of the decoder blocks' linears.
        bits_per_weight_overall: 8 x file size / all parameters.
        bytes: file size. parameters: of the whole model. seconds: wall time.
        schemes: description -> number of block linears, e.g. {"W4 g128, A8 per token": 24}.
        notes: what was left out or stored otherwise than the source has it.
    """

    path: str
    bytes: int
    seconds: float
    parameters: int
    bits_per_weight: float
    bits_per_weight_overall: float
    kv_bits: int
    head_bits: int
    embed_bits: int
    sink_tokens: int
    layout: str
    schemes: dict[str, int]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def pack(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    kv_bits: int | None = None,
    head_bits: int | None = None,
    weights: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    attention: list[AttentionScales] | None = None,
    embed_bits: int | None = None,
    act_bits: int | None = None,
) -> PackReport:
    """Packs a model folder or a GGUF file into one file.

    Args:
        source: a compressed-tensors folder, an unquantized one, or a GGUF file.
        kv_bits: KV cache of the runs to come, 4, 8 or 32; default agq.json's, else 8, or 32 where all weights are
            floats.
        head_bits: output head (and embedding, when tied) in 8, 16 or 32 bits; default agq.json's, else 8, or the
            weights' own type where all weights are floats.
        weights: for unquantized folders: "f32", "f16", "bf16", "int8" (rounded to nearest, one scale per row) or "int4"
            (a scale per group, agq/artifact/rounding.py), both with activations of 8 bits per token; default the
            folder's own float type.
        progress: called with (bytes done, bytes in all, tensor name).
        attention: static scales of integer attention, one of each block, which is computed then (kv_bits 8); default
            the folder's.
        embed_bits: an embedding that is not tied to the head in 8 (a scale per row), 16 or 32 bits; default agq.json's,
            else 8 where the folder is quantized and its head has 8 bits, or the type that the folder stores it in.
        act_bits: of a GGUF file: inputs of linears of codes with 8 bits in groups of 32 columns (the default), or 16:
            floats. A folder says it itself.

    Raises:
        UsageError: wrong option values. AgqError: anything wrong with the folder, disk full.
    """
    started = time.monotonic()
    if weights is not None and weights not in WEIGHTS:
        raise UsageError(f"unknown weights `{weights}`", hint=f"weights: {', '.join(WEIGHTS)}")
    for widths, bits in ((KV_CACHE, kv_bits), (HEAD, head_bits), (EMBEDDING, embed_bits)):
        widths.check(bits, UsageError)
    checkpoint = open_source(source, act_bits)
    output = Path(output)
    if output.is_dir():
        raise UsageError(f"output `{output}` is a folder", hint="name a file, such as model.agq.safetensors")
    if output.exists() and any(output.samefile(path) for path in checkpoint.files()):
        raise UsageError(f"output `{output}` is a file of the model itself", hint="choose another name")
    checkpoint.check_finite()
    plan = _Plan(checkpoint, weights, head_bits, embed_bits, kv_bits, attention or checkpoint.statics.attention)
    size = write_artifact(output, plan.model, plan.tensors(), plan.recipe(), plan.source(), _created_by(), progress)
    blocks = [info for name, info in plan.model.linears.items() if name.startswith("blocks.")]
    stored = sum(item.nbytes for info in blocks for name, item in info.tensors("").items() if name != ".bias")
    count = sum(info.out * info.inputs for info in blocks)
    parameters = _parameters(plan.model)
    schemes: dict[str, int] = {}
    for info in blocks:
        scheme = words.linear(*info.words())
        schemes[scheme] = schemes.get(scheme, 0) + 1
    return PackReport(
        path=str(output),
        bytes=size,
        seconds=time.monotonic() - started,
        parameters=parameters,
        bits_per_weight=8 * stored / count,
        bits_per_weight_overall=8 * size / parameters,
        kv_bits=plan.model.kv_bits,
        head_bits=plan.model.head_bits,
        embed_bits=plan.model.embed_bits,
        sink_tokens=plan.model.sink_tokens,
        layout=layout.LAYOUT,
        schemes=schemes,
        notes=tuple(checkpoint.notes()),
    )


def _created_by() -> str:
    from agq.version import __version__

    return f"agq {__version__}"


def _parameters(model: ArtifactModel) -> int:
    """Parameters of the model (a tied embedding counts once)."""
    spec = model.spec
    count = sum(info.out * (info.inputs + (1 if info.bias else 0)) for info in model.linears.values())
    count += 0 if model.embed_in_head else spec.vocab * spec.embed_dim
    if "position" in model.tables:
        count += (spec.context + spec.position_offset) * spec.hidden
    return count + sum(norm_sizes(spec).values())


class _Plan:
    """Everything that is decided, and checked, before the first byte is written."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        weights: str | None,
        head_bits: int | None,
        embed_bits: int | None,
        kv_bits: int | None,
        attention: list[AttentionScales] | None,
    ):
        self.checkpoint = checkpoint
        self.attention = attention
        self.weights = weights
        quantized = checkpoint.quantization is not None and bool(checkpoint.quantization.modules())
        if quantized and weights is not None:
            raise UsageError(
                f"`{checkpoint.path}` is quantized already", hint="`weights` is for unquantized model folders"
            )
        integer = quantized or weights in ROUNDED
        if kv_bits is None:
            refuse_kv_scheme(checkpoint)
            usual = DEFAULT_CACHE if integer or attention is not None else FLOAT_CACHE
            kv_bits = checkpoint.record.kv_bits or usual.bits
        if attention is not None:
            check_attention(checkpoint, attention, kv_bits)
        self._problems: dict[str, list[Linear]] = {}
        self._sources: list[LinearSource] = []
        linears = self._plan_linears(head_bits, integer)
        if self._problems:
            raise AgqError("; ".join(f"{what}: {fold_linears(items)}" for what, items in self._problems.items()))
        for index, source in enumerate(self._sources):
            self._sources[index] = source.settled()
            linears[source.fused.name] = self._sources[index].info
        spec = checkpoint.spec
        head_bits = linears["head"].format.bits
        tables = {}
        embed = None if spec.tied else self._embed_scheme(embed_bits)
        self._coded_embedding = embed is not None
        if embed is not None:
            tables["embed"] = integer_format(embed.bits).name
        elif not spec.tied:
            tables["embed"] = self._embed_type(checkpoint.embed_bits(head_bits, embed_bits))
        elif embed_bits not in (None, head_bits):
            raise UsageError(
                f"the embedding of `{checkpoint.path}` is its output head: "
                f"it cannot have {embed_bits} bits beside {head_bits}",
                hint="`head_bits` is the width of both",
            )
        if checkpoint.parts.position is not None:
            tables["position"] = float_type(checkpoint, [f"{checkpoint.parts.position}.weight"])
        tokenizer = read_tokenizer_files(checkpoint.text, f"`{checkpoint.path}`")
        self.documents = read_documents(checkpoint, tokenizer)
        self.model = ArtifactModel(
            spec=replace(spec, norm_offset=0.0),  # gains are stored
            kv_bits=kv_bits,
            head_bits=head_bits,
            embed_in_head=spec.tied,
            linears={name: linears[name] for name in linear_shapes(spec)},
            tables=tables,
            documents={name: len(data) for name, data in self.documents.items()},
            special=special_tokens(checkpoint, tokenizer),
            attention="float" if attention is None else "log2",
            sink_tokens=checkpoint.record.sink_tokens,
            embed_group=PER_ROW if embed is None else embed.group_size,
        )
        if reason := self.model.sink_problem():
            raise AgqError(f"`{checkpoint.path}`: {reason}", hint="quantize the model again")

    # ---- what becomes of each linear

    def _plan_linears(self, head_bits: int | None, integer: bool) -> dict[str, LinearInfo]:
        checkpoint, parts = self.checkpoint, self.checkpoint.parts
        linears: dict[str, LinearInfo] = {}
        fused = [item for block in parts.blocks() for item in fused_linears(block, checkpoint.spec)]
        for name, linear in (("project_in", parts.project_in_linear), ("project_out", parts.project_out_linear)):
            if linear is not None:
                fused.append(Fused(name, (linear,)))
        row = ROUNDED.get(self.weights or "")
        grouped = row is not None and isinstance(row.group, Fitted)
        for item in fused:
            # Groups are fitted to the blocks' linears; the projections around them stay as they are then.
            inside = item.name.startswith("blocks.")
            linears[item.name] = self._add(item, self.weights if inside or not grouped else None)
        linears["head"] = self._add_head(Fused("head", (parts.head_linear,)), head_bits, integer)
        return linears

    def _add_head(self, fused: Fused, head_bits: int | None, integer: bool) -> LinearInfo:
        checkpoint = self.checkpoint
        module = fused.linears[0].module
        if checkpoint.quantization is not None and checkpoint.quantization.scheme(module) is not None:
            info = self._add(fused, None)
            if head_bits is not None and not (TABLES[head_bits].integer and info.format == BYTE_CODES):
                raise AgqError(
                    f"`{module}` is stored quantized: it cannot be packed with {head_bits} bits",
                    hint="leave `head_bits` out",
                )
            return info
        if head_bits is None:
            head_bits = checkpoint.record.head_bits
        source = float_type(checkpoint, [f"{module}.weight"])
        if head_bits is None:
            wanted = source if self.weights is None else self.weights
            head_bits = DEFAULT_TABLE.bits if integer else weight_format(wanted).bits
        row = TABLES[head_bits]
        return self._add(fused, f"int{row.bits}" if row.integer else row.of(self.weights, source).name)

    def _embed_scheme(self, bits: int | None) -> ModuleScheme | None:
        """How the checkpoint stores an embedding of codes, where it is packed as it is. bits: what is wanted."""
        quantization = self.checkpoint.quantization
        scheme = quantization.scheme(self.checkpoint.parts.embed) if quantization is not None else None
        return scheme if scheme is not None and bits in (None, scheme.bits) else None

    def _embed_type(self, bits: int | None) -> str:
        """Element type of an embedding table of its own. bits: 8, 16, 32; None: as the folder stores it."""
        source = float_type(self.checkpoint, [f"{self.checkpoint.parts.embed}.weight"])
        return source if bits is None else TABLES[bits].of(self.weights, source).name

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
        if hadamard and fused.name == "head" and checkpoint.spec.tied:
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
        elif row := ROUNDED.get(weights or ""):
            if not activation.quantized:
                acts = {"act_bits": WIDE.code}
            group = self._fitted if isinstance(row.group, Fitted) else row.group
            group = PER_ROW if group == whole else group
            info = LinearInfo(**shape, **acts, dtype=row.name, scale_dtype=SCALE, group=group)
        else:
            if activation.quantized:
                self._problem("activations cannot be quantized where weights are floats", fused)
            dtype = weights or float_type(checkpoint, [f"{name}.weight" for name in modules])
            info = LinearInfo(**shape, dtype=dtype)
        self._sources.append(LinearSource(checkpoint, fused, info, scheme, static if info.act_static else None))
        return info

    @property
    def _fitted(self) -> Granularity:
        """Groups where weights are rounded here: the largest that suits all linears of the blocks."""
        return fit(linear.in_features for linear in self.checkpoint.parts.block_linears())

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
        if self._problems:
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
        self._problems.setdefault(what, []).extend(fused.linears)

    # ---- what is written

    def tensors(self) -> dict[str, Pieces]:
        """Tensor name -> function yielding its bytes."""
        checkpoint, parts, spec = self.checkpoint, self.checkpoint.parts, self.checkpoint.spec
        found: dict[str, Pieces] = {name: document(data) for name, data in self.documents.items()}
        for name, module in (("embed", parts.embed), ("position", parts.position or "")):
            dtype = self.model.tables.get(name)
            if name == "embed" and self._coded_embedding:
                found[name] = stored_codes(checkpoint, module)
                found[f"{name}.scale"] = stored_scales(checkpoint, module)
            elif dtype == BYTE_CODES.name:
                found[name] = coded_rows(checkpoint, f"{module}.weight")
                found[f"{name}.scale"] = row_scales(checkpoint, f"{module}.weight")
            elif dtype is not None:
                found[name] = float_rows(checkpoint, f"{module}.weight", dtype)
        norms = {"embed_norm": parts.embed_norm, "final_norm": parts.final_norm}
        for block in parts.blocks():
            norms |= {f"blocks.{block.index}.{role}": module for role, module in block.norms.items()}
        for name in norm_sizes(spec):
            norm, leaf = name.rsplit(".", 1)
            added = spec.norm_offset if leaf == "weight" else 0.0
            found[name] = float_rows(checkpoint, f"{norms[norm]}.{leaf}", "f32", added)
        for name, values in save_scales(self.attention or []).items():
            found[name] = array(values)
        for source in self._sources:
            found.update(source.tensors())
        return found

    def recipe(self) -> Any:
        """JSON of `agq.recipe`: agq.json's account of the making, or other tools' quantization_config."""
        values = self.checkpoint.agq
        if values:
            kept = ("version", "recipe", "scheme", "calibration", "report")
            return {key: values[key] for key in kept if key in values}
        if self.checkpoint.quantization is not None:
            return {"quantization_config": self.checkpoint.quantization.config}
        return {"weights": self.weights, "method": "rtn"} if self.weights in ROUNDED else None

    def source(self) -> dict[str, Any]:
        """JSON of `agq.source`: the folder's name and fingerprint."""
        return {"name": self.checkpoint.path.resolve().name, "sha256": self.checkpoint.fingerprint()}
