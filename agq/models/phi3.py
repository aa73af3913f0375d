"""Phi-3 and Phi-4-mini: LLaMA with q, k, v in one matrix and gate, up in another, partial rotary positions, longrope,
and possibly a sliding window in every layer."""

from dataclasses import replace

from agq.models.config import Config
from agq.models.gated import Defaults, decoder_parts, read_decoder
from agq.models.parts import STACKED, Linear, ModelParts
from agq.models.rotary import RotaryDefaults
from agq.models.spec import ModelSpec
from agq.models.windows import window_size

# Phi-3's configs call longrope by older names, too.
_ROTARY = RotaryDefaults(original_context=4096, aliases={"su": "longrope", "yarn": "longrope"})
_DEFAULTS = Defaults(context=4096, norm_eps=1e-5, rotary=_ROTARY, partial=True)


def spec(config: Config) -> ModelSpec:
    """ModelSpec of a Phi-3 config.json."""
    found = replace(read_decoder(config, "phi3", _DEFAULTS), attention_bias=False, mlp_bias=False)
    window = window_size(config, None)
    return replace(found, window=window, window_layers=tuple(range(found.layers))) if window else found


def parts(spec: ModelSpec) -> ModelParts:
    """Names of Phi3ForCausalLM."""
    return replace(
        decoder_parts(spec),
        linears=(
            Linear("self_attn.qkv_proj", "qkv", spec.q_size + 2 * spec.kv_size, spec.hidden, False),
            Linear("self_attn.o_proj", "o", spec.hidden, spec.q_size, False),
            Linear("mlp.gate_up_proj", "gate_up", 2 * spec.ffn, spec.hidden, False),
            Linear("mlp.down_proj", "down", spec.hidden, spec.ffn, False),
        ),
        groups=(("qkv",), ("o",), ("gate_up",), ("down",)),
        qkv_order=STACKED,
    )
