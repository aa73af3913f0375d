"""What a decoder-only transformer is, as data: one description for all families.

Everything that reference, engine and packer need to compute a model stands here; names of tensors stand in parts.py
and in the family modules. Pure Python, no dependency.
"""

import math
from dataclasses import dataclass
from typing import Any

from agq.errors import AgqError
from agq.formats.limits import SIZES
from agq.models.checks import flags, float32, integer, number, one_of, tuples
from agq.models.families import FAMILIES
from agq.models.fields import added, read, stored
from agq.models.rope import RopeSpec

NORMS = ("rms", "layer")
POSITIONS = ("rope", "learned", "alibi")
ACTIVATIONS = ("silu_gated", "relu", "gelu_tanh", "gelu_erf", "gelu_tanh_gated", "gelu_erf_gated")
# Of a feed-forward part with a gate, down(act(gate x) * up x), and of one without.
GATED = tuple(name for name in ACTIVATIONS if name.endswith("_gated"))
UNGATED = tuple(name for name in ACTIVATIONS if name not in GATED)
QK_NORMS = ("none", "head", "whole")
_ROPES = ("rope", "rope_local")


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
        rotary_dim: channels of a head, its first ones, that RoPE turns; 0: all. One more where it is odd.
        window: a query of a layer in `window_layers` sees this many tokens, itself included; 0: no such layers.
        rope_local: RoPE of the layers with a window, where theirs is another one (Gemma 3).
        unrotated_layers: layers without RoPE (SmolLM3).
        head_matrix: what the final norm gives goes through a matrix [hidden, hidden] before the head, which is the
            (rotated) embedding (agq/checkpoint/head_matrix.py).
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
    head_matrix: bool = added(False, 6)

    def __post_init__(self) -> None:
        one_of(self.family, "family", tuple(FAMILIES))
        one_of(self.norm, "norm", NORMS)
        one_of(self.position, "position", POSITIONS)
        one_of(self.activation, "activation", ACTIVATIONS)
        one_of(self.qk_norm, "qk_norm", QK_NORMS)
        for name, limit in SIZES.items():
            integer(getattr(self, name), name, 1, limit)
        integer(self.position_offset, "position_offset", 0, 1 << 10)
        number(self.norm_eps, "norm_eps", 0, 1)
        number(self.attention_scale, "attention_scale", 1e-6, 1e3)
        flags(self)
        if self.heads % self.kv_heads:
            raise AgqError(
                f"model description: {self.heads} attention heads cannot share {self.kv_heads} key-value heads evenly"
            )
        if (self.position == "rope") != (self.rope is not None):
            raise AgqError("model description: rope parameters and position `rope` belong together")
        if self.position == "rope" and self.turned > self.head_dim:
            raise AgqError(f"model description: rotary positions need an even head_dim, not {self.head_dim}")
        self._check_added()
        if self.bos_id is not None:
            integer(self.bos_id, "bos_id", 0, self.vocab - 1)
        for token in self.eos_ids:
            integer(token, "eos_ids", 0, self.vocab - 1)

    def _check_added(self) -> None:
        """Values of the fields that came with ABI 5 and later."""
        number(self.norm_offset, "norm_offset", -1e3, 1e3)
        for name in ("embed_scale", "residual_scale", "logit_scale"):
            number(getattr(self, name), name, 1e-6, 1e6)
        for name in ("attention_softcap", "logit_softcap"):
            number(getattr(self, name), name, 0, 1e6)
        integer(self.rotary_dim, "rotary_dim", 0, self.head_dim)
        integer(self.window, "window", 0, SIZES["context"])
        for name in ("window_layers", "unrotated_layers"):
            listed = getattr(self, name)
            for layer in listed:
                integer(layer, name, 0, self.layers - 1)
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
                if counts != {self.frequencies}:
                    raise AgqError(f"model description: rope factors are not {self.frequencies}, one per frequency")
        if self.head_matrix and (self.projected or not self.tied):
            raise AgqError("model description: `head_matrix` is for a head that is an embedding as wide as the blocks")
        if not (self.pre_norms or self.post_norms) or (self.norm_after and (self.post_norms or self.parallel)):
            raise AgqError("model description: no such order of norms")
        if self.parallel and (not self.pre_norms or self.post_norms or self.residual_from_norm):
            raise AgqError("model description: no such order of norms beside `parallel`")

    @property
    def steady_context(self) -> int | None:
        """Tokens of the longest text whose rotary frequencies are those of any shorter one: longer texts have others
        from their beginning on. None: frequencies never depend on the length.
        """
        ropes = [rope for rope in (self.rope, self.rope_local) if rope is not None and rope.depends_on_length]
        return min((rope.original_context for rope in ropes), default=None)

    @property
    def turned(self) -> int:
        """Channels of a head that RoPE turns, an even number."""
        return self.frequencies * 2

    @property
    def frequencies(self) -> int:
        """Pairs of channels that RoPE turns."""
        return ((self.rotary_dim or self.head_dim) + 1) // 2

    def inv_freq(self, rope: RopeSpec, length: int = 0) -> tuple[list[float], float]:
        """Inverse frequencies, `frequencies` float32 values, of one of this model's two RoPEs for a sequence of
        `length` tokens; and the factor on cos and sin."""
        return rope.inv_freq(self.rotary_dim or self.head_dim, length)

    def layer_window(self, layer: int) -> int:
        """How many tokens a query of a layer sees at most; 0: all."""
        return self.window if layer in self.window_layers else 0

    def layer_rope(self, layer: int) -> RopeSpec | None:
        """RoPE of a layer; None: it has none."""
        if layer in self.unrotated_layers:
            return None
        local = self.rope_local is not None and layer in self.window_layers
        return self.rope_local if local else self.rope

    @property
    def gated(self) -> bool:
        """The feed-forward part has a gate: down(act(gate x) * up x)."""
        return self.activation in GATED

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
        base = float32(2.0 ** -(2.0 ** -(math.log2(closest) - 3)))
        slopes = [float32(base**power) for power in range(1, closest + 1)]
        if closest != self.heads:
            base = float32(2.0 ** -(2.0 ** -(math.log2(2 * closest) - 3)))
            slopes += [float32(base**power) for power in range(1, 2 * (self.heads - closest), 2)]
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
                found[name] = RopeSpec(**tuples(RopeSpec, read(RopeSpec, found[name], "rope description")))
        return cls(**tuples(cls, found))
