"""LLaMA: RMSNorm, rotary positions, grouped queries, SiLU-gated feed-forward."""

from agq.models.config import Config
from agq.models.gated import Defaults, decoder_parts, read_decoder
from agq.models.parts import ModelParts
from agq.models.spec import ModelSpec


def spec(config: Config) -> ModelSpec:
    """ModelSpec of a LLaMA config.json."""
    return read_decoder(config, "llama", Defaults())


def parts(spec: ModelSpec) -> ModelParts:
    """Names of LlamaForCausalLM."""
    return decoder_parts(spec)
