"""`agq.model`: what the packed artifact holds, and from it the exact size that every tensor must have.

Writer and reader share this table: a file is accepted only if its tensors are exactly those that it asks for.
"""

import math
from dataclasses import dataclass
from typing import Any

from agq.artifact import layout
from agq.errors import AgqError
from agq.models import ModelSpec
from agq.recipe import MAX_SINK_TOKENS

FLOAT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
# The embedding may also be 8-bit codes with a scale per row.
EMBED_BYTES = {**FLOAT_BYTES, "i8": 1}
# Width by element type, for `head_bits` and `embed_bits`.
BITS = {"u4": 4, "i8": 8, "f16": 16, "bf16": 16, "f32": 32}
WEIGHT_DTYPES = ("f32", "f16", "bf16", "i8", "u4")
# Documents: stored byte for byte; their shape is their length.
DOCUMENTS = ("tokenizer.json", "chat_template", "generation_config.json", "config.json")
REQUIRED_DOCUMENTS = ("tokenizer.json", "config.json")
KV_BITS = (4, 8, 32)
ATTENTION = ("float", "log2")
_MAX_DOCUMENT = 1 << 30


@dataclass(frozen=True)
class LinearInfo:
    """A linear as the engine computes it (agq_linear of kernels/include/agq.h).

    Attributes:
        out, inputs: logical shape. dtype: f32, f16, bf16, i8, u4. scale_dtype: f32 or bf16, None for float weights.
        group: columns that share a scale, 0 for the whole row. asym: has zero points.
        act_bits: 32 (float), 8 or 4. act_group: 0 for one scale per token. act_symmetric. bias: has one (f32).
        hadamard: block of the Walsh-Hadamard transform of the input, 0: none. act_clip: share of the range that the
            activations' codes cover.
        act_static: static activations of act_scale and act_zero, with an exponent per column.
    """

    out: int
    inputs: int
    dtype: str
    scale_dtype: str | None = None
    group: int = 0
    asym: bool = False
    act_bits: int = 32
    act_group: int = 0
    act_symmetric: bool = True
    bias: bool = False
    hadamard: int = 0
    act_clip: float = 1.0
    act_static: bool = False
    act_scale: float = 1.0
    act_zero: int = 0

    @property
    def quantized(self) -> bool:
        """Integer weights."""
        return self.dtype in ("u4", "i8")

    @property
    def dynamic_four_bits(self) -> bool:
        """Activations have 4 bits and scales of their own for each token."""
        return self.act_bits == 4 and not self.act_static

    @property
    def groups(self) -> int:
        """Scales per row."""
        return self.inputs // self.group if self.group else 1

    def weight_bytes(self) -> int:
        """Bytes of the weight tensor."""
        if self.dtype == "u4":
            return layout.u4_bytes(self.out, self.inputs)
        if self.dtype == "i8":
            return layout.i8_bytes(self.out, self.inputs)
        return layout.rows_bytes(self.out, self.inputs, FLOAT_BYTES[self.dtype])

    def tensors(self, name: str) -> dict[str, "TensorSize"]:
        """Names, types, shapes and byte counts of the linear's tensors."""
        found = {f"{name}.weight": TensorSize(self.dtype, (self.out, self.inputs), self.weight_bytes())}
        if self.quantized:
            shape = (self.out, self.groups)
            size = layout.rows_bytes(*shape, FLOAT_BYTES[self.scale_dtype])
            found[f"{name}.scale"] = TensorSize(self.scale_dtype, shape, size)
            if self.asym:
                found[f"{name}.zero"] = TensorSize("i8", shape, layout.rows_bytes(*shape, 1))
        if self.bias:
            found[f"{name}.bias"] = TensorSize("f32", (self.out,), 4 * self.out)
        if self.act_static:
            found[f"{name}.act_exponent"] = TensorSize("u8", (self.inputs,), self.inputs)
        return found

    def problem(self) -> str | None:
        """Why no kernel computes this, or None."""
        for what, group in (("group", self.group), ("act_group", self.act_group)):
            if group and (group < 32 or group % 32 or self.inputs % group):
                return f"{what} {group} is not a multiple of 32 that divides {self.inputs}"
        if self.quantized != (self.scale_dtype in ("f32", "bf16")) or self.dtype not in WEIGHT_DTYPES:
            return f"{self.dtype} weights with {self.scale_dtype} scales"
        if self.act_bits not in (4, 8, 32):
            return f"{self.act_bits}-bit activations"
        if not self.quantized and (self.act_bits != 32 or self.group or self.asym):
            return "float weights with integer activations, groups or zero points"
        if self.act_bits == 32 and (self.act_group or not self.act_symmetric):
            return "float activations with a group or a zero point"
        if self.act_bits == 8 and not self.act_symmetric and not self.act_static:
            return "asymmetric 8-bit activations"
        if self.hadamard < 0 or self.hadamard & (self.hadamard - 1) or (self.hadamard and self.inputs % self.hadamard):
            return f"a Hadamard block of {self.hadamard} is not a power of two that divides {self.inputs}"
        if not 0 < self.act_clip <= 1 or (self.act_clip != 1 and self.act_bits == 32):
            return f"activations of {self.act_bits} bits clipped to {self.act_clip} of their range"
        if self.act_static:
            return self._static_problem()
        if self.act_scale != 1 or self.act_zero:
            return "a static scale or zero point with dynamic activations"
        return None

    def _static_problem(self) -> str | None:
        if self.act_bits == 32 or self.act_group or self.act_symmetric or self.act_clip != 1:
            return "static activations that are float, in groups, symmetric or clipped"
        if self.act_bits == 8 and (self.dtype != "i8" or self.asym):
            return "static 8-bit activations without the weights' factors folded into 8-bit codes"
        if not 1e-30 <= self.act_scale <= 1e30 or not 0 <= self.act_zero < 1 << self.act_bits:
            return f"a static scale of {self.act_scale} with zero point {self.act_zero}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """As in docs/artifact.md."""
        return {
            "out": self.out,
            "in": self.inputs,
            "dtype": self.dtype,
            "scale_dtype": self.scale_dtype,
            "group": self.group,
            "asym": self.asym,
            "act_bits": self.act_bits,
            "act_group": self.act_group,
            "act_symmetric": self.act_symmetric,
            "bias": self.bias,
            "hadamard": self.hadamard,
            "act_clip": self.act_clip,
            "act_static": self.act_static,
            "act_scale": self.act_scale,
            "act_zero": self.act_zero,
        }

    @classmethod
    def from_dict(cls, value: Any, name: str, shape: tuple[int, int]) -> "LinearInfo":
        """Reads what to_dict wrote; AgqError unless it is well-formed, of the given (out, in) shape, and computable."""
        kinds = {
            "out": int,
            "in": int,
            "dtype": str,
            "group": int,
            "asym": bool,
            "act_bits": int,
            "act_group": int,
            "act_symmetric": bool,
            "bias": bool,
            "hadamard": int,
            "act_clip": float,
            "act_static": bool,
            "act_scale": float,
            "act_zero": int,
        }
        if not isinstance(value, dict) or set(value) != set(kinds) | {"scale_dtype"}:
            raise AgqError(f"description of linear `{name}` is incomplete")
        if any(type(value[key]) is not kind for key, kind in kinds.items()):
            raise AgqError(f"description of linear `{name}` has a value of the wrong type")
        if value["dtype"] not in WEIGHT_DTYPES or value["scale_dtype"] not in ("f32", "bf16", None):
            raise AgqError(f"description of linear `{name}` has an unknown element type")
        if (value["out"], value["in"]) != shape:
            raise AgqError(f"linear `{name}` is {value['out']} x {value['in']}, not {shape[0]} x {shape[1]}")
        if not 0 <= value["group"] <= shape[1] or not 0 <= value["act_group"] <= shape[1]:
            raise AgqError(f"description of linear `{name}` has an impossible group size")
        info = cls(inputs=value["in"], **{key: item for key, item in value.items() if key != "in"})
        if reason := info.problem():
            raise AgqError(f"linear `{name}` cannot be computed: {reason}")
        return info


def online_words(info: LinearInfo) -> str:
    """What is done to a linear's input before it is quantized, for people: ", hadamard 128, clip 0.9", or nothing."""
    hadamard = f", hadamard {info.hadamard}" if info.hadamard else ""
    return hadamard + (f", clip {info.act_clip:g}" if info.act_clip != 1 else "")


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
class ArtifactModel:
    """A checked `agq.model`.

    Attributes:
        special: token facts for the runtime: bos_id, eos_ids; the texts bos_token, eos_token, pad_token, unk_token (or
            None); and tokenizer_config.json's add_bos_token, add_eos_token (True, False, or None where it is silent).
        tables: element types of the row-major tables `embed` and `position`: floats, of `embed` also i8 (with a float32
            scale per row, `embed.scale`). documents: name -> length in bytes.
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

    @property
    def embed_bits(self) -> int:
        """Width of the embedding's elements: of the head's where rows are read from it."""
        return BITS[self.linears["head"].dtype if self.embed_in_head else self.tables["embed"]]

    def sink_problem(self) -> str | None:
        """Why there cannot be so many sink tokens, or None."""
        if type(self.sink_tokens) is not int or not 0 <= self.sink_tokens <= MAX_SINK_TOKENS:
            return f"`sink_tokens` is {self.sink_tokens!r}, not between 0 and {MAX_SINK_TOKENS}"
        blocks = [info for name, info in self.linears.items() if name.startswith("blocks.")]
        if self.sink_tokens and not any(info.dynamic_four_bits for info in blocks):
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
                found[name] = TensorSize(dtype, shape, math.prod(shape) * EMBED_BYTES[dtype])
                if dtype == "i8":
                    found[f"{name}.scale"] = TensorSize("f32", shape[:1], 4 * shape[0])
        for name in norm_names(spec):
            found[name] = TensorSize("f32", (spec.hidden,), 4 * spec.hidden)
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
            "tensors": {
                name: {"dtype": size.dtype, "shape": list(size.shape)} for name, size in self.tensors().items()
            },
            "linears": {name: info.to_dict() for name, info in self.linears.items()},
        }

    @classmethod
    def from_dict(cls, value: Any) -> "ArtifactModel":
        """Reads and checks `agq.model`; AgqError for anything that does not hang together."""
        keys = {"spec", "kv_bits", "head_bits", "embed_in_head", "special", "attention", "tensors", "linears"}
        # Files of ABI 2 do not say `embed_bits`, those of 2 and 3 not `sink_tokens`.
        if not isinstance(value, dict) or set(value) - {"embed_bits", "sink_tokens"} != keys:
            raise AgqError("the model description is incomplete")
        spec = ModelSpec.from_dict(value["spec"])
        if type(value["kv_bits"]) is not int or value["kv_bits"] not in KV_BITS:
            raise AgqError(f"unknown `kv_bits` {value['kv_bits']!r}")
        if type(value["head_bits"]) is not int or value["head_bits"] not in (4, 8, 16, 32):
            raise AgqError(f"unknown `head_bits` {value['head_bits']!r}")
        attention = value["attention"]
        if attention not in ATTENTION or (attention == "log2" and value["kv_bits"] != 8):
            raise AgqError(f"attention {attention!r} with a KV cache of {value['kv_bits']} bits is not available")
        in_head = value["embed_in_head"]
        if type(in_head) is not bool:
            raise AgqError("`embed_in_head` is not true or false")
        table, linears = value["tensors"], value["linears"]
        shapes = linear_shapes(spec)
        if not isinstance(linears, dict) or set(linears) != set(shapes):
            raise AgqError("the model description does not name the linears that the model has")
        infos = {name: LinearInfo.from_dict(linears[name], name, shape) for name, shape in shapes.items()}
        if in_head and (infos["head"].dtype == "u4" or infos["head"].hadamard):
            raise AgqError("embedding rows cannot be read from a 4-bit head or one behind a Hadamard transform")
        if not isinstance(table, dict):
            raise AgqError("the model description has no tensors")
        tables = {}
        for name, needed, known in (
            ("embed", not in_head, EMBED_BYTES),
            ("position", spec.position == "learned", FLOAT_BYTES),
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
            value["kv_bits"],
            value["head_bits"],
            in_head,
            infos,
            tables,
            documents,
            _special(value["special"]),
            attention,
            value.get("sink_tokens", 0),
        )
        if reason := model.sink_problem():
            raise AgqError(reason)
        bits = value.get("embed_bits", model.embed_bits)
        if type(bits) is not int or bits != model.embed_bits:
            raise AgqError(f"`embed_bits` is {bits!r}, the embedding has {model.embed_bits}")
        expected = model.to_dict()["tensors"]
        if table != expected:
            wrong = sorted(name for name in set(table) | set(expected) if table.get(name) != expected.get(name))
            raise AgqError(f"the model description does not fit its tensors: {', '.join(wrong[:5])}")
        return model


def _document_size(table: dict[str, Any], name: str) -> int:
    entry = table[name]
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int:
        raise AgqError(f"tensor `{name}` has no proper length")
    if not 0 <= shape[0] <= _MAX_DOCUMENT:
        raise AgqError(f"tensor `{name}` has no proper length")
    return shape[0]


SPECIAL_TEXTS = ("bos_token", "eos_token", "pad_token", "unk_token")
SPECIAL_FLAGS = ("add_bos_token", "add_eos_token")


def _special(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != {"bos_id", "eos_ids", *SPECIAL_TEXTS, *SPECIAL_FLAGS}:
        raise AgqError("the description of the special tokens is incomplete")
    texts = [value[name] for name in SPECIAL_TEXTS]
    ids = value["eos_ids"]
    if not isinstance(ids, list) or any(type(item) is not int or item < 0 for item in ids):
        raise AgqError("`eos_ids` is not a list of token ids")
    if value["bos_id"] is not None and type(value["bos_id"]) is not int:
        raise AgqError("`bos_id` is not a token id")
    if any(item is not None and not isinstance(item, str) for item in texts):
        raise AgqError("a special token is not a text")
    if any(value[name] is not None and not isinstance(value[name], bool) for name in SPECIAL_FLAGS):
        raise AgqError("`add_bos_token` or `add_eos_token` is not true, false or null")
    return value


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
    if spec.projected:
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
        f"blocks.{index}.{name}": TensorSize(dtype, (size,), size * (4 if dtype == "f32" else 1))
        for name, (dtype, size) in sizes.items()
    }


def norm_names(spec: ModelSpec) -> list[str]:
    """Names of all norm tensors (f32 [hidden] each); empty without affine parameters."""
    if not spec.norm_affine:
        return []
    norms = ["embed_norm"] if spec.embed_norm else []
    for index in range(spec.layers):
        norms += [f"blocks.{index}.attn_norm", f"blocks.{index}.mlp_norm"]
    norms += ["final_norm"] if spec.final_norm else []
    leaves = ("weight", "bias") if spec.norm == "layer" else ("weight",)
    return [f"{norm}.{leaf}" for norm in norms for leaf in leaves]
