"""Rotary frequencies and ALiBi slopes against transformers."""

from __future__ import annotations

import pytest

from agq.models import spec_from_config
from tests.models.published import (
    BLOOM_560M,
    TINYLLAMA,
)

SCALINGS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 3.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
]


@pytest.mark.parametrize("style", ["v5", "v4", "type"])
@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda item: item["rope_type"])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_rope_against_transformers(scaling: dict, theta: float, style: str) -> None:
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    base = {key: value for key, value in TINYLLAMA.items() if not key.startswith("rope")}
    base["max_position_embeddings"] = 512
    reference = LlamaConfig(**base, rope_parameters={**scaling, "rope_theta": theta})
    if style == "v5":
        config = {**base, "rope_parameters": {**scaling, "rope_theta": theta}, "rope_theta": 1.0}
    else:
        renamed = {("type" if style == "type" and key == "rope_type" else key): value for key, value in scaling.items()}
        config = {**base, "rope_scaling": renamed, "rope_theta": theta}
    spec = spec_from_config(config)
    assert spec.context == (1536 if scaling["rope_type"] == "dynamic" else 512)
    for length in (1, 100, 512, 513, 700, 1024, 1536):
        if scaling["rope_type"] == "default":
            values, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(reference)
        else:
            values, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](reference, seq_len=torch.tensor(length))
        mine, my_factor = spec.rope.inv_freq(spec.head_dim, length)
        assert factor == my_factor
        # pow() of different libraries differs in the last place
        torch.testing.assert_close(torch.tensor(mine), values, rtol=3e-7, atol=0)


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 7, 8, 12, 14, 16, 20, 24, 32, 33, 40, 48, 112])
def test_alibi_slopes_against_transformers(heads: int) -> None:
    import torch
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    spec = spec_from_config({**BLOOM_560M, "n_embed": heads * 8, "num_attention_heads": heads})
    mine = torch.tensor(spec.alibi_slopes())
    reference = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(mine, reference, rtol=1.2e-7, atol=0)
