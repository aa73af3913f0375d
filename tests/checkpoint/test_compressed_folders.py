"""Folders in the compressed-tensors form that are damaged, or that say what agq does not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.checkpoint import open_checkpoint, read_linear
from agq.checkpoint.compressed_tensors import activation_scheme, quantization_config
from agq.errors import AgqError
from agq.formats import PER_ROW, PerGroup
from agq.recipe import ActivationScheme, WeightScheme
from tests.checkpoint.folders import TOKENS, config, group, write_folder, write_quantized


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"quant_method": "hqq"}, "hqq"),
        ({"quantization_status": "frozen"}, "frozen"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse"),
        ({"transform_config": {"config_groups": {"R4": {}}}}, "transform"),
        ({"format": "marlin-24", "config_groups": {"g": group(["Linear"])}}, "marlin-24"),
        ({"format": ["pack-quantized"], "config_groups": {"g": group(["Linear"])}}, "format"),
        ({"config_groups": {}}, "config_groups"),
        ({"config_groups": {"W4A16": ["Linear"]}}, "W4A16"),
        ({"config_groups": {"g": {**group(["Linear"]), "output_activations": TOKENS}}}, "output_activations"),
        ({"config_groups": {"g": {**group(["Linear"]), "extra": 1}}}, "extra"),
        ({"config_groups": {"g": {**group(["re:("])}}}, "regular expression"),
        ({"config_groups": {"g": {"targets": "Linear"}}}, "targets"),
        ({"ignore": [1]}, "ignore"),
    ],
)
def test_unsupported_folders(tmp_path: Path, change: dict, word: str) -> None:
    with pytest.raises(AgqError, match=word):
        open_checkpoint(write_quantized(tmp_path, config("llama"), **change))


def test_group_sizes_that_do_not_divide_are_all_named(tmp_path: Path) -> None:
    settings = config("opt")  # 64 and 160 inputs
    table = quantization_config(
        [(["Linear"], WeightScheme(4, True, PerGroup(64)), ActivationScheme(8, True))], ["lm_head"]
    )
    with pytest.raises(AgqError) as caught:
        open_checkpoint(write_folder(tmp_path, {**settings, "quantization_config": table}))
    assert caught.value.message.endswith("160 inputs (possible: 32, -1): down of 2 blocks")


def test_a_tied_head_cannot_be_quantized(tmp_path: Path) -> None:
    with pytest.raises(AgqError, match="ignore"):
        open_checkpoint(write_quantized(tmp_path, config("llama"), ignore=[]))


def test_quantized_weights_without_their_config(tmp_path: Path) -> None:
    import json

    folder = write_quantized(tmp_path, config("llama"))
    (folder / "config.json").write_text(json.dumps(config("llama")))
    with pytest.raises(AgqError) as caught:
        open_checkpoint(folder)
    assert "quantization_config" in caught.value.hint


def rewritten(folder: Path, name: str, values: np.ndarray | None, dtype: str = "") -> Path:
    """Replaces (None: removes) one tensor of a folder."""
    from agq.safetensors.files import SafetensorsFile
    from tests.checkpoint.folders import save_tensors

    file = SafetensorsFile(folder / "model.safetensors")
    tensors = {key: (file.tensors[key].dtype, np.array(file.raw(key))) for key in file.tensors}
    if values is None:
        del tensors[name]
    else:
        tensors[name] = (dtype, values)
    save_tensors(folder / "model.safetensors", tensors)
    return folder


MODULE = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("leaf", "dtype", "values", "word"),
    [
        ("weight_g_idx", "I32", np.zeros(64, np.int32), "activation order"),
        ("input_scale", "F32", np.ones(1, np.float32), "static"),
        ("weight_shape", "I64", np.array([96, 65]), "weight_shape"),
        ("weight_zero_point", "I32", np.ones((12, 2), np.int32), "symmetric"),
        ("weight_packed", "I32", np.zeros((96, 9), np.int32), "shape"),
        ("weight_packed", "F32", np.zeros((96, 8), np.float32), "I32"),
        ("weight_scale", "I32", np.zeros((96, 2), np.int32), "weight_scale"),
        ("weight_scale", "F32", np.zeros((96, 3), np.float32), "shape"),
        ("weight_packed", "", None, "lacks 1"),
        ("weight_scale", "", None, "lacks 1"),
    ],
)
def test_damaged_folders(tmp_path: Path, leaf: str, dtype: str, values: Any, word: str) -> None:
    folder = write_quantized(tmp_path, config("llama"))
    with pytest.raises(AgqError, match=word):
        open_checkpoint(rewritten(folder, f"{MODULE}.{leaf}", values, dtype))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_impossible_scales(tmp_path: Path, value: float) -> None:
    folder = write_quantized(tmp_path, config("llama"))
    scale = np.ones((96, 2), np.float32)
    scale[5, 1] = value
    checkpoint = open_checkpoint(rewritten(folder, f"{MODULE}.weight_scale", scale, "F32"))
    with pytest.raises(AgqError, match="weight_scale"):
        checkpoint.scales(MODULE)


def test_codes_out_of_range(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path, config("llama"), packed=False)
    codes = np.zeros((96, 64), np.int8)
    codes[1, 1] = 9
    checkpoint = open_checkpoint(rewritten(folder, f"{MODULE}.weight", codes, "I8"))
    with pytest.raises(AgqError, match=r"-8\.\.7"):
        checkpoint.codes(MODULE)


@pytest.mark.parametrize("shape", [(1,), (), (96,), (96, 1)])
def test_other_scale_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Per tensor [1] or [], per channel [out] or [out, 1]."""
    strategy = "tensor" if len(shape) == 0 or shape == (1,) else "channel"
    folder = write_quantized(tmp_path, config("llama"), 8, -1, packed=False)
    other = group([MODULE], num_bits=8, strategy=strategy, group_size=None)
    import json

    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"]["config_groups"]["one"] = {**other, "format": "int-quantized"}
    (folder / "config.json").write_text(json.dumps(settings))
    scale = np.full(shape, 0.5, np.float32)
    checkpoint = open_checkpoint(rewritten(folder, f"{MODULE}.weight_scale", scale, "F32"))
    found = checkpoint.scales(MODULE)
    stored, zero = found.scale, found.zero
    assert stored.shape == (96, 1) and (stored == 0.5).all() and zero is None


def test_agq_json_wins_over_the_config(tmp_path: Path) -> None:
    import json

    folder = write_quantized(tmp_path, config("llama"), act_bits=4)
    scheme = {"bits": 4, "group_size": 32, "symmetric": False}
    (folder / "agq.json").write_text(json.dumps({"format": 1, "activations": {MODULE: scheme}, "kv_bits": 8}))
    checkpoint = open_checkpoint(folder)
    assert activation_scheme(checkpoint, MODULE) == ActivationScheme(4, False, PerGroup(32))
    assert read_linear(checkpoint, MODULE).activations.group_size == PerGroup(32)
    assert activation_scheme(checkpoint, "model.layers.1.mlp.up_proj") == ActivationScheme(4, True, PER_ROW)
    assert activation_scheme(checkpoint, "lm_head").bits == 16
    assert checkpoint.record.kv_bits == 8 and checkpoint.agq["format"] == 1
