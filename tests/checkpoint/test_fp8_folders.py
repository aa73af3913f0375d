"""FP8 folders of transformers' two methods: what is read of them, beside torch's own decoding of every number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agq.checkpoint import open_checkpoint
from agq.checkpoint.readers.fp8 import NOTE
from agq.errors import AgqError
from agq.models import parts, spec_from_config
from agq.safetensors.files import f32_to_bf16
from tests.checkpoint.folders import config, random_tensors, write_folder
from tests.checkpoint.word_folders import Tensors

LEFT_OUT = "model.layers.1.mlp.down_proj"
UP = "model.layers.0.mlp.up_proj"


def write_fp8(
    path: Path, table: dict[str, Any], leaf: str, rows: int, columns: int, type: str = "bfloat16"
) -> dict[str, np.ndarray]:
    """Writes random FP8 weights, each `rows` x `columns` of which share a scale; gives float32 [out, in] of each,
    computed by torch: one product a block, in float32, rounded to the model's type."""
    settings = config("llama", dtype=type)
    tensors: Tensors = random_tensors(settings)
    generator = torch.Generator().manual_seed(5)
    expected = {}
    for linear in parts(spec_from_config(settings)).block_linears():
        if linear.module == LEFT_OUT:
            continue
        shape = (linear.out_features, linear.in_features)
        weights = (100 * torch.randn(shape, generator=generator)).to(torch.float8_e4m3fn)
        counts = [-(-length // step) for length, step in zip(shape, (rows, columns), strict=True)]
        scale = torch.rand(counts, generator=generator) / 100 + 0.001
        values = weights.float()
        for i in range(counts[0]):
            for j in range(counts[1]):
                values[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] *= scale[i, j]
        tensors[linear.weight] = ("F8_E4M3", weights.view(torch.uint8).numpy())
        tensors[f"{linear.module}.{leaf}"] = ("F32", scale.numpy())
        expected[linear.module] = values.to(getattr(torch, type)).float().numpy()
    write_folder(path, {**settings, "quantization_config": table}, tensors)
    return expected


BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [40, 24]}


@pytest.mark.parametrize(
    ("table", "leaf", "rows", "columns", "type"),
    [
        (BLOCKS, "weight_scale_inv", 40, 24, "bfloat16"),
        (BLOCKS | {"weight_block_size": [128, 128]}, "weight_scale_inv", 128, 128, "float32"),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "weight_scale", 1, 96, "float16"),
    ],
    ids=["blocks", "one-block", "rows"],
)
def test_values_are_torch_s(
    tmp_path: Path, table: dict[str, Any], leaf: str, rows: int, columns: int, type: str
) -> None:
    expected = write_fp8(tmp_path, table, leaf, rows, columns, type)
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.quantization.decoded) == set(expected) and not checkpoint.quantization.modules()
    some = np.array([50, 0, 39])
    for module, values in expected.items():
        assert np.array_equal(checkpoint.read(f"{module}.weight"), values)
        if len(values) > max(some):
            assert np.array_equal(checkpoint.read_rows(f"{module}.weight", some), values[some])
        assert np.array_equal(checkpoint.read_rows(f"{module}.weight", slice(7, 30)), values[7:30])
    dtype, raw = checkpoint.read_raw(f"{UP}.weight")
    if type == "bfloat16":
        assert dtype == "BF16" and np.array_equal(raw, f32_to_bf16(expected[UP]).reshape(raw.shape))
    assert checkpoint.dtype(f"{LEFT_OUT}.weight") == "BF16"
    assert checkpoint.notes() == [NOTE]


def changed(path: Path, name: str, values: np.ndarray | None) -> None:
    """Replaces (None: removes) one F32 tensor."""
    from agq.safetensors.files import SafetensorsFile
    from tests.checkpoint.folders import save_tensors

    file = SafetensorsFile(path / "model.safetensors")
    tensors = {key: (file.tensors[key].dtype, np.array(file.raw(key))) for key in file.tensors if key != name}
    if values is not None:
        tensors[name] = ("F32", values)
    save_tensors(path / "model.safetensors", tensors)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (None, "`.*up_proj.weight` is FP8 and has no scales"),
        (np.ones((3, 2), np.float32), r"up_proj.weight_scale_inv`: of shape \[3, 2\], not \[3, 3\]"),
    ],
)
def test_damaged_scales(tmp_path: Path, scale: np.ndarray | None, words: str) -> None:
    write_fp8(tmp_path, BLOCKS, "weight_scale_inv", 40, 24)
    changed(tmp_path, f"{UP}.weight_scale_inv", scale)
    with pytest.raises(AgqError, match=words):
        open_checkpoint(tmp_path)


def test_scales_that_are_not_finite(tmp_path: Path) -> None:
    write_fp8(tmp_path, BLOCKS, "weight_scale_inv", 40, 24)
    changed(tmp_path, f"{UP}.weight_scale_inv", np.full((3, 3), np.inf, np.float32))
    with pytest.raises(AgqError, match=r"up_proj.weight_scale_inv` holds values that are not finite"):
        open_checkpoint(tmp_path).read(f"{UP}.weight")


@pytest.mark.parametrize("size", [128, [128], [128, 0], ["128", 128]])
def test_block_sizes_that_are_none(tmp_path: Path, size: object) -> None:
    write_fp8(tmp_path, BLOCKS | {"weight_block_size": size}, "weight_scale_inv", 40, 24)
    with pytest.raises(AgqError, match=r"`weight_block_size` is .*, not two numbers"):
        open_checkpoint(tmp_path)


def test_blocks_larger_than_the_matrix(tmp_path: Path) -> None:
    """One scale for each row, whatever number the config has."""
    expected = write_fp8(tmp_path, BLOCKS, "weight_scale_inv", 1, 10**4)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["quantization_config"]["weight_block_size"] = [1, 10**13]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    checkpoint = open_checkpoint(tmp_path)
    assert np.array_equal(checkpoint.read(f"{UP}.weight"), expected[UP])
