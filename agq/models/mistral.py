"""Mistral: LLaMA with a sliding window in every layer, or in none."""

from dataclasses import replace

from agq.models.config import Config
from agq.models.gated import Defaults, decoder_parts, read_decoder
from agq.models.parts import ModelParts
from agq.models.spec import ModelSpec
from agq.models.windows import window_size

_DEFAULTS = Defaults(kv_heads=8, context=131072)
# transformers' class has this window where config.json does not name one; `null` means none.
_WINDOW = 4096


def spec(config: Config) -> ModelSpec:
    """ModelSpec of a Mistral config.json."""
    found = replace(read_decoder(config, "mistral", _DEFAULTS), attention_bias=False, mlp_bias=False)
    window = window_size(config, _WINDOW)
    return replace(found, window=window, window_layers=tuple(range(found.layers))) if window else found


def parts(spec: ModelSpec) -> ModelParts:
    """Names of MistralForCausalLM."""
    return decoder_parts(spec)
