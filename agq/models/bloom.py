"""BLOOM: LayerNorm (one more on the embeddings), ALiBi, fused query-key-value, GELU in its tanh form."""

import math

from agq.models.config import CONTEXT, EPS, HEADS, HIDDEN, LAYERS, VOCAB, Config, head_size
from agq.models.parts import Linear, ModelParts
from agq.models.spec import ModelSpec

# ALiBi has no limit; this is the length that the published models were trained with, used where a config names none.
DEFAULT_CONTEXT = 2048


def spec(config: Config) -> ModelSpec:
    """ModelSpec of a BLOOM config.json, with the key names of old and new configs."""
    hidden = config.integer("n_embed", "hidden_size", **HIDDEN)
    heads = config.integer("n_head", "num_attention_heads", **HEADS)
    vocab = config.integer("vocab_size", **VOCAB)
    head_dim = head_size(hidden, heads, config.where)
    bos = config.token_ids("bos_token_id", vocab)
    return ModelSpec(
        family="bloom",
        hidden=hidden,
        layers=config.integer("n_layer", "num_hidden_layers", **LAYERS),
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        ffn=4 * hidden,
        vocab=vocab,
        context=config.integer("seq_length", "max_position_embeddings", **CONTEXT, default=DEFAULT_CONTEXT),
        norm="layer",
        norm_eps=config.number("layer_norm_epsilon", **EPS, default=1e-5),
        position="alibi",
        activation="gelu_tanh",
        attention_scale=1 / math.sqrt(head_dim),
        residual_from_norm=config.flag("apply_residual_connection_post_layernorm", False),
        embed_norm=config.flag("agq_embed_norm", True),  # false: computed into the table by a transformation
        tied=config.flag("tie_word_embeddings", True),
        embed_dim=hidden,
        attention_bias=True,
        mlp_bias=True,
        bos_id=bos[0] if bos else None,
        eos_ids=config.token_ids("eos_token_id", vocab),
    )


def parts(spec: ModelSpec) -> ModelParts:
    """Names of BloomForCausalLM."""
    return ModelParts(
        spec=spec,
        base_prefix="transformer.",
        embed="transformer.word_embeddings",
        position=None,
        embed_norm="transformer.word_embeddings_layernorm" if spec.embed_norm else None,
        final_norm="transformer.ln_f",
        head="lm_head",
        project_in=None,
        project_out=None,
        block_pattern="transformer.h.{}.",
        attn_norm="input_layernorm",
        mlp_norm="post_attention_layernorm",
        linears=(
            Linear("self_attention.query_key_value", "qkv", 3 * spec.hidden, spec.hidden, True),
            Linear("self_attention.dense", "o", spec.hidden, spec.hidden, True),
            Linear("mlp.dense_h_to_4h", "up", spec.ffn, spec.hidden, True),
            Linear("mlp.dense_4h_to_h", "down", spec.hidden, spec.ffn, True),
        ),
        groups=(("qkv",), ("o",), ("up",), ("down",)),
    )
