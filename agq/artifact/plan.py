"""What a packed file will hold: decided, and checked, before its first byte is written."""

from dataclasses import replace
from typing import Any

from agq.artifact import layout
from agq.artifact.checks import check_attention, refuse_kv_scheme
from agq.artifact.documents import read_documents, special_tokens
from agq.artifact.linear_info import LinearInfo
from agq.artifact.plan_linears import ROUNDED, head_width, plan_linears
from agq.artifact.schema import ArtifactModel, linear_shapes, norm_sizes
from agq.artifact.sources import float_type
from agq.artifact.tables import Pieces, array, coded_rows, document, float_rows, row_scales, stored_codes, stored_scales
from agq.checkpoint.attention_scales import AttentionScales, save_scales
from agq.checkpoint.base import Checkpoint
from agq.checkpoint.head_matrix import head_matrix_problem
from agq.checkpoint.module_scheme import ModuleScheme
from agq.errors import AgqError, UsageError
from agq.formats import PER_ROW, TABLES, integer_format
from agq.formats.cache import DEFAULT_CACHE, FLOAT_CACHE
from agq.formats.weights import BYTE_CODES, EXACT
from agq.tokenizer.files import read_tokenizer_files


class PackPlan:
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
        if problem := head_matrix_problem(checkpoint):
            raise AgqError(
                f"`{checkpoint.path}`: the matrix before its head: {problem}", hint="quantize the model again"
            )
        self._matrix = None
        if checkpoint.head_matrix is not None:
            self._matrix = checkpoint.tying(head_width(checkpoint, weights, head_bits, integer), embed_bits)
        self.spec = spec = checkpoint.spec
        if self._matrix is not None:
            self.spec = spec = replace(spec, tied=True, head_matrix=True)
        self._sources = plan_linears(checkpoint, spec, weights, head_bits, integer)
        linears = {source.fused.name: source.info for source in self._sources}
        if self._matrix is not None:
            linears["project_out"] = LinearInfo(spec.embed_dim, spec.hidden, EXACT)
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

    def _embed_scheme(self, bits: int | None) -> ModuleScheme | None:
        """How the checkpoint stores an embedding of codes, where it is packed as it is. bits: what is wanted."""
        quantization = self.checkpoint.quantization
        scheme = quantization.scheme(self.checkpoint.parts.embed) if quantization is not None else None
        return scheme if scheme is not None and bits in (None, scheme.bits) else None

    def _embed_type(self, bits: int | None) -> str:
        """Element type of an embedding table of its own. bits: 8, 16, 32; None: as the folder stores it."""
        source = float_type(self.checkpoint, [f"{self.checkpoint.parts.embed}.weight"])
        return source if bits is None else TABLES[bits].of(self.weights, source).name

    # ---- what is written

    def tensors(self) -> dict[str, Pieces]:
        """Tensor name -> function yielding its bytes."""
        checkpoint, parts, spec = self.checkpoint, self.checkpoint.parts, self.spec
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
        if self._matrix is not None:
            found["project_out.weight"] = array(layout.pack_rows(self._matrix))
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
