"""LLaMA: RMSNorm, rotary positions, grouped queries, SiLU-gated feed-forward."""

import math

from agq.errors import AgqError
from agq.models.config import CONTEXT, EPS, FFN, HEAD_DIM, HEADS, HIDDEN, LAYERS, VOCAB, Config, head_size
from agq.models.parts import Linear, ModelParts
from agq.models.spec import ROPE_KINDS, ModelSpec, RopeSpec


def _rope(config: Config, context: int) -> RopeSpec:
    """RoPE of a config in either style: `rope_parameters` (transformers 5), or `rope_theta` + `rope_scaling` (4).

    As in transformers 5, a `rope_scaling` that stands beside `rope_parameters` wins.
    """
    key = "rope_scaling" if config.values.get("rope_scaling") else "rope_parameters"
    table = config.table(key) or Config({}, config.where)
    kind = table.text("rope_type", "type", default="default")
    if kind not in ROPE_KINDS[:4]:
        raise AgqError(
            f"{table.where}: rope type `{kind}` is not supported", hint=f"supported: {', '.join(ROPE_KINDS)}"
        )
    if table.number("partial_rotary_factor", low=0, high=1, default=1.0) != 1.0:
        raise AgqError(f"{table.where}: `partial_rotary_factor` other than 1 is not supported for LLaMA")
    outer = config.number("rope_theta", low=1e-6, high=1e15, default=10000.0)
    theta = table.number("rope_theta", low=1e-6, high=1e15, default=outer)
    if kind == "default":
        return RopeSpec(theta=theta)
    factor = table.number("factor", low=1e-3, high=1e6)
    if kind == "linear":
        return RopeSpec(theta=theta, kind=kind, factor=factor)
    if kind == "dynamic":
        return RopeSpec(theta=theta, kind=kind, factor=factor, original_context=context)
    inner_context = table.integer("original_max_position_embeddings", **CONTEXT, default=context)
    return RopeSpec(
        theta=theta,
        kind=kind,
        factor=factor,
        low_freq_factor=table.number("low_freq_factor", low=1e-6, high=1e6),
        high_freq_factor=table.number("high_freq_factor", low=1e-6, high=1e6),
        original_context=config.integer("original_max_position_embeddings", **CONTEXT, default=inner_context),
    )


def spec(config: Config) -> ModelSpec:
    """ModelSpec of a LLaMA config.json."""
    activation = config.text("hidden_act", default="silu")
    if activation not in ("silu", "swish"):
        raise AgqError(f"{config.where}: LLaMA with activation `{activation}` is not supported", hint="supported: silu")
    hidden = config.integer("hidden_size", **HIDDEN)
    heads = config.integer("num_attention_heads", **HEADS)
    vocab = config.integer("vocab_size", **VOCAB)
    context = config.integer("max_position_embeddings", **CONTEXT, default=2048)
    if config.values.get("head_dim") is not None:
        head_dim = config.integer("head_dim", **HEAD_DIM)
    else:
        head_dim = head_size(hidden, heads, config.where)
    rope = _rope(config, context)
    if rope.kind == "dynamic":
        # max_position_embeddings is the context of pre-training here; the scaling is made to stretch it `factor` times.
        context = min(int(context * rope.factor), CONTEXT["high"])
    bos = config.token_ids("bos_token_id", vocab)
    return ModelSpec(
        family="llama",
        hidden=hidden,
        layers=config.integer("num_hidden_layers", **LAYERS),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", **HEADS, default=heads),
        head_dim=head_dim,
        ffn=config.integer("intermediate_size", **FFN),
        vocab=vocab,
        context=context,
        norm="rms",
        norm_eps=config.number("rms_norm_eps", **EPS, default=1e-6),
        position="rope",
        activation="silu_gated",
        attention_scale=1 / math.sqrt(head_dim),
        tied=config.flag("tie_word_embeddings", False),
        embed_dim=hidden,
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
        rope=rope,
        bos_id=bos[0] if bos else None,
        eos_ids=config.token_ids("eos_token_id", vocab),
    )


def parts(spec: ModelSpec) -> ModelParts:
    """Names of LlamaForCausalLM."""
    attention, mlp = spec.attention_bias, spec.mlp_bias
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
        attn_norm="input_layernorm",
        mlp_norm="post_attention_layernorm",
        linears=(
            Linear("self_attn.q_proj", "q", spec.q_size, spec.hidden, attention),
            Linear("self_attn.k_proj", "k", spec.kv_size, spec.hidden, attention),
            Linear("self_attn.v_proj", "v", spec.kv_size, spec.hidden, attention),
            Linear("self_attn.o_proj", "o", spec.hidden, spec.q_size, attention),
            Linear("mlp.gate_proj", "gate", spec.ffn, spec.hidden, mlp),
            Linear("mlp.up_proj", "up", spec.ffn, spec.hidden, mlp),
            Linear("mlp.down_proj", "down", spec.hidden, spec.ffn, mlp),
        ),
    )
