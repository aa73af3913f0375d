"""Qwen2 and Qwen2.5: LLaMA with biases of q, k and v. Qwen3: LLaMA with an RMSNorm of each head's queries and keys.
The later layers of both may have a sliding window."""

from dataclasses import replace

from agq.models.config import LAYERS, Config
from agq.models.gated import Defaults, decoder_parts, read_decoder
from agq.models.parts import ModelParts
from agq.models.spec import ModelSpec
from agq.models.windows import sliding_layers, window_size, windows

_DEFAULTS = {
    "qwen2": Defaults(kv_heads=32, context=32768),
    "qwen3": Defaults(kv_heads=32, context=32768, head_dim=128),
}
# Of transformers' classes.
_WINDOW, _FULL_LAYERS = 4096, 28


def spec(config: Config) -> ModelSpec:
    """ModelSpec of a config.json of Qwen2 or Qwen3."""
    family = config.family
    found = replace(read_decoder(config, family, _DEFAULTS[family]), mlp_bias=False)
    window = window_size(config, _WINDOW) if config.flag("use_sliding_window", False) else None
    full = config.integer("max_window_layers", **LAYERS | {"low": 0}, default=_FULL_LAYERS)
    usual = [window is not None and index >= full for index in range(found.layers)]
    size, layers = windows(config, window, sliding_layers(config, found.layers, usual))
    if family == "qwen2":
        return replace(found, attention_bias=False, qkv_bias=True, window=size, window_layers=layers)
    return replace(found, qk_norm="head", window=size, window_layers=layers)


def parts(spec: ModelSpec) -> ModelParts:
    """Names of Qwen2ForCausalLM and Qwen3ForCausalLM."""
    return decoder_parts(spec)
