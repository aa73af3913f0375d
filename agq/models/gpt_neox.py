"""GPT-NeoX and Pythia: LayerNorm, partial rotary positions, fused query-key-value, GELU; attention and feed-forward
beside each other, unless the config says otherwise."""

import math

from agq.models.config import CONTEXT, EPS, FFN, HEADS, HIDDEN, LAYERS, VOCAB, Config, activation, head_size
from agq.models.parts import Linear, ModelParts
from agq.models.rotary import RotaryDefaults, extended_context, read_rope, rotary_channels, rotary_share
from agq.models.spec import UNGATED, ModelSpec

_ROTARY = RotaryDefaults(theta_name="rotary_emb_base")
# Share of a head that is turned, where config.json does not say it.
_SHARE = 0.25


def spec(config: Config) -> ModelSpec:
    """ModelSpec of a GPT-NeoX config.json."""
    hidden = config.integer("hidden_size", **HIDDEN)
    heads = config.integer("num_attention_heads", **HEADS)
    vocab = config.integer("vocab_size", **VOCAB)
    context = config.integer("max_position_embeddings", **CONTEXT, default=2048)
    head_dim = head_size(hidden, heads, config.where)
    rope = read_rope(config, context, _ROTARY)
    bos = config.token_ids("bos_token_id", vocab)
    return ModelSpec(
        family="gpt_neox",
        hidden=hidden,
        layers=config.integer("num_hidden_layers", **LAYERS),
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        ffn=config.integer("intermediate_size", **FFN),
        vocab=vocab,
        context=extended_context(context, rope),
        norm="layer",
        norm_eps=config.number("layer_norm_eps", **EPS, default=1e-5),
        position="rope",
        activation=activation(config, "hidden_act", "gelu", UNGATED),
        attention_scale=1 / math.sqrt(head_dim),
        tied=config.flag("tie_word_embeddings", False),
        embed_dim=hidden,
        attention_bias=config.flag("attention_bias", True),
        mlp_bias=True,
        rope=rope,
        bos_id=bos[0] if bos else None,
        eos_ids=config.token_ids("eos_token_id", vocab),
        parallel=config.flag("use_parallel_residual", True),
        rotary_dim=rotary_channels(rotary_share(config, "rotary_pct", _SHARE), head_dim, config),
    )


def parts(spec: ModelSpec) -> ModelParts:
    """Names of GPTNeoXForCausalLM."""
    return ModelParts(
        spec=spec,
        base_prefix="gpt_neox.",
        embed="gpt_neox.embed_in",
        position=None,
        embed_norm=None,
        final_norm="gpt_neox.final_layer_norm",
        head="lm_head",
        project_in=None,
        project_out=None,
        block_pattern="gpt_neox.layers.{}.",
        attn_norm="input_layernorm",
        mlp_norm="post_attention_layernorm",
        linears=(
            Linear("attention.query_key_value", "qkv", 3 * spec.hidden, spec.hidden, spec.attention_bias),
            Linear("attention.dense", "o", spec.hidden, spec.hidden, spec.attention_bias),
            Linear("mlp.dense_h_to_4h", "up", spec.ffn, spec.hidden, True),
            Linear("mlp.dense_4h_to_h", "down", spec.hidden, spec.ffn, True),
        ),
        groups=(("qkv",), ("o",), ("up",), ("down",)),
        aliases=(("embed_out.", "lm_head."),),
    )
