"""`agq.model`: what the packed artifact holds, and from it the exact size that every tensor must have.

Writer and reader share this table: a file is accepted only if its tensors are exactly those that it asks for.
"""

import math
from dataclasses import dataclass
from typing import Any

from agq.artifact.header import LEAST_ABI
from agq.artifact.linear_info import LinearInfo, TensorSize
from agq.artifact.special import OTHERS, OTHERS_ABI, special_facts
from agq.errors import AgqError
from agq.formats import FLOATS, KV_CACHE, PER_ROW, WEIGHTS, Granularity, weight_format
from agq.formats.cache import LOG2_CACHE
from agq.formats.groups import of_artifact, to_artifact
from agq.formats.limits import MAX_SINK_TOKENS
from agq.formats.weights import BYTE_CODES
from agq.models import ModelSpec
from agq.models.fields import added, newest, read
from agq.models.folding import fold_names

# Element types of tables: floats; of the embedding also 8-bit codes with a scale per row.
TABLE_TYPES = tuple(FLOATS)
EMBED_TYPES = (*TABLE_TYPES, BYTE_CODES.name)
# From this version on embedding rows are read from a head of any type.
_EMBED_IN_CODES = 5
# Documents: stored byte for byte; their shape is their length.
DOCUMENTS = ("tokenizer.json", "chat_template", "generation_config.json", "config.json")
REQUIRED_DOCUMENTS = ("tokenizer.json", "config.json")
ATTENTION = ("float", "log2")
_MAX_DOCUMENT = 1 << 30
# Of an element of scales and codes that are no weights.
_BYTES = {"f32": 4, "u8": 1}


@dataclass(frozen=True)
class _Description:
    """The keys of `agq.model`, unchecked. A later version's keys are `added` ones, which older files lack."""

    spec: Any
    kv_bits: Any
    head_bits: Any
    embed_in_head: Any
    special: Any
    attention: Any
    tensors: Any
    linears: Any
    embed_bits: Any = added(None, 3)  # that of the tensors
    sink_tokens: Any = added(0, 4)
    embed_group: Any = added(0, 5)


