"""Small random models of the three families whose norms and biases are not the trivial ones of an initialisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from agq.checkpoint import Checkpoint, open_checkpoint
from agq.quantization.transforms.learn import cayley
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.plan import TransformPlan, feasible, shifted_places
from agq.recipe import TransformOptions
from agq.reference.decoder import ReferenceModel

VOCAB = 97
# Sizes that are not powers of two: 24 = Paley 12 x 2, 40 = Paley 20 x 2, 56 = Paley 28 x 2, heads of 12.
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    "llama-gqa": {
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "llama-bias": {
        "model_type": "llama",
        "hidden_size": 60,
        "intermediate_size": 64,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 14,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "opt": {"model_type": "opt", "hidden_size": 48, "word_embed_proj_dim": 48, "ffn_dim": 96, "num_attention_heads": 4},
    "opt-350m": {
        "model_type": "opt",
        "hidden_size": 48,
        "word_embed_proj_dim": 24,
        "ffn_dim": 96,
        "num_attention_heads": 4,
        "do_layer_norm_before": False,
    },
    "opt-no-bias": {
        "model_type": "opt",
        "hidden_size": 48,
        "word_embed_proj_dim": 48,
        "ffn_dim": 96,
        "num_attention_heads": 4,
        "enable_bias": False,
    },
    "bloom": {"model_type": "bloom", "hidden_size": 56, "n_head": 4},
    "bloom-residual": {
        "model_type": "bloom",
        "hidden_size": 32,
        "n_head": 4,
        "apply_residual_connection_post_layernorm": True,
    },
}


def random_model(folder: Path, name: str, layers: int = 2, dtype: torch.dtype = torch.float32) -> Path:
    """The model `name` of SHAPES as a Hugging Face folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(SHAPES[name])
    kind = values.pop("model_type")
    values.update(
        {"n_layer": layers} if kind == "bloom" else {"num_hidden_layers": layers, "max_position_embeddings": 64}
    )
    config = AutoConfig.for_model(kind, vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0, **values)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key or "ln_f" in key or "layernorm" in key:
                value.copy_(
                    torch.rand_like(value) * 2 + 0.2 if key.endswith("weight") else torch.randn_like(value) * 0.3
                )
            elif key.endswith("bias"):
                value.copy_(torch.randn_like(value) * 0.2)
            else:
                value.copy_(torch.randn_like(value) * (0.5 if "embed" in key else 1.5 / value.shape[-1] ** 0.5))
    model.to(dtype).save_pretrained(folder)
    return folder


def tokens(count: int = 24, vocab: int = VOCAB) -> np.ndarray:
    return np.random.default_rng(3).integers(0, vocab, count)


def random_exponents(checkpoint: Checkpoint, places: tuple[str, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """Exponents of -3..3 for all channels of the given places."""
    spec = checkpoint.spec
    widths = {"attention": spec.hidden, "mlp": spec.hidden, "o": spec.kv_size, "down": spec.ffn}
    draw = np.random.default_rng(seed)
    return {place: draw.integers(-3, 4, (spec.layers, widths[place])).astype(np.int8) for place in places}


def random_shifts(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Shifts of all channels that can be shifted."""
    spec = checkpoint.spec
    draw = np.random.default_rng(5)
    return {
        place: draw.normal(size=(spec.layers, spec.kv_size if place == "o" else spec.hidden)).astype(np.float32)
        for place in shifted_places(spec)
    }


def random_turns(checkpoint: Checkpoint, plan: TransformPlan) -> dict[str, np.ndarray | None]:
    """Rotations in the place of learned ones, where the plan rotates: the residual stream's in two blocks."""
    spec = checkpoint.spec
    generator = torch.Generator().manual_seed(2)
    half, width = spec.hidden // 2, spec.head_dim
    turns1 = cayley(torch.randn(2, half, half, generator=generator), keep_mean=spec.norm == "layer")
    turns2 = cayley(torch.randn(spec.layers, spec.kv_heads, width, width, generator=generator))
    return {
        "turns1": turns1.numpy() if plan.r1 is not None else None,
        "turns2": turns2.numpy() if plan.r2 is not None else None,
    }


def logits(checkpoint: Checkpoint, plan: TransformPlan, ids: np.ndarray) -> np.ndarray:
    """Logits of the transformed model in float32."""
    return ReferenceModel(checkpoint, parameters=TransformedParameters(checkpoint, plan)).logits(ids)


def plan_of(folder: Path, **options: Any) -> tuple[Checkpoint, TransformPlan]:
    checkpoint = open_checkpoint(folder)
    return checkpoint, feasible(checkpoint, TransformOptions(**options))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the standard deviation of what is expected."""
    return float(np.abs(found - expected).max() / expected.std())
