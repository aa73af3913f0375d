"""Decoders of LLaMA's form: RMSNorm, rotary positions, grouped queries, a gated feed-forward part. What a family has
beyond that it adds to the description that stands here."""

import math
from dataclasses import dataclass

from agq.models.config import (
    CONTEXT,
    EPS,
    FFN,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    LAYERS,
    VOCAB,
    Config,
    activation,
    head_size,
)
from agq.models.parts import Linear, ModelParts
from agq.models.rotary import (
    DEFAULTS,
    RotaryDefaults,
    extended_context,
    read_rope,
    rotary_channels,
    rotary_share,
    whole_heads,
)
from agq.models.spec import GATED, ModelSpec


@dataclass(frozen=True)
class Defaults:
    """What a family's config class of transformers takes where config.json is silent.

    Attributes:
        heads, vocab: None: config.json must say it.
        kv_heads: None: as many as query heads, which is also what `null` means.
        head_dim: None: hidden size / heads.
        activation, activation_name: the function and its key.
        partial: rotary positions may turn some of a head's channels only.
    """

    heads: int | None = None
    vocab: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    context: int = 2048
    norm_eps: float = 1e-6
    tied: bool = False
    activation: str = "silu"
    activation_name: str = "hidden_act"
    rotary: RotaryDefaults = DEFAULTS
    partial: bool = False


def read_decoder(config: Config, family: str, defaults: Defaults) -> ModelSpec:
    """ModelSpec of the config.json of a decoder of LLaMA's form."""
    hidden = config.integer("hidden_size", **HIDDEN)
    heads = _needed(config, "num_attention_heads", defaults.heads, HEADS)
    vocab = _needed(config, "vocab_size", defaults.vocab, VOCAB)
    context = config.integer("max_position_embeddings", **CONTEXT, default=defaults.context)
    if config.values.get("head_dim") is not None:
        head_dim = config.integer("head_dim", **HEAD_DIM)
    elif defaults.head_dim is not None and config.silent("head_dim"):
        head_dim = defaults.head_dim
    else:
        head_dim = head_size(hidden, heads, config.where)
    kv_heads = defaults.kv_heads if config.silent("num_key_value_heads") else None
    rope = read_rope(config, context, defaults.rotary)
    if not defaults.partial:
        whole_heads(config, family)
    bos = config.token_ids("bos_token_id", vocab)
    return ModelSpec(
        family=family,
        hidden=hidden,
        layers=config.integer("num_hidden_layers", **LAYERS),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", **HEADS, default=kv_heads or heads),
        head_dim=head_dim,
        ffn=config.integer("intermediate_size", **FFN),
        vocab=vocab,
        context=extended_context(context, rope),
        norm="rms",
        norm_eps=config.number("rms_norm_eps", **EPS, default=defaults.norm_eps),
        position="rope",
        activation=activation(config, defaults.activation_name, defaults.activation, GATED, "_gated"),
        attention_scale=1 / math.sqrt(head_dim),
        tied=config.flag("tie_word_embeddings", defaults.tied),
        embed_dim=hidden,
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
        rope=rope,
        bos_id=bos[0] if bos else None,
        eos_ids=config.token_ids("eos_token_id", vocab),
        rotary_dim=rotary_channels(rotary_share(config), head_dim, config),
    )


def _needed(config: Config, name: str, default: int | None, bounds: dict[str, int]) -> int:
    if default is None:
        return config.integer(name, **bounds)
    return config.integer(name, **bounds, default=default)


def linears(spec: ModelSpec) -> tuple[Linear, ...]:
    """Linears of a block under LLaMA's names."""
    projected = spec.attention_bias or spec.qkv_bias
    return (
        Linear("self_attn.q_proj", "q", spec.q_size, spec.hidden, projected),
        Linear("self_attn.k_proj", "k", spec.kv_size, spec.hidden, projected),
        Linear("self_attn.v_proj", "v", spec.kv_size, spec.hidden, projected),
        Linear("self_attn.o_proj", "o", spec.hidden, spec.q_size, spec.attention_bias),
        Linear("mlp.gate_proj", "gate", spec.ffn, spec.hidden, spec.mlp_bias),
        Linear("mlp.up_proj", "up", spec.ffn, spec.hidden, spec.mlp_bias),
        Linear("mlp.down_proj", "down", spec.hidden, spec.ffn, spec.mlp_bias),
    )


def decoder_parts(spec: ModelSpec) -> ModelParts:
    """Names of LlamaForCausalLM, and those that its relatives have for further norms."""
    normed, after = spec.qk_norm != "none", spec.post_norms
    # Without norms after, `post_attention_layernorm` is the one before the feed-forward part.
    before = "pre_feedforward_layernorm" if after else "post_attention_layernorm"
    return ModelParts(
        spec=spec,
        base_prefix="model.",
        embed="model.embed_tokens",
        position=None,
        embed_norm=None,
        final_norm="model.norm",
        head="lm_head",
        project_in=None,
        project_out=None,
        block_pattern="model.layers.{}.",
        attn_norm="input_layernorm" if spec.pre_norms else None,
        mlp_norm=before if spec.pre_norms else None,
        linears=linears(spec),
        attn_post_norm="post_attention_layernorm" if after else None,
        mlp_post_norm="post_feedforward_layernorm" if after else None,
        q_norm="self_attn.q_norm" if normed else None,
        k_norm="self_attn.k_norm" if normed else None,
    )