@dataclass(frozen=True)
class ArtifactModel:
    """A checked `agq.model`.

    Attributes:
        special: token facts for the runtime: bos_id, eos_ids; the texts bos_token, eos_token, pad_token, unk_token (or
            None); tokenizer_config.json's add_bos_token, add_eos_token (True, False, or None where it is silent), which
            decide nothing; and where the model names further special tokens, `others`: their texts by name.
        tables: element types of the row-major tables `embed` and `position`: floats, of `embed` also i8 (with a float32
            scale per row, or per group of `embed_group` columns: `embed.scale`). documents: name -> length in bytes.
        attention: "float", or "log2" for integer attention on static scales (`blocks.I.q_scale` and so on).
        sink_tokens: first positions of a sequence that have 8-bit activations where the blocks' linears have dynamic
            4-bit ones.
    """

    spec: ModelSpec
    kv_bits: int
    head_bits: int
    embed_in_head: bool
    linears: dict[str, LinearInfo]
    tables: dict[str, str]
    documents: dict[str, int]
    special: dict[str, Any]
    attention: str = "float"
    sink_tokens: int = 0
    embed_group: Granularity = added(PER_ROW, 5)

    @property
    def abi(self) -> int:
        """The oldest version, from LEAST_ABI on, that knows every field that is not as before."""
        ropes = [rope for rope in (self.spec.rope, self.spec.rope_local) if rope is not None]
        known = [newest(item) for item in (self, self.spec, *ropes)] + [info.abi for info in self.linears.values()]
        if self.embed_in_head and self.linears["head"].dtype not in EMBED_TYPES:
            known.append(_EMBED_IN_CODES)
        if OTHERS in self.special:
            known.append(OTHERS_ABI)
        return max(LEAST_ABI, *known)

    @property
    def embed_bits(self) -> int:
        """Width of the embedding's elements: of the head's where rows are read from it."""
        return weight_format(self.linears["head"].dtype if self.embed_in_head else self.tables["embed"]).bits

    def sink_problem(self) -> str | None:
        """Why there cannot be so many sink tokens, or None."""
        if type(self.sink_tokens) is not int or not 0 <= self.sink_tokens <= MAX_SINK_TOKENS:
            return f"`sink_tokens` is {self.sink_tokens!r}, not between 0 and {MAX_SINK_TOKENS}"
        blocks = [info for name, info in self.linears.items() if name.startswith("blocks.")]
        if self.sink_tokens and not any(info.sinks for info in blocks):
            return f"`sink_tokens` is {self.sink_tokens}, but no linear of the blocks has dynamic 4-bit activations"
        return None

    def tensors(self) -> dict[str, TensorSize]:
        """Every tensor of the file, in the order in which it is written."""
        spec = self.spec
        found = {name: TensorSize("u8", (size,), size) for name, size in self.documents.items()}
        for name, shape in (
            ("embed", (spec.vocab, spec.embed_dim)),
            ("position", (spec.context + spec.position_offset, spec.hidden)),
        ):
            if name in self.tables:
                dtype = self.tables[name]
                found[name] = TensorSize(dtype, shape, math.prod(shape) * weight_format(dtype).bytes)
                if weight_format(dtype).integer:
                    groups = () if self.embed_group == PER_ROW else (self.embed_group.scales(spec.embed_dim),)
                    found[f"{name}.scale"] = TensorSize("f32", shape[:1] + groups, 4 * math.prod(shape[:1] + groups))
        for name, size in norm_sizes(spec).items():
            found[name] = TensorSize("f32", (size,), 4 * size)
        if self.attention == "log2":
            for index in range(spec.layers):
                found.update(attention_tensors(spec, index))
        for name, info in self.linears.items():
            found.update(info.tensors(name))
        return found

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `agq.model`."""
        return {
            "spec": self.spec.to_dict(),
            "kv_bits": self.kv_bits,
            "head_bits": self.head_bits,
            "embed_bits": self.embed_bits,
            "embed_in_head": self.embed_in_head,
            "special": self.special,
            "attention": self.attention,
            "sink_tokens": self.sink_tokens,
            **({} if self.embed_group == PER_ROW else {"embed_group": to_artifact(self.embed_group)}),
            "tensors": {
                name: {"dtype": size.dtype, "shape": list(size.shape)} for name, size in self.tensors().items()
            },
            "linears": {name: info.to_dict() for name, info in self.linears.items()},
        }

    @classmethod
    def from_dict(cls, value: Any) -> "ArtifactModel":
        """Reads and checks `agq.model`; AgqError for anything that does not hang together."""
        given = _Description(**read(_Description, value, "the model description", complete=True))
        spec = ModelSpec.from_dict(given.spec)
        if given.kv_bits not in KV_CACHE:
            raise AgqError(f"unknown `kv_bits` {value['kv_bits']!r}")
        if type(given.head_bits) is not int or given.head_bits not in {row.bits for row in WEIGHTS.values()}:
            raise AgqError(f"unknown `head_bits` {value['head_bits']!r}")
        attention = given.attention
        if attention not in ATTENTION or (attention == "log2" and given.kv_bits != LOG2_CACHE.bits):
            raise AgqError(f"attention {attention!r} with a KV cache of {value['kv_bits']} bits is not available")
        in_head = given.embed_in_head
        if type(in_head) is not bool:
            raise AgqError("`embed_in_head` is not true or false")
        table, linears = given.tensors, given.linears
        shapes = linear_shapes(spec)
        if not isinstance(linears, dict) or set(linears) != set(shapes):
            raise AgqError("the model description does not name the linears that the model has")
        infos = {name: LinearInfo.from_dict(linears[name], name, shape) for name, shape in shapes.items()}
        if in_head and infos["head"].hadamard:
            raise AgqError("embedding rows cannot be read from a head behind a Hadamard transform")
        if in_head and infos["head"].ordered:
            raise AgqError("embedding rows cannot be read from a head whose columns are in another order")
        if not isinstance(table, dict):
            raise AgqError("the model description has no tensors")
        embed_group = _embed_group(given.embed_group, spec)
        tables = {}
        for name, needed, known in (
            ("embed", not in_head, EMBED_TYPES),
            ("position", spec.position == "learned", TABLE_TYPES),
        ):
            if needed:
                dtype = table[name].get("dtype") if isinstance(table.get(name), dict) else None
                if not isinstance(dtype, str) or dtype not in known:
                    raise AgqError(f"tensor `{name}` is missing or of an unknown type")
                tables[name] = dtype
        documents = {name: _document_size(table, name) for name in DOCUMENTS if name in table}
        if missing := [name for name in REQUIRED_DOCUMENTS if name not in documents]:
            raise AgqError(f"the file carries no {' and no '.join(missing)}")
        model = cls(
            spec,
            given.kv_bits,
            given.head_bits,
            in_head,
            infos,
            tables,
            documents,
            special_facts(given.special),
            attention,
            given.sink_tokens,
            embed_group,
        )
        if reason := model.sink_problem():
            raise AgqError(reason)
        bits = given.embed_bits if "embed_bits" in value else model.embed_bits
        if type(bits) is not int or bits != model.embed_bits:
            raise AgqError(f"`embed_bits` is {bits!r}, the embedding has {model.embed_bits}")
        expected = model.to_dict()["tensors"]
        if table != expected:
            wrong = sorted(name for name in set(table) | set(expected) if table.get(name) != expected.get(name))
            raise AgqError(f"the model description does not fit its tensors: {fold_names(wrong)}")
        return model


def _embed_group(value: Any, spec: ModelSpec) -> Granularity:
    if type(value) is not int or not 0 <= value <= spec.embed_dim:
        raise AgqError("`embed_group` is not a number of columns")
    group = of_artifact(value)
    if problem := group.problem(spec.embed_dim):
        raise AgqError(f"`embed_group` {problem}")
    return group


def _document_size(table: dict[str, Any], name: str) -> int:
    entry = table[name]
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int:
        raise AgqError(f"tensor `{name}` has no proper length")
    if not 0 <= shape[0] <= _MAX_DOCUMENT:
        raise AgqError(f"tensor `{name}` has no proper length")
    return shape[0]


def linear_shapes(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """Name -> (out, in) of every linear of an artifact, in the order of computation."""
    shapes = {}
    if spec.projected:
        shapes["project_in"] = (spec.hidden, spec.embed_dim)
    for index in range(spec.layers):
        shapes[f"blocks.{index}.qkv"] = (spec.q_size + 2 * spec.kv_size, spec.hidden)
        shapes[f"blocks.{index}.out"] = (spec.hidden, spec.q_size)
        shapes[f"blocks.{index}.up"] = (spec.ffn * (2 if spec.gated else 1), spec.hidden)
        shapes[f"blocks.{index}.down"] = (spec.hidden, spec.ffn)
    if spec.projected or spec.head_matrix:
        shapes["project_out"] = (spec.embed_dim, spec.hidden)
    shapes["head"] = (spec.vocab, spec.embed_dim)
    return shapes


def attention_tensors(spec: ModelSpec, index: int) -> dict[str, TensorSize]:
    """Static scales of a block's integer attention (`agq.checkpoint.attention_scales`)."""
    sizes = {
        "q_scale": ("f32", spec.heads),
        "k_scale": ("f32", spec.kv_heads),
        "v_scale": ("f32", 1),
        "v_zero": ("u8", 1),
        "v_exponent": ("u8", spec.kv_size),
    }
    return {
        f"blocks.{index}.{name}": TensorSize(dtype, (size,), size * _BYTES[dtype])
        for name, (dtype, size) in sizes.items()
    }


