"""ModelSpec from real-world configs."""

from __future__ import annotations

import json

import pytest

from agq.errors import AgqError
from agq.models import ModelSpec, RopeSpec, parts, spec_from_config
from tests.models.published import (
    ALL,
    BLOOM_560M,
    GALACTICA,
    LLAMA_1,
    LLAMA_2_7B,
    LLAMA_32_1B_INSTRUCT,
    OPT_125M,
    OPT_350M,
    TINYLLAMA,
    parameters,
)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (LLAMA_2_7B, 6_738_415_616),
        (LLAMA_32_1B_INSTRUCT, 1_235_814_400),
        (TINYLLAMA, 1_100_048_384),
        (OPT_125M, 125_239_296),
        (OPT_350M, 331_196_416),
        (BLOOM_560M, 559_214_592),
    ],
)
def test_parameters_of_published_models(config: dict, count: int) -> None:
    assert parameters(config) == count


def test_fields() -> None:
    spec = spec_from_config(LLAMA_32_1B_INSTRUCT)
    assert (spec.q_size, spec.kv_size, spec.tied, spec.context) == (2048, 512, True, 131072)
    assert spec.eos_ids == (128001, 128008, 128009) and spec.bos_id == 128000
    assert spec.rope == RopeSpec(500000.0, "llama3", 32.0, 1.0, 4.0, 8192)
    spec = spec_from_config(LLAMA_1)
    assert (spec.kv_heads, spec.rope, spec.context, spec.tied) == (32, RopeSpec(10000.0), 2048, False)
    spec = spec_from_config(OPT_350M)
    assert spec.norm_after and not spec.final_norm and spec.embed_dim == 512 and spec.position_offset == 2
    assert parts(spec).project_in_linear.out_features == 1024 and parts(spec).final_norm is None
    spec = spec_from_config(GALACTICA)
    assert (spec.activation, spec.attention_bias, spec.mlp_bias, spec.norm_affine) == ("gelu_erf", False, False, False)
    spec = spec_from_config(BLOOM_560M)
    assert (spec.hidden, spec.ffn, spec.context, spec.embed_norm, spec.activation) == (
        1024,
        4096,
        2048,
        True,
        "gelu_tanh",
    )


@pytest.mark.parametrize("config", ALL)
def test_round_trip(config: dict) -> None:
    spec = spec_from_config(config)
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("config", ALL)
def test_names_are_those_of_transformers(config: dict) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {**config, "vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    for key in ("num_hidden_layers", "n_layer"):
        if key in small:
            small[key] = 2
    kind = small.pop("model_type")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small))
    names = parts(spec_from_config({**small, "model_type": kind}))
    expected = dict(names.dense_tensors())
    for linear in names.all_linears():
        expected[linear.weight] = (linear.out_features, linear.in_features)
        if linear.bias:
            expected[f"{linear.module}.bias"] = (linear.out_features,)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "mixtral"}, "mixtral"),
        ({"model_type": None}, "model_type"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"hidden_act": "relu"}, "relu"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"hidden_size": "4096"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 10**30}, "hidden_size"),
        ({"hidden_size": 4097}, "4097"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 5}, "share"),
        ({"vocab_size": float("nan")}, "vocab_size"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps"),
        ({"head_dim": 63}, "head_dim"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"eos_token_id": "2"}, "eos_token_id"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_scaling": {"type": "mrope", "factor": 2.0}}, "mrope"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "short_factor"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}, "larger"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ],
)
def test_bad_llama_configs(change: dict, word: str) -> None:
    with pytest.raises(AgqError, match=word):
        spec_from_config({**LLAMA_2_7B, **change})


def test_unknown_family_lists_the_supported_ones() -> None:
    with pytest.raises(AgqError) as caught:
        spec_from_config({"model_type": "gpt2"})
    assert "llama, opt, bloom" in caught.value.hint


@pytest.mark.parametrize(
    ("config", "change"), [(OPT_125M, {"activation_function": "swiglu"}), (BLOOM_560M, {"n_head": 7})]
)
def test_bad_other_configs(config: dict, change: dict) -> None:
    with pytest.raises(AgqError):
        spec_from_config({**config, **change})


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_a_config_that_is_no_object(value: object) -> None:
    with pytest.raises(AgqError):
        spec_from_config(value)


def test_description_is_checked() -> None:
    good = spec_from_config(TINYLLAMA).to_dict()
    for change in (
        {"layers": 1 << 40},
        {"rope": None},
        {"heads": 3},
        {"family": []},
        {"eos_ids": [-1]},
        {"extra": 1},
        {"norm_after": "no"},
        {"eos_ids": 5},
        {"rope": {"theta": "1"}},
        {"rope": {"base": 1}},
        {"rope": []},
        {"family": "gpt2"},
        {"norm_eps": "0"},
    ):
        with pytest.raises(AgqError):
            ModelSpec.from_dict({**good, **change})


def test_unknown_and_missing_keys_are_named() -> None:
    good = spec_from_config(TINYLLAMA).to_dict()
    with pytest.raises(AgqError, match="unknown `logit_cap`") as caught:
        ModelSpec.from_dict({**good, "logit_cap": 30.0})
    assert "newer version" in caught.value.hint
    with pytest.raises(AgqError, match=r"no `layers`, `ffn`$"):
        ModelSpec.from_dict({name: value for name, value in good.items() if name not in ("ffn", "layers")})
