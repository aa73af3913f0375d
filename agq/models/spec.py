"""What a decoder-only transformer is, as data: one description for all families.

Everything that reference, engine and packer need to compute a model stands here; names of tensors stand in parts.py
and in the family modules. Pure Python, no dependency.
"""

import math
import struct
from dataclasses import dataclass, fields
from typing import Any

from agq.errors import AgqError
from agq.formats.limits import SIZES
from agq.models.families import FAMILIES
from agq.models.fields import added, read, stored

NORMS = ("rms", "layer")
POSITIONS = ("rope", "learned", "alibi")
ACTIVATIONS = ("silu_gated", "relu", "gelu_tanh", "gelu_erf", "gelu_tanh_gated", "gelu_erf_gated")
QK_NORMS = ("none", "head", "whole")
ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_ROPES = ("rope", "rope_local")


def _f32(value: float) -> float:
    """The float32 nearest to `value` (infinity where it is too large)."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
        return rounded
    except OverflowError:
        return math.copysign(math.inf, value)


def _number(value: Any, name: str, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise AgqError(f"model description: `{name}` is {value!r}, not a number between {low:g} and {high:g}")


def _integer(value: Any, name: str, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise AgqError(f"model description: `{name}` is {value!r}, not an integer between {low} and {high}")


def _one_of(value: Any, name: str, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise AgqError(f"model description: `{name}` is {value!r}, not one of {', '.join(choices)}")


def _tuples(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The values of fields that are tuples, which JSON has as lists."""
    for item in fields(kind):
        if str(item.type).startswith("tuple") and item.name in found:
            if not isinstance(found[item.name], (list, tuple)):
                raise AgqError(f"model description: `{item.name}` is not a list")
            found[item.name] = tuple(found[item.name])
    return found


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding (Su et al. 2021) and its scalings, formulas as in transformers' `modeling_rope_utils`.

    `original_context` is the context of pre-training: `max_position_embeddings` for `dynamic`,
    `original_max_position_embeddings` for `llama3`, `yarn` (Peng et al. 2023) and `longrope` (Ding et al. 2024); the
    other kinds do not use it. `attention_factor` is the factor on cos and sin of `yarn` and `longrope`. `short_factors`
    and `long_factors` divide the frequencies of `longrope`, one for each, up to the original context and beyond it.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 2048
    attention_factor: float = added(1.0, 5)
    beta_fast: float = added(32.0, 5)
    beta_slow: float = added(1.0, 5)
    truncate: bool = added(True, 5)
    short_factors: tuple[float, ...] = added((), 5)
    long_factors: tuple[float, ...] = added((), 5)

    def __post_init__(self) -> None:
        _one_of(self.kind, "rope.kind", ROPE_KINDS)
        _number(self.theta, "rope.theta", 1e-6, 1e15)
        _number(self.factor, "rope.factor", 1e-3, 1e6)
        _number(self.low_freq_factor, "rope.low_freq_factor", 1e-6, 1e6)
        _number(self.high_freq_factor, "rope.high_freq_factor", 1e-6, 1e6)
        _integer(self.original_context, "rope.original_context", 1, SIZES["context"])
        if self.kind == "llama3" and not self.high_freq_factor > self.low_freq_factor:
            raise AgqError("model description: rope `high_freq_factor` must be larger than `low_freq_factor`")
        if self.kind == "dynamic" and self.factor < 1:
            raise AgqError("model description: rope `factor` of dynamic scaling must be at least 1")
        _number(self.attention_factor, "rope.attention_factor", 1e-3, 1e3)
        _number(self.beta_fast, "rope.beta_fast", 1e-3, 1e6)
        _number(self.beta_slow, "rope.beta_slow", 1e-3, 1e6)
        if not isinstance(self.truncate, bool):
            raise AgqError("model description: `rope.truncate` must be true or false")
        for name in ("short_factors", "long_factors"):
            values = getattr(self, name)
            if (self.kind == "longrope") != bool(values):
                raise AgqError(f"model description: rope `{name}` and the kind `longrope` belong together")
            for value in values:
                _number(value, f"rope.{name}", 1e-3, 1e6)

    def inv_freq(self, head_dim: int, seq_len: int = 0) -> tuple[list[float], float]:
        """Inverse frequencies for a sequence that is `seq_len` tokens long (only `dynamic` depends on it).

        Returns:
            head_dim/2 values, each a float32 value; and the factor on cos and sin (1.0 for all kinds here).
        """
        theta = self.theta
        if self.kind == "dynamic":
            # NTK-aware scaling; unchanged up to the original context. In float32 step by step, as transformers does it.
            length = max(seq_len, self.original_context)
            stretch = _f32(_f32(_f32(self.factor * length) / self.original_context) - (self.factor - 1))
            if head_dim <= 2:
                raise AgqError("dynamic rope scaling needs a head_dim larger than 2")
            theta = _f32(theta * _f32(stretch ** (head_dim / (head_dim - 2))))
        theta = _f32(theta)
        values = [_f32(1.0 / _f32(theta ** _f32(i / head_dim))) for i in range(0, head_dim, 2)]
        if self.kind == "linear":
            values = [_f32(value / self.factor) for value in values]
        elif self.kind == "llama3":
            values = [self._llama3(value) for value in values]
        return values, 1.0

    def _llama3(self, value: float) -> float:
        """Long wavelengths are divided by `factor`, short ones kept, those between interpolated."""
        wavelength = 2 * math.pi / value
        if wavelength < self.original_context / self.high_freq_factor:
            return value
        if wavelength > self.original_context / self.low_freq_factor:
            return _f32(value / self.factor)
        smooth = (self.original_context / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        return _f32((1 - smooth) * value / self.factor + smooth * value)


@dataclass(frozen=True)
class ModelSpec:
    """A decoder. Validated on construction: a ModelSpec that exists has sane dimensions (AgqError otherwise).

    A field for a new feature is declared with `added` (fields.py).

    Attributes:
        ffn: width of the feed-forward hidden layer (of each of gate and up when gated).
        context: most positions; for BLOOM, which has no limit, the length that it was trained for.
        position_offset: learned positions are read from row position + offset (2 for OPT).
        norm_after: the norm follows the residual addition (OPT-350m).
        residual_from_norm: the residual branch starts at the norm's output (a BLOOM option).
        embed_dim: width of embedding and head rows; differs from `hidden` only with projections (OPT-350m).
        attention_bias, mlp_bias: q, k, v, o and gate, up, down have biases.
        norm_affine: the norms have weights (and biases, where they are LayerNorms).
        bos_id, eos_ids: from config.json; ids outside the vocabulary are dropped.
        qkv_bias: q, k and v have biases, o has none (Qwen2).
        qk_norm: an RMSNorm of q and k before RoPE: none, of each "head" over head_dim (Qwen3, Gemma 3), or over the
            "whole" of q and of k (OLMo 2).
        pre_norms: attention and feed-forward read a norm of the hidden states (OLMo 2: the states themselves).
        post_norms: what attention and feed-forward give goes through a norm before it is added (Gemma, OLMo 2).
        parallel: attention and feed-forward read the same hidden states: h + attn(norm1 h) + mlp(norm2 h) (GPT-NeoX).
        norm_offset: a norm's gain is its stored weight plus this (Gemma: 1). Packed artifacts store gains: 0 there.
        embed_scale, residual_scale, logit_scale: factors on embedding rows, on what attention and feed-forward add to
            the hidden states, and on logits (Granite, Gemma).
        attention_softcap, logit_softcap: c tanh(x / c) of attention scores and of logits (Gemma 2); 0: none.
        rotary_dim: channels of a head, its first ones, that RoPE turns; 0: all.
        window: a query of a layer in `window_layers` sees this many tokens, itself included; 0: no such layers.
        rope_local: RoPE of the layers with a window, where theirs is another one (Gemma 3).
        unrotated_layers: layers without RoPE (SmolLM3).
    """

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    norm: str
    norm_eps: float
    position: str
    activation: str
    attention_scale: float
    tied: bool
    embed_dim: int
    position_offset: int = 0
    norm_after: bool = False
    residual_from_norm: bool = False
    embed_norm: bool = False
    final_norm: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_affine: bool = True
    rope: RopeSpec | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    qkv_bias: bool = added(False, 5)
    qk_norm: str = added("none", 5)
    pre_norms: bool = added(True, 5)
    post_norms: bool = added(False, 5)
    parallel: bool = added(False, 5)
    norm_offset: float = added(0.0, 5)
    embed_scale: float = added(1.0, 5)
    residual_scale: float = added(1.0, 5)
    logit_scale: float = added(1.0, 5)
    attention_softcap: float = added(0.0, 5)
    logit_softcap: float = added(0.0, 5)
    rotary_dim: int = added(0, 5)
    window: int = added(0, 5)
    window_layers: tuple[int, ...] = added((), 5)
    rope_local: RopeSpec | None = added(None, 5)
    unrotated_layers: tuple[int, ...] = added((), 5)

    def __post_init__(self) -> None:
        _one_of(self.family, "family", tuple(FAMILIES))
        _one_of(self.norm, "norm", NORMS)
        _one_of(self.position, "position", POSITIONS)
        _one_of(self.activation, "activation", ACTIVATIONS)
        _one_of(self.qk_norm, "qk_norm", QK_NORMS)
        for name, limit in SIZES.items():
            _integer(getattr(self, name), name, 1, limit)
        _integer(self.position_offset, "position_offset", 0, 1 << 10)
        _number(self.norm_eps, "norm_eps", 0, 1)
        _number(self.attention_scale, "attention_scale", 1e-6, 1e3)
        for item in fields(self):
            if item.type in (bool, "bool") and not isinstance(getattr(self, item.name), bool):
                raise AgqError(f"model description: `{item.name}` must be true or false")
        if self.heads % self.kv_heads:
            raise AgqError(
                f"model description: {self.heads} attention heads cannot share {self.kv_heads} key-value heads evenly"
            )
        if (self.position == "rope") != (self.rope is not None):
            raise AgqError("model description: rope parameters and position `rope` belong together")
        if self.position == "rope" and self.turned % 2:
            raise AgqError(f"model description: rotary positions need an even head_dim, not {self.turned}")
        self._check_added()
        if self.bos_id is not None:
            _integer(self.bos_id, "bos_id", 0, self.vocab - 1)
        for token in self.eos_ids:
            _integer(token, "eos_ids", 0, self.vocab - 1)

    def _check_added(self) -> None:
        """Values of the fields that came with ABI 5."""
        _number(self.norm_offset, "norm_offset", -1e3, 1e3)
        for name in ("embed_scale", "residual_scale", "logit_scale"):
            _number(getattr(self, name), name, 1e-6, 1e6)
        for name in ("attention_softcap", "logit_softcap"):
            _number(getattr(self, name), name, 0, 1e6)
        _integer(self.rotary_dim, "rotary_dim", 0, self.head_dim)
        _integer(self.window, "window", 0, SIZES["context"])
        for name in ("window_layers", "unrotated_layers"):
            listed = getattr(self, name)
            for layer in listed:
                _integer(layer, name, 0, self.layers - 1)
            if list(listed) != sorted(set(listed)):
                raise AgqError(f"model description: `{name}` is not in order, or names a layer twice")
        if (self.window > 0) != bool(self.window_layers):
            raise AgqError("model description: `window` and `window_layers` belong together")
        rotary = self.rotary_dim or self.rope_local is not None or self.unrotated_layers
        if rotary and self.position != "rope":
            raise AgqError("model description: rotary positions are described, and not used")
        if self.rope_local is not None and not self.window_layers:
            raise AgqError("model description: `rope_local` is for layers with a window, and there are none")
        for rope in (self.rope, self.rope_local):
            if rope is not None and rope.kind == "longrope":
                counts = {len(rope.short_factors), len(rope.long_factors)}
                if counts != {self.turned // 2}:
                    raise AgqError(f"model description: rope factors are not {self.turned // 2}, one per frequency")
        if not (self.pre_norms or self.post_norms) or (self.norm_after and (self.post_norms or self.parallel)):
            raise AgqError("model description: no such order of norms")
        if self.parallel and (not self.pre_norms or self.post_norms or self.residual_from_norm):
            raise AgqError("model description: no such order of norms beside `parallel`")

    @property
    def turned(self) -> int:
        """Channels of a head that RoPE turns."""
        return self.rotary_dim or self.head_dim

    @property
    def gated(self) -> bool:
        """The feed-forward part has a gate: down(act(gate x) * up x)."""
        return self.activation.endswith("_gated")

    @property
    def layer_norm(self) -> bool:
        """The norms take the mean away and may have biases; an RMSNorm does neither."""
        return self.norm == "layer"

    @property
    def q_size(self) -> int:
        """Rows of the query projection."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Rows of the key (or value) projection."""
        return self.kv_heads * self.head_dim

    @property
    def projected(self) -> bool:
        """Embedding and head have another width than the blocks."""
        return self.embed_dim != self.hidden

    def alibi_slopes(self) -> list[float]:
        """ALiBi slope of each head (Press et al. 2022), float32 values, as transformers' BLOOM computes them.

        The first 2^floor(log2 heads) heads follow the geometric series; the remaining ones take every other term of the
        series of twice as many heads.
        """
        closest = 1 << (self.heads.bit_length() - 1)
        base = _f32(2.0 ** -(2.0 ** -(math.log2(closest) - 3)))
        slopes = [_f32(base**power) for power in range(1, closest + 1)]
        if closest != self.heads:
            base = _f32(2.0 ** -(2.0 ** -(math.log2(2 * closest) - 3)))
            slopes += [_f32(base**power) for power in range(1, 2 * (self.heads - closest), 2)]
        return slopes

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        values = stored(self)
        for name in _ROPES:
            if values.get(name) is not None:
                rope: dict[str, Any] = stored(values[name])
                values[name] = {key: list(item) if isinstance(item, tuple) else item for key, item in rope.items()}
        return {key: list(item) if isinstance(item, tuple) else item for key, item in values.items()}

    @classmethod
    def from_dict(cls, values: Any) -> "ModelSpec":
        """The inverse of to_dict. Fields that have a default may be missing: files of earlier versions lack those that
        came later. Raises AgqError for unknown keys, missing ones without default, and wrong types."""
        found = read(cls, values, "model description")
        for name in _ROPES:
            if found.get(name) is not None:
                found[name] = RopeSpec(**_tuples(RopeSpec, read(RopeSpec, found[name], "rope description")))
        return cls(**_tuples(cls, found))
