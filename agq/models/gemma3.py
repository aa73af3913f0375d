"""Gemma 3, text: an RMSNorm of each head's queries and keys; five of six layers have a sliding window and RoPE of their
own."""

from dataclasses import replace

from agq.models.config import Config
from agq.models.gated import decoder_parts
from agq.models.gemma import DEFAULTS, read_gemma
from agq.models.parts import ModelParts
from agq.models.rotary import THETA, layer_tables, rope_of, whole_heads
from agq.models.spec import ModelSpec
from agq.models.windows import FULL, SLIDING

# The configs inside those of models that read pictures leave out what is as in transformers' class.
_DEFAULTS = replace(DEFAULTS, context=131072, heads=8, vocab=262208)
_EVERY = 6
# Bases where config.json names none.
_GLOBAL, _LOCAL = 1e6, 1e4


def spec(config: Config) -> ModelSpec:
    """ModelSpec of a Gemma 3 config.json of the text model.

    `attn_logit_softcapping` counts for nothing: transformers' Gemma 3 does not compute it either.
    """
    tables = layer_tables(config, (FULL, SLIDING))
    # Of `rope_scaling` all goes to the layers that see everything.
    scaling = config.table("rope_scaling")
    full = Config({**tables[FULL].values, **(scaling.values if scaling else {})}, tables[FULL].where)
    for table in (full, tables[SLIDING]):
        whole_heads(table, "gemma3_text")
    without = {key: value for key, value in config.values.items() if key not in ("rope_scaling", "rope_parameters")}
    every = config.integer("sliding_window_pattern", low=1, high=1 << 16, default=_EVERY)
    found = read_gemma(Config(without, config.where), "gemma3_text", _DEFAULTS, every=every, caps=0.0)
    context = found.context
    theta = config.number("rope_theta", **THETA, default=_GLOBAL)
    rope = rope_of(full, theta, context)
    theta = config.number("rope_local_base_freq", **THETA, default=_LOCAL)
    local = rope_of(tables[SLIDING], theta, context)
    needed = found.window_layers and local != rope
    return replace(found, qk_norm="head", rope=rope, rope_local=local if needed else None)


def parts(spec: ModelSpec) -> ModelParts:
    """Names of Gemma3ForCausalLM, also as they stand in models that read pictures, too."""
    inside = (
        ("language_model.model.", "model."),
        ("language_model.lm_head.", "lm_head."),
        ("model.language_model.", "model."),
    )
    return replace(
        decoder_parts(spec), aliases=inside, left_out=("model.vision_tower.", "model.multi_modal_projector.")
    )
