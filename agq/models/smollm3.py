"""SmolLM3: LLaMA with layers without rotary positions, which may have a sliding window."""

from dataclasses import replace

from agq.errors import AgqError
from agq.models.config import Config
from agq.models.gated import Defaults, decoder_parts, read_decoder
from agq.models.parts import ModelParts
from agq.models.rotary import RotaryDefaults
from agq.models.spec import ModelSpec
from agq.models.windows import sliding_layers, window_size, windows

_DEFAULTS = Defaults(kv_heads=4, context=32768, tied=True, rotary=RotaryDefaults(theta=2e6))
# Each so manieth layer has no rotary positions.
_EVERY = 4


def spec(config: Config) -> ModelSpec:
    """ModelSpec of a SmolLM3 config.json."""
    found = read_decoder(config, "smollm3", _DEFAULTS)
    unrotated = _unrotated(config, found.layers)
    window = window_size(config, None)
    slide = config.flag("use_sliding_window", False) and window is not None
    usual = [slide and index in unrotated for index in range(found.layers)]
    size, layers = windows(config, window, sliding_layers(config, found.layers, usual))
    return replace(found, unrotated_layers=unrotated, window=size, window_layers=layers)


def _unrotated(config: Config, layers: int) -> tuple[int, ...]:
    """Layers without rotary positions. `no_rope_layers` has a 1 (!) for each layer that has them."""
    listed = config.values.get("no_rope_layers")
    if listed is None:
        every = config.integer("no_rope_layer_interval", low=1, high=1 << 16, default=_EVERY)
        return tuple(index for index in range(layers) if (index + 1) % every == 0)
    if not isinstance(listed, list) or len(listed) < layers or any(item not in (0, 1) for item in listed):
        raise AgqError(f"{config.where}: `no_rope_layers` is not a list of a 0 or 1 for each of {layers} layers")
    return tuple(index for index in range(layers) if not listed[index])


def parts(spec: ModelSpec) -> ModelParts:
    """Names of SmolLM3ForCausalLM."""
    return decoder_parts(spec)
