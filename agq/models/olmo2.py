"""OLMo 2: LLaMA with RMSNorms after attention and feed-forward in place of those before, and of all of q and k."""

from dataclasses import replace

from agq.models.config import Config
from agq.models.gated import Defaults, decoder_parts, read_decoder
from agq.models.parts import ModelParts
from agq.models.spec import ModelSpec


def spec(config: Config) -> ModelSpec:
    """ModelSpec of an OLMo 2 config.json."""
    found = read_decoder(config, "olmo2", Defaults(norm_eps=1e-5))
    return replace(found, mlp_bias=False, qk_norm="whole", pre_norms=False, post_norms=True)


def parts(spec: ModelSpec) -> ModelParts:
    """Names of Olmo2ForCausalLM."""
    return decoder_parts(spec)
