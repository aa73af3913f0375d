"""compressed-tensors: byte equality with the library, matching of targets, everything that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.checkpoint import open_checkpoint, read_linear
from agq.checkpoint.compressed_tensors import quantization_config
from agq.checkpoint.module_scheme import PACKED
from agq.checkpoint.packing import pack_int, pack_zero_points, unpack_int, unpack_zero_points
from agq.errors import AgqError
from agq.formats import PER_ROW, PerGroup
from agq.formats.groups import to_recipe
from agq.models import parts, spec_from_config
from agq.recipe import ActivationScheme, WeightScheme
from agq.safetensors.files import bf16_to_f32
from tests.checkpoint.folders import TOKENS, config, group, quantize_array, random_tensors, write_quantized

SHAPES = [(1, 1), (3, 7), (16, 32), (17, 33), (40, 64), (5, 100)]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_packing_is_the_library_s(bits: int, shape: tuple[int, int]) -> None:
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

    rng = np.random.default_rng(1)
    codes = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape).astype(np.int8)
    words = pack_int(codes, bits)
    reference = pack_to_int32(torch.from_numpy(codes), bits)
    assert words.dtype == np.int32 and np.array_equal(words, reference.numpy())
    assert np.array_equal(unpack_int(words, bits, shape[1]), codes)
    assert np.array_equal(unpack_from_int32(torch.from_numpy(words), bits, shape).numpy(), codes)
    packed = pack_zero_points(codes, bits)
    assert np.array_equal(packed, pack_to_int32(torch.from_numpy(codes), bits, packed_dim=0).numpy())
    assert np.array_equal(unpack_zero_points(packed, bits, shape[0]), codes)


def test_packing_refuses_other_codes() -> None:
    with pytest.raises(ValueError, match=r"-8\.\.7"):
        pack_int(np.full((1, 8), 8, np.int8), 4)
    with pytest.raises(ValueError, match="bits"):
        pack_int(np.zeros((1, 8), np.int8), 1)
    with pytest.raises(ValueError, match="bits"):
        unpack_int(np.zeros((1, 8), np.int32), 9, 8)


@pytest.mark.parametrize("family", ["llama", "opt", "bloom"])
@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "packed"),
    [
        (4, 32, True, True),
        (4, 32, False, True),
        (4, -1, True, True),
        (4, -1, False, True),
        (8, -1, True, False),
        (8, 32, False, False),
        (4, 32, True, False),
        (8, 32, True, True),
        (8, -1, False, True),
    ],
)
def test_reads_what_the_library_decompresses(
    tmp_path: Path, family: str, bits: int, group: int, symmetric: bool, packed: bool
) -> None:
    import torch
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    settings = config(family)
    folder = write_quantized(tmp_path, settings, bits, group, symmetric, packed)
    checkpoint = open_checkpoint(folder)
    original = random_tensors(settings)
    table = {key: item for key, item in checkpoint.config["quantization_config"].items() if key != "quant_method"}
    scheme = QuantizationConfig.model_validate(table).config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    for linear in checkpoint.parts.block(1).linears.values():
        stored = read_linear(checkpoint, linear.module)
        codes, scale, zero = quantize_array(bf16_to_f32(original[linear.weight][1]), bits, group, symmetric)
        assert np.array_equal(stored.codes, codes) and np.array_equal(stored.scale, scale)
        assert (stored.zero is None) == symmetric and (symmetric or np.array_equal(stored.zero, zero))
        assert (stored.bits, to_recipe(stored.group_size)) == (bits, group) and stored.activations == ActivationScheme(
            8, True
        )
        state = {}
        for leaf in compressor.compression_param_names(scheme):
            dtype, raw = checkpoint.read_raw(f"{linear.module}.{leaf}")
            values = bf16_to_f32(raw) if dtype == "BF16" else np.array(raw)
            state[leaf] = torch.from_numpy(values)
        reference = compressor.decompress(state, scheme)["weight"].numpy()
        assert np.array_equal(stored.dequantize(), reference)
        rows = np.array([3, 1, 20])
        assert np.array_equal(checkpoint.codes(linear.module, rows), codes[rows])


def test_loads_in_transformers(tmp_path: Path) -> None:
    """The config that quantization_config makes: nothing missing, unexpected or mismatched, the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    settings = config("llama", torch_dtype="float32")
    folder = write_quantized(tmp_path, settings, act_bits=16)
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    checkpoint = open_checkpoint(folder)
    weight = torch.from_numpy(read_linear(checkpoint, "model.layers.0.mlp.up_proj").dequantize())
    model(torch.tensor([[1, 2, 3]]))  # the first forward pass decompresses
    x = torch.randn(2, 64)
    assert torch.allclose(model.model.layers[0].mlp.up_proj(x), x @ weight.T, atol=1e-5)


