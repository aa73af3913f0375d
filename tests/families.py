"""Small random models of every family, made with transformers: what tests of reference, packing, quantization and
engine are run on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

# Of a family: config class and model class of transformers.
CLASSES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM"),
    "gemma3_text": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
    "phi3": ("Phi3Config", "Phi3ForCausalLM"),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM"),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM"),
    "granite": ("GraniteConfig", "GraniteForCausalLM"),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM"),
}
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 301,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 500000.0,
}


def longrope(pairs: int, **changes: Any) -> dict[str, Any]:
    """Rope parameters for `pairs` frequencies."""
    return {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.1 * i for i in range(pairs)],
        "long_factor": [1.5 + 0.7 * i for i in range(pairs)],
        "original_max_position_embeddings": 40,
        "rope_theta": 10000.0,
        **changes,
    }


@dataclass(frozen=True)
class Case:
    """A family and what its config has other than SIZES."""

    family: str
    changes: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        values = {**SIZES, **self.changes}
        if self.family == "gpt_neox":
            values = {k: v for k, v in values.items() if k not in ("num_key_value_heads", "head_dim", "rms_norm_eps")}
        if self.family == "phi3":
            values["original_max_position_embeddings"] = 40
        return values


CASES = {
    "mistral": Case("mistral", {"sliding_window": 9}),
    "mistral-no-window": Case("mistral", {"sliding_window": None}),
    "qwen2": Case("qwen2", {}),
    "qwen2-window": Case("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "qwen2-yarn": Case("qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen3": Case("qwen3", {}),
    "qwen3-yarn": Case("qwen3", {"rope_parameters": YARN | {"beta_fast": 8.0, "truncate": False}}),
    "qwen3-types": Case(
        "qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 11,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "attention_bias": True,
            "head_dim": 24,
        },
    ),
    "gemma2": Case("gemma2", {"sliding_window": 8, "query_pre_attn_scalar": 20}),
    "gemma2-caps": Case("gemma2", {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2-no-caps": Case(
        "gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None, "tie_word_embeddings": False}
    ),
    "gemma3": Case("gemma3_text", {"sliding_window": 8, "layer_types": None, "num_hidden_layers": 7}),
    "gemma3-types": Case(
        "gemma3_text",
        {
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
            "final_logit_softcapping": 2.0,
            "attention_bias": True,
        },
    ),
    "gemma3-one-head": Case(
        "gemma3_text", {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 34, "sliding_window": 3}
    ),
    "phi3": Case("phi3", {}),
    "phi3-longrope": Case("phi3", {"rope_parameters": longrope(8), "sliding_window": 12}),
    "phi4": Case(
        "phi3",
        {
            "rope_parameters": longrope(6, partial_rotary_factor=0.75),
            "tie_word_embeddings": True,
            "num_key_value_heads": 1,
        },
    ),
    "smollm3": Case("smollm3", {"num_hidden_layers": 5}),
    "smollm3-window": Case(
        "smollm3",
        {"no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 6, "attention_bias": True},
    ),
    "smollm3-yarn": Case("smollm3", {"rope_parameters": YARN, "no_rope_layer_interval": 2, "mlp_bias": True}),
    "olmo2": Case("olmo2", {}),
    "olmo2-biases": Case("olmo2", {"attention_bias": True, "num_key_value_heads": 4, "rope_parameters": LLAMA3}),
    "granite": Case(
        "granite",
        {
            "attention_multiplier": 0.1,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "tie_word_embeddings": True,
        },
    ),
    "granite-biases": Case("granite", {"attention_bias": True, "mlp_bias": True, "attention_multiplier": 0.25}),
    "gpt_neox": Case("gpt_neox", {}),
    "gpt_neox-serial": Case("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 1.0, "hidden_act": "gelu_new"}),
    "gpt_neox-no-biases": Case("gpt_neox", {"attention_bias": False, "tie_word_embeddings": True, "rotary_pct": 0.5}),
    # 5 of 20 channels: transformers turns 6, by frequencies of 5
    "gpt_neox-odd": Case("gpt_neox", {"hidden_size": 60, "num_attention_heads": 3, "intermediate_size": 100}),
    "gpt_neox-dynamic": Case(
        "gpt_neox",
        {
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
            "max_position_embeddings": 40,
        },
    ),
    "llama-yarn": Case("llama", {"rope_parameters": YARN | {"mscale": 0.8, "mscale_all_dim": 0.5}}),
    "llama-longrope": Case("llama", {"rope_parameters": longrope(8)}),
    "llama-gelu": Case("llama", {"hidden_act": "gelu"}),
}

_ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "factor": 2.5, "rope_theta": 20000.0},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 10000.0},
    "llama3": LLAMA3,
    "yarn": YARN,
}


def drawn(family: str, seed: int) -> Case:
    """A case with sizes and options drawn at random, odd ones among them."""
    draw = random.Random(f"{family} {seed}")
    kv_heads = draw.choice([1, 2, 3])
    head_dim = 2 * draw.randint(4, 13)
    heads = kv_heads * draw.choice([1, 2, 3])
    neox = family == "gpt_neox"
    layers = draw.randint(1, 7)
    values: dict[str, Any] = {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        # GPT-NeoX and Phi-3 know no other width of heads; Gemma wants a multiple.
        "hidden_size": heads * (head_dim if neox or family == "phi3" else draw.randint(5, 30)),
        "intermediate_size": draw.randint(20, 130),
        "num_hidden_layers": layers,
        "vocab_size": draw.randint(280, 330),
        "tie_word_embeddings": draw.random() < 0.5,
        "max_position_embeddings": draw.choice([40, 128]),
    }
    rope = draw.choice(list(_ROPES))
    if family not in ("gemma3_text", "phi3"):
        values["rope_parameters"] = dict(_ROPES[rope])
    if family in ("phi3", "gpt_neox"):
        share = draw.choice([0.25, 0.5, 0.75, 1.0])
        values.setdefault("rope_parameters", {"rope_type": "default", "rope_theta": 10000.0})
        values["rope_parameters"]["partial_rotary_factor"] = share
    if family in ("mistral", "phi3", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3"):
        values["sliding_window"] = draw.choice([1, 3, 20, 64])
        values["use_sliding_window"] = draw.random() < 0.7
        values["max_window_layers"] = draw.randint(0, layers)
    if family in ("llama", "qwen3", "gemma2", "gemma3_text", "smollm3", "olmo2", "granite", "gpt_neox"):
        values["attention_bias"] = draw.random() < 0.5
    if family in ("gemma2", "gemma3_text"):
        values["query_pre_attn_scalar"] = draw.randint(4, 64)
        values["final_logit_softcapping"] = draw.choice([None, 2.0, 30.0])
    if family == "gemma2":
        values["attn_logit_softcapping"] = draw.choice([None, 1.0, 50.0])
    if family == "granite":
        for name in ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"):
            values[name] = draw.uniform(0.1, 3.0)
    return Case(family, values)


def make(case: Case, seed: int = 0) -> Any:
    """The model in float32, whose norms and biases are not those of initialization, and whose logits are spread.
    Attention as transformers defines it (`eager`: its faster forms leave soft caps out)."""
    import torch
    import transformers

    config_class, model_class = CLASSES[case.family]
    torch.manual_seed(seed)
    config = getattr(transformers, config_class)(**case.config, attn_implementation="eager")
    model = getattr(transformers, model_class)(config).float().eval()
    gain = 0.0 if case.family.startswith("gemma") else 1.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (gain if name.endswith("weight") else 0.0))
            else:
                parameter.mul_(3.0)
    return model
