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
from agq.artifact.schema import (
    BITS,
    FLOAT_BYTES,
    KV_BITS,
    ArtifactModel,
    LinearInfo,
    linear_shapes,
    norm_names,
    online_words,
)
from agq.artifact.sources import Fused, LinearSource, fits_bf16, float_type, fused_linears
from agq.artifact.tables import array, coded_rows, document, float_rows, row_scales
from agq.artifact.writer import write_artifact
from agq.checkpoint.attention_scales import AttentionScales, save_scales
from agq.checkpoint.compressed_tensors import activation_scheme
from agq.checkpoint.folder import Checkpoint, open_checkpoint
from agq.checkpoint.quantization_config import group_problem
from agq.checkpoint.static import StaticInput
from agq.errors import AgqError, UsageError

WEIGHTS = ("f32", "f16", "bf16", "int8")


@dataclass(frozen=True)
class PackReport:
    """What was written.

    Attributes:
        bits_per_weight: stored bits (codes, scales, zero points, padding) per weight of the decoder blocks' linears.
        bits_per_weight_overall: 8 x file size / all parameters.
        bytes: file size. parameters: of the whole model. seconds: wall time.
        schemes: description -> number of block linears, e.g. {"W4 g128, A8 per token": 24}.
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def pack(
    source: str | os.PathLike,
    output: str | os.PathLike,
    kv_bits: int | None = None,
    head_bits: int | None = None,
    weights: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    attention: list[AttentionScales] | None = None,
    embed_bits: int | None = None,
) -> PackReport:
    """Packs a model folder into one file.

    Args:
        source: a compressed-tensors folder, or an unquantized one.
        kv_bits: KV cache of the runs to come, 4, 8 or 32; default agq.json's, else 8, or 32 where all weights are
            floats.
        head_bits: output head (and embedding, when tied) in 8, 16 or 32 bits; default agq.json's, else 8, or the
            weights' own type where all weights are floats.
        weights: for unquantized folders: "f32", "f16", "bf16", or "int8" (round to nearest per row, activations 8 bits
            per token); default the folder's own float type.
        progress: called with (bytes done, bytes in all, tensor name).
        attention: static scales of integer attention, one of each block, which is computed then (kv_bits 8); default
            the folder's.
        embed_bits: an embedding that is not tied to the head in 8 (a scale per row), 16 or 32 bits; default agq.json's,
            else 8 where the folder is quantized and its head has 8 bits, or the type that the folder stores it in.

    Raises:
        UsageError: wrong option values. AgqError: anything wrong with the folder, disk full.
    """
    started = time.monotonic()
    if weights is not None and weights not in WEIGHTS:
        raise UsageError(f"unknown weights `{weights}`", hint=f"weights: {', '.join(WEIGHTS)}")
    if kv_bits not in (None, *KV_BITS):
        raise UsageError(f"KV cache of {kv_bits} bits is not available", hint="use 4, 8 or 32")
    if head_bits not in (None, 8, 16, 32):
        raise UsageError(f"head of {head_bits} bits is not available", hint="use 8, 16 or 32")
    if embed_bits not in (None, 8, 16, 32):
        raise UsageError(f"embedding of {embed_bits} bits is not available", hint="use 8, 16 or 32")
    checkpoint = open_checkpoint(source)
    output = Path(output)
    if output.is_dir():
        raise UsageError(f"output `{output}` is a folder", hint="name a file, such as model.agq.safetensors")
    if output.exists() and any(output.samefile(path) for path in checkpoint.files()):
        raise UsageError(f"output `{output}` is a file of the model itself", hint="choose another name")
    plan = _Plan(checkpoint, weights, head_bits, embed_bits, kv_bits, attention or checkpoint.statics.attention)
    size = write_artifact(output, plan.model, plan.tensors(), plan.recipe(), plan.source(), _created_by(), progress)
    blocks = [info for name, info in plan.model.linears.items() if name.startswith("blocks.")]
    stored = sum(item.nbytes for info in blocks for name, item in info.tensors("").items() if name != ".bias")
    count = sum(info.out * info.inputs for info in blocks)
    parameters = _parameters(plan.model)
    schemes: dict[str, int] = {}
    for info in blocks:
        schemes[describe(info)] = schemes.get(describe(info), 0) + 1
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
    )


def describe(info: LinearInfo) -> str:
    """One line for people: "W4 g128, A8 per token, hadamard 128"."""
    online = online_words(info)
    if not info.quantized:
        return f"W{info.dtype}, A32{online}"
    bits = 4 if info.dtype == "u4" else 8
    text = f"W{bits} {f'g{info.group}' if info.group else 'per channel'}{' asymmetric' if info.asym else ''}"
    if info.act_bits == 32:
        return f"{text}, A32{online}"
    if info.act_static:
        return f"{text}, A{info.act_bits} static (TRIP){online}"
    grain = f"g{info.act_group}" if info.act_group else "per token"
    return f"{text}, A{info.act_bits} {grain}{'' if info.act_symmetric else ' asymmetric'}{online}"


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
    return count + len(norm_names(spec)) * spec.hidden


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
        integer = quantized or weights == "int8"
        if kv_bits is None:
            refuse_kv_scheme(checkpoint)
            kv_bits = checkpoint.record.kv_bits or (8 if integer or attention is not None else 32)
        if attention is not None:
            check_attention(checkpoint, attention, kv_bits)
        self._problems: dict[str, list[str]] = {}
        self._sources: list[LinearSource] = []
        linears = self._plan_linears(head_bits, integer)
        if self._problems:
            raise AgqError("; ".join(f"{what}: {', '.join(names)}" for what, names in self._problems.items()))
        for index, source in enumerate(self._sources):
            self._sources[index] = _settle(source)
            linears[source.fused.name] = self._sources[index].info
        spec = checkpoint.spec
        head_bits = BITS[linears["head"].dtype]
        tables = {}
        if not spec.tied:
            tables["embed"] = self._embed_type(checkpoint.embed_bits(head_bits, embed_bits))
        elif embed_bits not in (None, head_bits):
            raise UsageError(
                f"the embedding of `{checkpoint.path}` is its output head: it cannot have {embed_bits} bits beside {head_bits}",
                hint="`head_bits` is the width of both",
            )
        if checkpoint.parts.position is not None:
            tables["position"] = float_type(checkpoint, [f"{checkpoint.parts.position}.weight"])
        self.documents = read_documents(checkpoint)
        self.model = ArtifactModel(
            spec=spec,
            kv_bits=kv_bits,
            head_bits=head_bits,
            embed_in_head=spec.tied,
            linears={name: linears[name] for name in linear_shapes(spec)},
            tables=tables,
            documents={name: len(data) for name, data in self.documents.items()},
            special=special_tokens(checkpoint),
            attention="float" if attention is None else "log2",
            sink_tokens=checkpoint.record.sink_tokens,
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
        for item in fused:
            linears[item.name] = self._add(item, self.weights)
        linears["head"] = self._add_head(Fused("head", (parts.head_linear,)), head_bits, integer)
        return linears

    def _add_head(self, fused: Fused, head_bits: int | None, integer: bool) -> LinearInfo:
        checkpoint = self.checkpoint
        module = fused.linears[0].module
        if checkpoint.quantization is not None and checkpoint.quantization.scheme(module) is not None:
            info = self._add(fused, None)
            if head_bits is not None and not (head_bits == 8 and info.dtype == "i8"):
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
            head_bits = 8 if integer else 8 * FLOAT_BYTES[wanted]
        if head_bits == 8:
            return self._add(fused, "int8")
        if head_bits == 32:
            return self._add(fused, "f32")
        return self._add(fused, self._sixteen(source))

    def _sixteen(self, source: str) -> str:
        """The 16-bit type for values that the folder stores as `source`."""
        return self.weights if self.weights in ("f16", "bf16") else source if source != "f32" else "f16"

    def _embed_type(self, bits: int | None) -> str:
        """Element type of an embedding table of its own. bits: 8, 16, 32; None: as the folder stores it."""
        source = float_type(self.checkpoint, [f"{self.checkpoint.parts.embed}.weight"])
        return {None: source, 8: "i8", 16: self._sixteen(source), 32: "f32"}[bits]

    def _add(self, fused: Fused, weights: str | None) -> LinearInfo:
        """Plans one linear. `weights`: the type that float weights are packed as; None: their own."""
        checkpoint = self.checkpoint
        modules = [linear.module for linear in fused.linears]
        schemes = [checkpoint.quantization.scheme(name) if checkpoint.quantization else None for name in modules]
        activations = [activation_scheme(checkpoint, name) for name in modules]
        online = [
            (checkpoint.record.hadamards.get(name, 0), checkpoint.record.clips.get(name, 1.0)) for name in modules
        ]
        shape = {"out": fused.out_features, "inputs": fused.in_features, "bias": fused.linears[0].bias}
        alike = {item and (item.bits, item.symmetric, item.group_size) for item in schemes}
        if len(alike) > 1 or len(set(activations)) > 1 or len(set(online)) > 1:
            self._problem("linears that are computed together must have one scheme", modules)
        statics = [checkpoint.statics.inputs.get(name) for name in modules]
        if any(item is not statics[0] and (statics[0] is None or not statics[0].same(item)) for item in statics):
            self._problem("linears that read one input must have one static quantizer", modules)
        scheme, activation, static = schemes[0], activations[0], statics[0]
        group = act_group = 0
        if scheme is not None and scheme.group_size not in (-1, fused.in_features):
            group = scheme.group_size
        if activation.group_size not in (-1, fused.in_features):
            act_group = activation.group_size
        for what, size in (("group size", group), ("activation group size", act_group)):
            if size and (size % 32 or fused.in_features % size):
                self._problem(group_problem(size, fused.in_features, what), modules)
                group, act_group = 0, 0
        hadamard, clip = online[0]
        if hadamard and fused.in_features % hadamard:
            self._problem(f"a Hadamard block of {hadamard} does not divide {fused.in_features} columns", modules)
            hadamard = 0
        if hadamard and fused.name == "head" and checkpoint.spec.tied:
            self._problem("a head tied to the embedding cannot have a Hadamard transform", modules)
        shape["hadamard"] = hadamard
        acts: dict[str, Any] = {"act_bits": 32}
        if activation.bits != 16:
            acts = {"act_bits": activation.bits, "act_group": act_group, "act_symmetric": activation.symmetric}
            acts["act_clip"] = clip
        if scheme is not None:
            dtype = "u4" if scheme.bits == 4 else "i8"
            info = LinearInfo(**shape, **acts, dtype=dtype, scale_dtype="bf16", group=group, asym=not scheme.symmetric)
            if static is not None:
                info = self._static(info, static, modules)
        elif weights == "int8":
            if activation.bits == 16:
                acts = {"act_bits": 8}
            info = LinearInfo(**shape, **acts, dtype="i8", scale_dtype="bf16")
        else:
            if activation.bits != 16:
                self._problem("activations cannot be quantized where weights are floats", modules)
            dtype = weights or float_type(checkpoint, [f"{name}.weight" for name in modules])
            info = LinearInfo(**shape, dtype=dtype)
        self._sources.append(
            LinearSource(checkpoint, fused, info, stored=scheme is not None, static=static if info.act_static else None)
        )
        return info

    def _static(self, info: LinearInfo, static: StaticInput, modules: list[str]) -> LinearInfo:
        """The linear with static activations. With 8 bits the channels' powers of two go into the weights, which become
        8-bit codes without zero points."""
        if static.channel_scale is not None:
            raise AgqError(
                f"`{self.checkpoint.path}` has static activations with a scale per channel (`agile.mode: code-compat`), which no "
                "integer product computes",
                hint="`agq eval-ppl FOLDER` measures it with the torch reference; quantize with "
                "`agile.mode: trip` to pack it",
            )
        if int(static.exponent.max()) > 3:
            self._problem("the engine computes channel exponents up to 3 (`agile.k`), not those of", modules)
        if info.dtype != "u4":
            self._problem("static activations are computed with 4-bit weights only, not those of", modules)
        if self._problems:
            return info
        values = {
            "act_static": True, "act_scale": static.scale, "act_zero": static.zero, "act_bits": static.bits,
            "act_group": 0, "act_symmetric": False,
        }  # fmt: skip
        return replace(info, **values, **({"dtype": "i8", "asym": False, "bias": True} if static.bits == 8 else {}))

    def _problem(self, what: str, modules: list[str]) -> None:
        self._problems.setdefault(what, []).extend(f"`{name}`" for name in modules)

    # ---- what is written

    def tensors(self) -> dict[str, Callable]:
        """Tensor name -> function yielding its bytes."""
        checkpoint, parts, spec = self.checkpoint, self.checkpoint.parts, self.checkpoint.spec
        found: dict[str, Callable] = {name: document(data) for name, data in self.documents.items()}
        for name, module in (("embed", parts.embed), ("position", parts.position)):
            dtype = self.model.tables.get(name)
            if dtype == "i8":
                found[name] = coded_rows(checkpoint, f"{module}.weight")
                found[f"{name}.scale"] = row_scales(checkpoint, f"{module}.weight")
            elif dtype is not None:
                found[name] = float_rows(checkpoint, f"{module}.weight", dtype)
        norms = {"embed_norm": parts.embed_norm, "final_norm": parts.final_norm}
        for block in parts.blocks():
            norms[f"blocks.{block.index}.attn_norm"] = block.attn_norm
            norms[f"blocks.{block.index}.mlp_norm"] = block.mlp_norm
        for name in norm_names(spec):
            norm, leaf = name.rsplit(".", 1)
            found[name] = float_rows(checkpoint, f"{norms[norm]}.{leaf}", "f32")
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
        return {"weights": "int8", "method": "rtn"} if self.weights == "int8" else None

    def source(self) -> dict[str, Any]:
        """JSON of `agq.source`: the folder's name and fingerprint."""
        return {"name": self.checkpoint.path.resolve().name, "sha256": self.checkpoint.fingerprint()}


def _settle(source: LinearSource) -> LinearSource:
    """Settles what depends on stored values: the type of the scales, and zero points where a symmetric code is -128."""
    if not source.stored:
        return source
    info = source.info
    if not fits_bf16(source.scales()[0]):
        info = replace(info, scale_dtype="f32")
    if info.dtype == "i8" and not info.asym and not info.act_static and source.uses_lowest_code():
        info = replace(info, asym=True)
    return LinearSource(source.checkpoint, source.fused, info, stored=True, static=source.static)