def test_config_is_the_library_s() -> None:
    from compressed_tensors.quantization import QuantizationConfig

    table = quantization_config(
        [
            (["Linear"], WeightScheme(4, True, PerGroup(128)), ActivationScheme(8, True)),
            (["re:.*down_proj"], WeightScheme(8, False, PER_ROW), ActivationScheme(4, False, PerGroup(128))),
            (["model.layers.0.mlp.up_proj"], WeightScheme(4, True, PerGroup(32)), ActivationScheme(16, True)),
        ],
        ["lm_head"],
    )
    parsed = QuantizationConfig.model_validate({key: item for key, item in table.items() if key != "quant_method"})
    assert parsed.quantization_status.value == "compressed" and parsed.format == "pack-quantized"
    first, second, third = parsed.config_groups.values()
    assert first.weights.group_size == 128 and first.input_activations.strategy == "token"
    assert second.weights.strategy == "channel" and second.input_activations.num_bits == 4
    assert third.input_activations is None and third.format == "pack-quantized"


def schemes_of(groups: dict[str, Any], ignore: list[str], settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Module -> (bits, group size) of a config."""
    from agq.checkpoint.compressed_tensors import CompressedTensors

    settings = settings or config("llama")
    table = {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ignore, "format": PACKED}
    linears = list(parts(spec_from_config(settings)).all_linears())
    found = CompressedTensors.from_config(table, linears, "config.json")
    return {name: (found.scheme(name).bits, to_recipe(found.scheme(name).group_size)) for name in found.modules()}


def library_schemes(groups: dict[str, Any], ignore: list[str]) -> dict[str, Any]:
    """The same, by the library on a model without memory."""
    import torch
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(config("llama"))
    kind = settings.pop("model_type")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    table = QuantizationConfig(config_groups=groups, ignore=ignore, format=PACKED, quantization_status="compressed")
    apply_quantization_config(model, table, show_progress=False)
    found = {}
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None and isinstance(module, torch.nn.Linear):
            found[name] = (scheme.weights.num_bits, scheme.weights.group_size or -1)
    return found


CHANNEL = {"num_bits": 8, "strategy": "channel", "group_size": None}


@pytest.mark.parametrize(
    ("groups", "ignore"),
    [
        ({"g": group(["Linear"])}, ["lm_head"]),
        ({"g": group(["Linear"])}, []),
        ({"g": group(["Linear"])}, ["lm_head", "re:.*self_attn.*", "model.layers.0.mlp.up_proj"]),
        ({"g": group(["Linear"]), "h": group(["re:.*down_proj"], **CHANNEL)}, ["lm_head"]),
        ({"g": group(["re:.*down_proj"], **CHANNEL), "h": group(["Linear"])}, ["lm_head"]),
        ({"g": group(["re:model.*mlp.*"]), "h": group(["re:.*down_proj"], **CHANNEL)}, []),
        ({"g": group(["re:.*"]), "h": group(["model.layers.1.mlp.down_proj"], **CHANNEL)}, ["re:.*lm_head"]),
        ({"g": group(["Linear", "re:.*down_proj"]), "h": group(["re:.*layers.1.*down_proj"], **CHANNEL)}, ["lm_head"]),
        ({"g": group(["re:layers"])}, []),
        ({"g": group(["Embedding", "LlamaMLP"])}, []),
        ({"g": group(["Linear"])}, ["Linear"]),
    ],
)
def test_matching_is_the_library_s(groups: dict[str, Any], ignore: list[str]) -> None:
    assert schemes_of(groups, ignore) == library_schemes(groups, ignore)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"type": "float", "num_bits": 8}, "float"),
        ({"num_bits": 1}, "1-bit"),
        ({"num_bits": 9}, "9-bit"),
        ({"num_bits": "4"}, "bit"),
        ({"strategy": "block", "block_structure": [128, 128], "group_size": None}, "block"),
        ({"strategy": "tensor_group"}, "tensor_group"),
        ({"strategy": "channel"}, "contradict"),
        ({"group_size": None}, "contradict"),
        ({"group_size": 0}, "group_size"),
        ({"dynamic": True}, "dynamic"),
        ({"actorder": "newest"}, "activation order `newest` is not supported"),
        ({"actorder": "group", "strategy": "channel", "group_size": None}, "order `group` contradict"),
        ({"symmetric": "yes"}, "symmetric"),
        ({"colour": 1}, "colour"),
    ],
)
def test_unsupported_weights(change: dict, word: str) -> None:
    with pytest.raises(AgqError, match=word):
        schemes_of({"g": group(["Linear"], **change)}, [])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dynamic": False, "strategy": "token"}, "dynamic: False"),
        ({"dynamic": "local"}, "dynamic: local"),
        ({"strategy": "tensor"}, "tensor"),
        ({"type": "float"}, "float"),
        ({"num_bits": 6}, "6-bit"),
        ({"strategy": "group", "group_size": 7}, "group size 7"),
    ],
)
def test_unsupported_activations(change: dict, word: str) -> None:
    with pytest.raises(AgqError, match=word):
        schemes_of({"g": {**group(["Linear"]), "input_activations": {**TOKENS, **change}}}, [])


@pytest.mark.parametrize(
    "weights",
    [
        {"actorder": "static"},
        {"actorder": "weight"},
        {"observer": "mse", "observer_kwargs": {}},
        {"actorder": None, "scale_dtype": None, "zp_dtype": None, "block_structure": None},
    ],
)
def test_harmless_keys(weights: dict) -> None:
    assert schemes_of({"g": group(["Linear"], **weights)}, ["lm_head"])
