"""Gemma 2: soft caps of attention scores and logits; every other layer has a sliding window."""

from dataclasses import replace

from agq.models.config import Config
from agq.models.gated import decoder_parts
from agq.models.gemma import DEFAULTS, read_gemma, soft_cap
from agq.models.parts import ModelParts
from agq.models.spec import ModelSpec


def spec(config: Config) -> ModelSpec:
    """ModelSpec of a Gemma 2 config.json."""
    found = read_gemma(config, "gemma2", DEFAULTS, every=2, caps=30.0)
    return replace(found, attention_softcap=soft_cap(config, "attn_logit_softcapping", 50.0))


def parts(spec: ModelSpec) -> ModelParts:
    """Names of Gemma2ForCausalLM."""
    return decoder_parts(spec)
