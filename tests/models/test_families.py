"""Configs of the families that LLaMA's form covers: published ones, older styles, and those that would compute
wrongly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agq.errors import AgqError
from agq.models import ModelSpec, RopeSpec, parts, spec_from_config
from tests.families import CASES, SIZES, longrope
from tests.models.published import parameters
from tests.models.published_configs import (
    GEMMA2_2B,
    GEMMA3_1B,
    GRANITE_2B,
    MISTRAL_7B,
    OLMO2_1B,
    PHI3_MINI,
    PHI4_MINI,
    PYTHIA_160M,
    QWEN3_06B,
    QWEN25_05B,
    SMOLLM3_3B,
)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (MISTRAL_7B, 7_241_732_096),
        (QWEN25_05B, 494_032_768),
        (QWEN3_06B, 596_049_920),
        (GEMMA2_2B, 2_614_341_888),
        (GEMMA3_1B, 999_885_952),
        (PHI3_MINI, 3_821_079_552),
        (PHI4_MINI, 3_836_021_760),
        (SMOLLM3_3B, 3_075_098_624),
        (OLMO2_1B, 1_484_916_736),
        (PYTHIA_160M, 162_322_944),
    ],
)
def test_parameters_of_published_models(config: dict[str, Any], count: int) -> None:
    assert parameters(config) == count


@pytest.mark.parametrize("name", CASES)
def test_descriptions_are_stored(name: str) -> None:
    case = CASES[name]
    spec = spec_from_config({**case.config, "model_type": case.family})
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_windows() -> None:
    spec = spec_from_config(MISTRAL_7B)
    assert (spec.window, spec.window_layers) == (4096, tuple(range(32)))
    assert spec_from_config(MISTRAL_7B | {"sliding_window": None}).window == 0
    silent = {key: value for key, value in MISTRAL_7B.items() if key != "sliding_window"}
    assert spec_from_config(silent).window == 4096  # what transformers' class has
    assert spec_from_config(QWEN25_05B | {"max_window_layers": 21}).window == 0  # `use_sliding_window` is false
    sliding = spec_from_config(QWEN25_05B | {"use_sliding_window": True, "max_window_layers": 21, "sliding_window": 99})
    assert (sliding.window, sliding.window_layers) == (99, (21, 22, 23))
    assert spec_from_config(GEMMA2_2B).window_layers == tuple(range(0, 26, 2))
    assert [i for i in range(26) if not spec_from_config(GEMMA3_1B).layer_window(i)] == [5, 11, 17, 23]


def test_two_ropes_in_both_styles() -> None:
    spec = spec_from_config(GEMMA3_1B)
    assert (spec.rope, spec.rope_local) == (RopeSpec(1e6), RopeSpec(1e4))
    assert spec.layer_rope(4) == RopeSpec(1e4) and spec.layer_rope(5) == RopeSpec(1e6)
    scaled = spec_from_config(GEMMA3_1B | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    assert (scaled.rope, scaled.rope_local) == (RopeSpec(1e6, "linear", 8.0), RopeSpec(1e4))
    tables = {"full_attention": {"rope_theta": 3e5}, "sliding_attention": {"rope_theta": 2e4}}
    newer = spec_from_config({**GEMMA3_1B, "rope_parameters": tables})
    assert (newer.rope, newer.rope_local) == (RopeSpec(3e5), RopeSpec(2e4))


def test_scalings() -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    spec = spec_from_config(QWEN25_05B | {"rope_scaling": yarn})
    assert spec.rope.kind == "yarn" and spec.context == 131072 and not spec.rope.depends_on_length
    assert spec.rope.attention_factor == pytest.approx(1.1386294)
    spec = spec_from_config(PHI3_MINI)
    assert spec.rope.kind == "longrope" and spec.rope.depends_on_length and spec.context == 131072
    assert spec.rope.attention_factor == pytest.approx(1.1902380714)
    assert spec.rope.original_context == 4096
    assert spec_from_config(PHI3_MINI | {"original_max_position_embeddings": 2048}).rope.original_context == 2048
    outside = QWEN25_05B | {"rope_scaling": yarn, "original_max_position_embeddings": 1024}
    assert spec_from_config(outside).rope.original_context == 1024
    spec = spec_from_config(PHI4_MINI)
    assert (spec.rotary_dim, spec.turned, len(spec.inv_freq(spec.rope)[0])) == (96, 96, 48)
    odd = spec_from_config(PYTHIA_160M | {"num_attention_heads": 16, "rotary_pct": 0.11})
    assert (odd.head_dim, odd.rotary_dim, odd.turned) == (48, 5, 6)


def test_unrotated_layers() -> None:
    assert spec_from_config(SMOLLM3_3B).unrotated_layers == tuple(range(3, 36, 4))
    silent = {key: value for key, value in SMOLLM3_3B.items() if key != "no_rope_layers"}
    assert spec_from_config(silent).unrotated_layers == tuple(range(3, 36, 4))
    assert spec_from_config(SMOLLM3_3B).layer_rope(3) is None


def test_heads_that_are_stored_under_an_older_name() -> None:
    assert parts(spec_from_config(PYTHIA_160M)).aliases == (("embed_out.", "lm_head."),)


@pytest.mark.parametrize(
    ("config", "change", "word"),
    [
        (MISTRAL_7B, {"hidden_act": "relu"}, "relu"),
        (MISTRAL_7B, {"sliding_window": 0}, "sliding_window"),
        (MISTRAL_7B, {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (QWEN3_06B, {"layer_types": ["chunked_attention"] * 28}, "chunked_attention"),
        (QWEN3_06B, {"layer_types": ["sliding_attention"] * 28}, "no `sliding_window`"),
        (QWEN3_06B, {"layer_types": ["full_attention"] * 27}, "layer_types"),
        (QWEN25_05B, {"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "mrope"),
        (GEMMA2_2B, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA3_1B, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA2_2B, {"hidden_activation": "quick_gelu"}, "quick_gelu"),
        (GEMMA3_1B, {"rope_parameters": {"full_attention": {"rope_type": "proportional"}}}, "proportional"),
        (PHI3_MINI, {"rope_scaling": {"type": "su", "short_factor": [1.0] * 48}}, "long_factor"),
        (PHI3_MINI, {"rope_scaling": longrope(47)}, "one per frequency"),
        (PHI3_MINI, {"rope_scaling": longrope(48, short_factor="no")}, "short_factor"),
        (SMOLLM3_3B, {"no_rope_layers": [2] * 36}, "no_rope_layers"),
        (PYTHIA_160M, {"hidden_act": "silu"}, "silu"),
        (PYTHIA_160M, {"rotary_pct": 0.0}, "turn none"),
        (GRANITE_2B, {"logits_scaling": 0.0}, "logits_scaling"),
        (SIZES, {"model_type": "qwen2_moe"}, "qwen2_moe"),
        (SIZES, {"model_type": "gpt_oss"}, "gpt_oss"),
    ],
)
def test_configs_that_would_compute_wrongly(config: dict[str, Any], change: dict[str, Any], word: str) -> None:
    with pytest.raises(AgqError, match=word):
        spec_from_config({**config, **change})


def test_the_text_part_of_a_model_that_reads_pictures() -> None:
    """What is left out of gemma-3-4b-it's `text_config` is as in transformers' class."""
    inner = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    outer = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "eos_token_id": [1, 106],
        "model_type": "gemma3",
        "text_config": inner,
        "vision_config": {"model_type": "siglip_vision_model"},
    }
    spec = spec_from_config(outer)
    assert (spec.family, spec.heads, spec.kv_heads, spec.head_dim, spec.vocab) == ("gemma3_text", 8, 4, 256, 262208)
    assert spec.rope == RopeSpec(1e6, "linear", 8.0) and spec.eos_ids == (1, 106) and spec.context == 131072
    with pytest.raises(AgqError, match="hidden_size"):
        spec_from_config(outer | {"text_config": None})
