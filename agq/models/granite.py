"""Granite: LLaMA with factors on embeddings, attention scores, residual additions and logits."""

from dataclasses import replace

from agq.models.config import Config
from agq.models.gated import Defaults, decoder_parts, read_decoder
from agq.models.parts import ModelParts
from agq.models.spec import ModelSpec

_FACTOR = {"low": 1e-6, "high": 1e6}


def spec(config: Config) -> ModelSpec:
    """ModelSpec of a Granite config.json."""
    found = read_decoder(config, "granite", Defaults())
    return replace(
        found,
        attention_scale=config.number("attention_multiplier", **_FACTOR, default=1.0),
        embed_scale=config.number("embedding_multiplier", **_FACTOR, default=1.0),
        residual_scale=config.number("residual_multiplier", **_FACTOR, default=1.0),
        logit_scale=1 / config.number("logits_scaling", **_FACTOR, default=1.0),
    )


def parts(spec: ModelSpec) -> ModelParts:
    """Names of GraniteForCausalLM."""
    return decoder_parts(spec)