def block_norms(spec: ModelSpec) -> dict[str, int]:
    """Norms of a block, by their names in it -> features, in the order of computation."""
    norms = {}
    if spec.pre_norms:
        norms["attn_norm"] = spec.hidden
    if spec.qk_norm != "none":
        whole = spec.qk_norm == "whole"
        norms["q_norm"] = spec.q_size if whole else spec.head_dim
        norms["k_norm"] = spec.kv_size if whole else spec.head_dim
    if spec.post_norms:
        norms["attn_post_norm"] = spec.hidden
    if spec.pre_norms:
        norms["mlp_norm"] = spec.hidden
    if spec.post_norms:
        norms["mlp_post_norm"] = spec.hidden
    return norms


def norm_sizes(spec: ModelSpec) -> dict[str, int]:
    """Names of all norm tensors (f32) -> features; empty without affine parameters. Those of q and k are RMSNorms."""
    if not spec.norm_affine:
        return {}
    norms = {"embed_norm": spec.hidden} if spec.embed_norm else {}
    for index in range(spec.layers):
        norms |= {f"blocks.{index}.{name}": size for name, size in block_norms(spec).items()}
    norms |= {"final_norm": spec.hidden} if spec.final_norm else {}
    sizes = {}
    for norm, size in norms.items():
        sizes[f"{norm}.weight"] = size
        if spec.layer_norm and not norm.endswith((".q_norm", ".k_norm")):
            sizes[f"{norm}.bias"] = size
    return sizes
