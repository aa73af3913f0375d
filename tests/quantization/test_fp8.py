"""The scheme FP8: its weights by hand, its folder as others read it, and what it does not go with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from agq.errors import AgqError
from agq.numerics.fp8 import fp8_grid, fp8_weight, round_fp8
from agq.quantization.encode import decode, encode
from agq.quantization.walk import QuantizedLinear
from agq.recipe import Scheme
from agq.safetensors.files import SafetensorsFile, bf16_to_f32
from agq.safetensors.fp8 import decode_e4m3
from tests.quantization.quantization_support import planned, quantized

FP8 = Scheme.parse("fp8")


def test_weights_by_hand() -> None:
    """Scales amax / 448, in bf16; 3 bits behind the point: 17 lies in the middle of 16 and 18 and goes to the even
    16."""
    weight = torch.tensor([[448.0, -224.0, 17.0, 19.0], [0.0, 0.0, 0.0, 0.0], [-1792.0, 4.0, 2.0**-6, 0.0]])
    grid = fp8_grid(weight)
    assert grid.scale.tolist() == [[1.0], [1.0], [4.0]]  # rows of zeros: any scale will do
    codes = round_fp8(weight, grid)
    assert codes.dtype == torch.uint8 and codes[0].tolist() == [0x7E, 0xF6, 0x58, 0x5A]
    assert fp8_weight(codes, grid).tolist() == [[448, -224, 16, 20], [0] * 4, [-1792, 4, 2**-6, 0]]


def test_a_scale_that_bf16_rounds_down_cuts_the_largest_weight() -> None:
    weight = torch.tensor([[449.0, 1.0]])
    grid = fp8_grid(weight)
    assert grid.scale.item() == 1.0 and fp8_weight(round_fp8(weight, grid), grid)[0, 0] == 448


def test_stored_tensors_come_back() -> None:
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    grid = fp8_grid(weight)
    codes = round_fp8(weight, grid)
    tensors = encode("m", QuantizedLinear(codes, grid, FP8), "float-quantized", "BF16")
    assert {name: (dtype, values.shape) for name, (dtype, values) in tensors.items()} == {
        "m.weight": ("F8_E4M3", (5, 64)),
        "m.weight_scale": ("BF16", (5, 1)),
    }
    assert torch.equal(decode("m", tensors, FP8, 64), fp8_weight(codes, grid))
    assert np.array_equal(decode_e4m3(tensors["m.weight"][1]) * grid.scale.numpy(), fp8_weight(codes, grid).numpy())


def test_the_scheme_in_recipes() -> None:
    assert FP8.name == FP8.base == "FP8" and FP8.describe() == "fp8 weights, float activations"
    assert Scheme.from_dict(FP8.to_dict()) == FP8 != Scheme.parse("W8A16")
    assert "floats" not in Scheme.parse("W8A16").to_dict()["weights"]  # stored as before
    with pytest.raises(AgqError, match="not available"):
        Scheme.of(8, 8, floats=True)
    with pytest.raises(AgqError, match="4-bit floats"):
        Scheme.of(4, 16, floats=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "gptq"}, "weights of FP8 are rounded to nearest, not by `method: gptq`"),
        ({"tune": 4}, "weights of FP8 are not tuned"),
        ({"group_size": 64}, "weights of FP8 have one scale per output channel and no zero points"),
        ({"asym": True}, "weights of FP8 have one scale per output channel and no zero points"),
        ({"ct_format": "int"}, "weights of FP8 are stored as float-quantized"),
        ({"overrides": ["re:.*down_proj=W8A16"]}, "weights of FP8 and of integers do not stand in one folder"),
    ],
)
def test_what_it_does_not_go_with(short_model: Path, tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(AgqError, match=words):
        planned(short_model, tmp_path / "q", scheme="FP8", **options)


@pytest.mark.slow
def test_the_folder_in_transformers(short_model: Path, tmp_path: Path) -> None:
    """compressed-tensors reads the bytes and scales that were written, and would quantize inputs per token."""
    from transformers import AutoModelForCausalLM

    report = quantized(short_model, tmp_path / "q", scheme="FP8", method="rtn")
    assert 8 < report.bits_per_weight < 8.1
    config = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    inputs = config["config_groups"]["group_0"]["input_activations"]
    assert config["format"] == "float-quantized" and (inputs["type"], inputs["strategy"]) == ("float", "token")
    model, found = AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32, output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model(torch.tensor([[1, 2, 3]]))  # the first call makes floats of the codes
    stored = SafetensorsFile(tmp_path / "q" / "model.safetensors")
    for name in ("self_attn.q_proj", "mlp.down_proj"):
        module = f"model.layers.1.{name}"
        expected = decode_e4m3(stored.raw(f"{module}.weight")) * bf16_to_f32(stored.raw(f"{module}.weight_scale"))
        assert np.array_equal(model.get_submodule(module).weight.float().detach().numpy(), expected)
