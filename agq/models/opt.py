"""OPT: LayerNorm before or (OPT-350m) after, learned positions with an offset of 2, ReLU (GELU in descendants)."""

import math

from agq.models.config import CONTEXT, FFN, HEADS, HIDDEN, LAYERS, VOCAB, Config, activation, head_size
from agq.models.parts import Linear, ModelParts
from agq.models.spec import UNGATED, ModelSpec


def spec(config: Config) -> ModelSpec:
    """ModelSpec of an OPT config.json."""
    hidden = config.integer("hidden_size", **HIDDEN)
    heads = config.integer("num_attention_heads", **HEADS)
    vocab = config.integer("vocab_size", **VOCAB)
    head_dim = head_size(hidden, heads, config.where)
    before = config.flag("do_layer_norm_before", True)
    bias = config.flag("enable_bias", True)
    bos = config.token_ids("bos_token_id", vocab)
    return ModelSpec(
        family="opt",
        hidden=hidden,
        layers=config.integer("num_hidden_layers", **LAYERS),
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        ffn=config.integer("ffn_dim", **FFN),
        vocab=vocab,
        context=config.integer("max_position_embeddings", **CONTEXT, default=2048),
        norm="layer",
        norm_eps=1e-5,  # torch.nn.LayerNorm's default; OPT has no field for it
        position="learned",
        position_offset=2,
        activation=activation(config, "activation_function", "relu", UNGATED),
        attention_scale=1 / math.sqrt(head_dim),
        norm_after=not before,
        final_norm=before and not config.flag("_remove_final_layer_norm", False),
        tied=config.flag("tie_word_embeddings", True),
        embed_dim=config.integer("word_embed_proj_dim", **HIDDEN, default=hidden),
        attention_bias=bias,
        mlp_bias=bias,
        norm_affine=config.flag("layer_norm_elementwise_affine", True),
        bos_id=bos[0] if bos else None,
        eos_ids=config.token_ids("eos_token_id", vocab),
    )


def parts(spec: ModelSpec) -> ModelParts:
    """Names of OPTForCausalLM."""
    return ModelParts(
        spec=spec,
        base_prefix="model.",
        embed="model.decoder.embed_tokens",
        position="model.decoder.embed_positions",
        embed_norm=None,
        final_norm="model.decoder.final_layer_norm" if spec.final_norm else None,
        head="lm_head",
        project_in="model.decoder.project_in" if spec.projected else None,
        project_out="model.decoder.project_out" if spec.projected else None,
        block_pattern="model.decoder.layers.{}.",
        attn_norm="self_attn_layer_norm",
        mlp_norm="final_layer_norm",
        linears=(
            Linear("self_attn.q_proj", "q", spec.hidden, spec.hidden, spec.attention_bias),
            Linear("self_attn.k_proj", "k", spec.hidden, spec.hidden, spec.attention_bias),
            Linear("self_attn.v_proj", "v", spec.hidden, spec.hidden, spec.attention_bias),
            Linear("self_attn.out_proj", "o", spec.hidden, spec.hidden, spec.attention_bias),
            Linear("fc1", "up", spec.ffn, spec.hidden, spec.mlp_bias),
            Linear("fc2", "down", spec.hidden, spec.ffn, spec.mlp_bias),
        ),
        groups=(("q", "k", "v"), ("o",), ("up",), ("down",)),
    )
