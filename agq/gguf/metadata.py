"""GGUF metadata -> the config.json that a Hugging Face folder of the same model has.

The families describe themselves from such configs (agq/models/), so nothing is said twice: this module only translates
keys, and knows what llama.cpp's architectures mean without writing it into the file. Keys: gguf/constants.py of
github.com/ggml-org/llama.cpp; meanings: its convert_hf_to_gguf.py and src/llama-model.cpp.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agq.errors import AgqError
from agq.gguf.rope import scaling
from agq.gguf.values import Metadata

# Of the end of a turn in chats, besides the end of text (`eos_token_id`); llama.cpp stops at all of them.
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")

Config = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """What a `general.architecture` means.

    Attributes:
        model_type: of config.json. names: config.json's name -> key behind the architecture's prefix, beside the usual
            ones. rotated: llama.cpp turns neighbouring channels, so its converter sorted the rows of q and k.
        add_one: norms are stored as their gains, 1 + weight. refused: keys that mean another computation than the
            family's. extra: what the architecture implies.
    """

    model_type: str
    names: dict[str, str] = field(default_factory=dict)
    rotated: bool = False
    add_one: bool = False
    refused: tuple[str, ...] = ()
    extra: Callable[[Metadata, Config], Config] = lambda metadata, config: {}


_RMS = {"rms_norm_eps": "attention.layer_norm_rms_epsilon"}
_WINDOW = "attention.sliding_window"


def _llama_bias(metadata: Metadata) -> Config:
    return {"attention_bias": metadata.stored("blk.0.attn_q.bias"), "mlp_bias": metadata.stored("blk.0.ffn_up.bias")}


def _llama(metadata: Metadata, config: Config) -> Config:
    """Mistral is LLaMA with a window."""
    window = metadata.integer(_WINDOW, 0)
    return _llama_bias(metadata) | ({"model_type": "mistral", "sliding_window": window} if window else {})


def _qwen(metadata: Metadata, config: Config) -> Config:
    return {"use_sliding_window": False, "attention_bias": metadata.stored("blk.0.attn_q.bias")}


def _attention_scalar(metadata: Metadata, config: Config, largest: int) -> int:
    """Gemma's `query_pre_attn_scalar`, which GGUF leaves out: the head's channels, but hidden / heads in the largest
    model, which its number of layers tells."""
    if config["num_hidden_layers"] == largest:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def _layer_types(metadata: Metadata, config: Config, period: int) -> list[str]:
    """Every `period`-th layer sees everything; or what the file says of each layer."""
    pattern = metadata.get("attention.sliding_window_pattern", period)
    count = config["num_hidden_layers"]
    if isinstance(pattern, list):
        if len(pattern) != count:
            raise metadata.error("attention.sliding_window_pattern", pattern, f"a list of {count}, one per layer")
        windowed = [bool(item) for item in pattern]
    else:
        period = metadata.integer("attention.sliding_window_pattern", period)
        windowed = [bool((index + 1) % period) if period > 1 else False for index in range(count)]
    return ["sliding_attention" if item else "full_attention" for item in windowed]


def _gemma2(metadata: Metadata, config: Config) -> Config:
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": metadata.integer(_WINDOW, 4096),
        "attn_logit_softcapping": metadata.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.number("final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": _attention_scalar(metadata, config, 46),
        "layer_types": _layer_types(metadata, config, 2),
    }


def _gemma3(metadata: Metadata, config: Config) -> Config:
    return {
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": metadata.integer(_WINDOW, 1024),
        "rope_local_base_freq": metadata.number("rope.freq_base_swa", 10000.0),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": metadata.number("final_logit_softcapping", 0.0) or None,
        "query_pre_attn_scalar": _attention_scalar(metadata, config, 62),
        "layer_types": _layer_types(metadata, config, 6),
        "rope_theta": metadata.number("rope.freq_base", 1000000.0),
    }


def _phi3(metadata: Metadata, config: Config) -> Config:
    window = metadata.integer(_WINDOW, 0)
    original = metadata.integer("rope.scaling.original_context_length", config["max_position_embeddings"])
    return {
        "sliding_window": window or None,
        "original_max_position_embeddings": original,
        "partial_rotary_factor": metadata.integer("rope.dimension_count", config["head_dim"]) / config["head_dim"],
    }


def _smollm3(metadata: Metadata, config: Config) -> Config:
    """Every fourth layer has no RoPE."""
    rotated = [int((index + 1) % 4 != 0) for index in range(config["num_hidden_layers"])]
    return {"no_rope_layers": rotated, "no_rope_layer_interval": 4, "use_sliding_window": False} | _llama_bias(metadata)


def _granite(metadata: Metadata, config: Config) -> Config:
    return _llama_bias(metadata) | {
        "attention_multiplier": metadata.number("attention.scale", 1 / math.sqrt(config["head_dim"])),
        "embedding_multiplier": metadata.number("embedding_scale", 1.0),
        "residual_multiplier": metadata.number("residual_scale", 1.0),
        "logits_scaling": metadata.number("logit_scale", 1.0),
    }


def _gptneox(metadata: Metadata, config: Config) -> Config:
    head = config["hidden_size"] // max(config["num_attention_heads"], 1)
    return {
        "hidden_act": "gelu",
        "rotary_pct": metadata.integer("rope.dimension_count", head) / max(head, 1),
        "rotary_emb_base": metadata.number("rope.freq_base", 10000.0),
        "use_parallel_residual": metadata.flag("use_parallel_residual", True),
        "attention_bias": metadata.stored("blk.0.attn_qkv.bias"),
    }


def _bloom(metadata: Metadata, config: Config) -> Config:
    return {
        "n_head": config["num_attention_heads"],
        "n_layer": config["num_hidden_layers"],
        "n_embed": config["hidden_size"],
        "seq_length": config["max_position_embeddings"],
        "apply_residual_connection_post_layernorm": False,
    }


# By `general.architecture`. Experts, other families' attention and the like have architectures of their own.
ARCHITECTURES = {
    "llama": Architecture("llama", _RMS, rotated=True, extra=_llama),
    "qwen2": Architecture("qwen2", _RMS, refused=(_WINDOW,), extra=_qwen),
    "qwen3": Architecture("qwen3", _RMS, refused=(_WINDOW,), extra=_qwen),
    "gemma2": Architecture("gemma2", _RMS, add_one=True, extra=_gemma2),
    "gemma3": Architecture("gemma3", _RMS, add_one=True, extra=_gemma3),
    "phi3": Architecture("phi3", _RMS, extra=_phi3),
    "smollm3": Architecture("smollm3", _RMS, rotated=True, refused=(_WINDOW,), extra=_smollm3),
    "olmo2": Architecture("olmo2", _RMS, refused=(_WINDOW,), extra=lambda metadata, config: {"attention_bias": False}),
    "granite": Architecture("granite", _RMS, rotated=True, refused=(_WINDOW,), extra=_granite),
    "gptneox": Architecture("gpt_neox", {"layer_norm_eps": "attention.layer_norm_epsilon"}, extra=_gptneox),
    "bloom": Architecture("bloom", {"layer_norm_epsilon": "attention.layer_norm_epsilon"}, extra=_bloom),
}


def architecture(metadata: Metadata) -> Architecture:
    """The row of a file. AgqError for an architecture that agq does not compute."""
    name = metadata.architecture
    known = ", ".join(ARCHITECTURES)
    if name not in ARCHITECTURES:
        raise AgqError(
            f"{metadata.where}: models of architecture `{name}` are not supported", hint=f"supported: {known}"
        )
    row = ARCHITECTURES[name]
    refused = [*row.refused, "expert_count", "attention.causal", "attention.clamp_kqv"]
    for key in refused:
        if metadata.get(key) not in (None, 0) and not (key == "attention.causal" and metadata.get(key) is True):
            raise AgqError(f"{metadata.where}: `{name}.{key}` is {metadata.get(key)!r}: agq does not compute that")
    if metadata.get("attention.causal") is False:
        raise AgqError(f"{metadata.where}: attention is not causal: not a language model")
    return row


def to_config(metadata: Metadata, vocab: int) -> Config:
    """config.json of the model. vocab: rows of the embedding.

    Raises:
        AgqError: an architecture that agq does not compute, keys that are missing or of another kind.
    """
    row = architecture(metadata)
    hidden = metadata.integer("embedding_length")
    heads = metadata.per_layer("attention.head_count")
    config: Config = {
        "model_type": row.model_type,
        "hidden_size": hidden,
        "num_hidden_layers": metadata.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.per_layer("attention.head_count_kv", heads),
        "head_dim": metadata.integer("attention.key_length", hidden // max(heads, 1)),
        "intermediate_size": metadata.per_layer("feed_forward_length"),
        "max_position_embeddings": metadata.integer("context_length"),
        "vocab_size": vocab,
        "tie_word_embeddings": not metadata.stored("output.weight"),
        "rope_theta": metadata.number("rope.freq_base", 10000.0),
    }
    if metadata.integer("attention.value_length", config["head_dim"]) != config["head_dim"]:
        raise AgqError(f"{metadata.where}: keys and values have heads of different sizes: not supported")
    config |= {name: metadata.number(key) for name, key in row.names.items()}
    config |= row.extra(metadata, config)
    turned = metadata.integer("rope.dimension_count", config["head_dim"])
    whole = not {"partial_rotary_factor", "rotary_pct"} & set(config) and config["model_type"] != "bloom"
    if whole and turned != config["head_dim"]:
        raise AgqError(
            f"{metadata.where}: RoPE turns {turned} of {config['head_dim']} channels of a head: not supported for "
            f"`{metadata.architecture}`"
        )
    config |= scaling(metadata, config, turned)
    config |= _tokens(metadata)
    return {name: value for name, value in config.items() if value is not None}


def _tokens(metadata: Metadata) -> Config:
    """Ids of the special tokens."""
    ends = [metadata.token(name) for name in _ENDS]
    found = list(dict.fromkeys(item for item in ends if item is not None))
    return {
        "bos_token_id": metadata.token("bos_token_id"),
        "eos_token_id": found[0] if len(found) == 1 else found or None,
        "pad_token_id": metadata.token("padding_token_id"),
    }
