"""ModelSpec from real-world configs, positions against transformers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path

import pytest

from agq.errors import AgqError
from agq.models import FAMILIES, ModelSpec, RopeSpec, parts, spec_from_config
from agq.models.fields import added

LLAMA_2_7B = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 32000,
}
LLAMA_32_1B_INSTRUCT = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
TINYLLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
LLAMA_1 = {  # the first conversions: no key-value heads, no rope fields, pad -1
    "architectures": ["LLaMAForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": -1,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_sequence_length": 2048,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-06,
    "vocab_size": 32000,
}
OPT_125M = {
    "_remove_final_layer_norm": False,
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": ["OPTForCausalLM"],
    "bos_token_id": 2,
    "do_layer_norm_before": True,
    "eos_token_id": 2,
    "ffn_dim": 3072,
    "hidden_size": 768,
    "max_position_embeddings": 2048,
    "model_type": "opt",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "prefix": "</s>",
    "torch_dtype": "float16",
    "vocab_size": 50272,
    "word_embed_proj_dim": 768,
}
OPT_350M = {
    **OPT_125M,
    "do_layer_norm_before": False,
    "ffn_dim": 4096,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "word_embed_proj_dim": 512,
}
GALACTICA = {
    **OPT_125M,
    "activation_function": "gelu",
    "enable_bias": False,
    "layer_norm_elementwise_affine": False,
    "vocab_size": 50000,
}
BLOOM_560M = {
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["BloomForCausalLM"],
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "unk_token_id": 0,
    "hidden_dropout": 0.0,
    "layer_norm_epsilon": 1e-05,
    "masked_softmax_fusion": True,
    "model_type": "bloom",
    "n_embed": 1024,
    "n_inner": None,
    "n_layer": 24,
    "num_attention_heads": 16,
    "offset_alibi": 100,
    "pretraining_tp": 1,
    "seq_length": 2048,
    "skip_bias_add": True,
    "use_cache": False,
    "vocab_size": 250880,
}
ALL = [LLAMA_2_7B, LLAMA_32_1B_INSTRUCT, TINYLLAMA, LLAMA_1, OPT_125M, OPT_350M, GALACTICA, BLOOM_560M]


def parameters(config: dict) -> int:
    names = parts(spec_from_config(config))
    count = sum(math.prod(shape) for shape in names.dense_tensors().values())
    for linear in names.all_linears():
        if linear.role != "head" or not names.spec.tied:
            count += linear.out_features * (linear.in_features + int(linear.bias))
    return count


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


@dataclass(frozen=True)
class WiderRope(RopeSpec):
    """Rotary positions with one more feature."""

    share: float = added(1.0, 5)


@dataclass(frozen=True)
class WiderSpec(ModelSpec):
    """A decoder with one more feature, as a family with it would declare it."""

    head_norm: bool = added(False, 5)


@pytest.mark.parametrize("config", ALL)
def test_a_new_feature_is_a_field_with_a_default(config: dict) -> None:
    """Descriptions of today load and mean the default; what does not use the feature is stored as today."""
    today = spec_from_config(config).to_dict()
    old = WiderSpec.from_dict(json.loads(json.dumps(today)))
    assert old.head_norm is False and json.dumps(old.to_dict()) == json.dumps(today)
    new = replace(old, head_norm=True)
    assert new.to_dict() == {**today, "head_norm": True}
    assert WiderSpec.from_dict(json.loads(json.dumps(new.to_dict()))) == new
    with pytest.raises(AgqError, match="unknown `head_norm`"):
        ModelSpec.from_dict(new.to_dict())
    with pytest.raises(AgqError, match="`head_norm` must be true or false"):
        WiderSpec.from_dict({**today, "head_norm": "no"})


def test_a_new_feature_inside_rope(monkeypatch: pytest.MonkeyPatch) -> None:
    today = spec_from_config(LLAMA_32_1B_INSTRUCT).to_dict()
    monkeypatch.setattr("agq.models.spec.RopeSpec", WiderRope)
    old = ModelSpec.from_dict(today)
    assert old.rope.share == 1.0 and old.to_dict() == today
    new = replace(old, rope=replace(old.rope, share=0.5))
    assert new.to_dict()["rope"] == {**today["rope"], "share": 0.5}
    assert ModelSpec.from_dict(new.to_dict()) == new


def test_defaults_of_earlier_fields_are_stored() -> None:
    """Every artifact so far names them: bytes stay what they were."""
    stored = spec_from_config(GALACTICA).to_dict()
    earlier = [item.name for item in fields(ModelSpec) if not item.metadata]
    assert list(stored) == earlier and stored["rope"] is None
    assert stored["position_offset"] == 2 and stored["norm_affine"] is False and stored["embed_norm"] is False


def test_a_family_is_one_row_and_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up family: LLaMA's arithmetic under other names."""
    (tmp_path / "agq_test_family.py").write_text(
        "from dataclasses import replace\n"
        "from agq.models import llama\n"
        "def spec(config):\n"
        "    return replace(llama.spec(config), family='alpaca')\n"
        "def parts(spec):\n"
        "    return replace(llama.parts(spec), base_prefix='decoder.', embed='decoder.embed')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AgqError, match="`alpaca` is not supported"):
        spec_from_config({**TINYLLAMA, "model_type": "alpaca"})
    monkeypatch.setitem(FAMILIES, "alpaca", "agq_test_family")
    spec = spec_from_config({**TINYLLAMA, "model_type": "alpaca"})
    assert spec.family == "alpaca" and parts(spec).embed == "decoder.embed"
    assert ModelSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_module_is_complete(family: str) -> None:
    module = import_module(FAMILIES[family])
    assert callable(module.spec) and callable(module.parts)
