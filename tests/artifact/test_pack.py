"""pack: every kind of folder becomes an artifact whose contents are those of the folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.artifact import open_artifact
from agq.artifact.pack import pack
from agq.artifact.sources import quantize_rows, row_scale
from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.formats import PER_ROW, PerGroup
from agq.formats.groups import of_recipe
from agq.safetensors.files import SafetensorsFile, bf16_to_f32
from tests.artifact.pack_support import assert_blocks_equal, edit, expected, unpacked
from tests.checkpoint.folders import config, random_tensors, save_tensors, write_folder, write_quantized
from tests.support import REPOSITORY

FAMILIES = ["llama", "opt", "bloom"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "packed", "act_bits"),
    [
        (4, 32, True, True, 8),
        (4, 32, False, True, 8),
        (4, -1, True, True, 4),
        (4, 32, True, False, 16),
        (8, -1, True, False, 8),
        (8, 32, False, True, 8),
    ],
)
def test_quantized_folders(
    tmp_path: Path, family: str, bits: int, group: int, symmetric: bool, packed: bool, act_bits: int
) -> None:
    folder = write_quantized(tmp_path / "q", config(family), bits, group, symmetric, packed, act_bits)
    report = pack(folder, tmp_path / "a.safetensors")
    artifact, checkpoint = open_artifact(tmp_path / "a.safetensors"), open_checkpoint(folder)
    assert_blocks_equal(artifact, checkpoint)
    info = artifact.linears["blocks.1.down"]
    assert (info.dtype, info.group, info.asym, info.scale_dtype) == (
        "u4" if bits == 4 else "i8",
        of_recipe(group),
        not symmetric,
        "bf16",
    )
    assert (info.act_bits, info.act_group, info.act_symmetric) == (32 if act_bits == 16 else act_bits, PER_ROW, True)
    assert artifact.verify() == []
    assert report.kv_bits == 8 and report.head_bits == 8 and report.bytes == (tmp_path / "a.safetensors").stat().st_size
    embed = checkpoint.read(f"{checkpoint.parts.embed}.weight")
    scale = row_scale(embed)
    assert np.array_equal(unpacked(artifact, "head"), quantize_rows(embed, scale) * scale[:, None])
    assert artifact.linears["head"].act_bits == 8
    assert artifact.info.embed_in_head and not artifact.has("embed")
    assert artifact.recipe["quantization_config"]["quant_method"] == "compressed-tensors"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weights", [None, "f32", "f16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("tied", [True, False])
def test_unquantized_folders(tmp_path: Path, family: str, weights: str | None, tied: bool) -> None:
    settings = config(family, tie_word_embeddings=tied)
    folder = write_folder(tmp_path / "m", settings, random_tensors(settings), shards=2)
    report = pack(folder, tmp_path / "a.safetensors", weights=weights)
    artifact, checkpoint = open_artifact(tmp_path / "a.safetensors"), open_checkpoint(folder)
    assert artifact.verify() == []
    tolerance = {"int4": 0.2, "int8": 0.01, "f16": 1e-3}.get(weights, 0.0)
    assert_blocks_equal(artifact, checkpoint, tolerance)
    info = artifact.linears["blocks.0.qkv"]
    assert info.dtype == {None: "bf16", "int8": "i8", "int4": "u4"}.get(weights, weights)
    assert info.act_bits == (8 if weights in ("int8", "int4") else 32)
    assert report.kv_bits == (8 if weights in ("int8", "int4") else 32)
    assert report.head_bits == {"f32": 32, "int8": 8, "int4": 8}.get(weights, 16)
    assert artifact.has("embed") == (not tied)
    if not tied:
        embed = bf16_to_f32(artifact.tensor("embed"))
        assert np.array_equal(embed, checkpoint.read(f"{checkpoint.parts.embed}.weight"))
    head = checkpoint.read("lm_head.weight")
    assert np.abs(unpacked(artifact, "head") - head).max() <= tolerance * np.abs(head).max()
    for name in artifact.names():
        assert artifact.address(name) % 64 == 0
    if family == "opt":
        assert artifact.tensor("position").shape == (42, 64)
    norm = artifact.tensor("blocks.1.mlp_norm.weight")
    assert np.array_equal(norm, checkpoint.read(f"{checkpoint.parts.block(1).norms['mlp_norm']}.weight"))


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_head_bits(tmp_path: Path, bits: int, dtype: str) -> None:
    settings = config("llama")
    folder = write_folder(tmp_path / "m", settings, random_tensors(settings, dtype=dtype))
    pack(folder, tmp_path / "a.safetensors", head_bits=bits, kv_bits=8)
    artifact = open_artifact(tmp_path / "a.safetensors")
    sixteen = {"F32": "f16", "F16": "f16", "BF16": "bf16"}[dtype]
    assert artifact.linears["head"].dtype == {8: "i8", 16: sixteen, 32: "f32"}[bits]
    assert artifact.info.head_bits == bits and artifact.info.kv_bits == 8


def test_opt_350m_like(tmp_path: Path) -> None:
    settings = config(
        "opt",
        do_layer_norm_before=False,
        word_embed_proj_dim=40,
        enable_bias=False,
        layer_norm_elementwise_affine=False,
    )
    folder = write_folder(tmp_path / "m", settings)
    pack(folder, tmp_path / "a.safetensors", weights="f32")
    artifact, checkpoint = open_artifact(tmp_path / "a.safetensors"), open_checkpoint(folder)
    assert np.array_equal(unpacked(artifact, "project_in"), checkpoint.read("model.decoder.project_in.weight"))
    assert np.array_equal(unpacked(artifact, "project_out"), checkpoint.read("model.decoder.project_out.weight"))
    assert artifact.linears["head"].inputs == 40 and not any("norm" in name for name in artifact.names())
    quantized = write_quantized(tmp_path / "q", settings, 4, -1)  # 40 is no multiple of 32: rows are padded
    pack(quantized, tmp_path / "b.safetensors")
    artifact, checkpoint = open_artifact(tmp_path / "b.safetensors"), open_checkpoint(quantized)
    assert np.array_equal(unpacked(artifact, "project_in"), expected(checkpoint, "model.decoder.project_in"))


@pytest.mark.parametrize("name", ["llama-30m", "llama-demo", "opt-demo", "bloom-demo"])
def test_trained_models(tmp_path: Path, shared_model: Any, name: str) -> None:
    folder = shared_model(name)
    report = pack(folder, tmp_path / "a.safetensors", weights="f32")
    artifact = open_artifact(tmp_path / "a.safetensors")
    assert report.bits_per_weight == 32 and artifact.verify() == []
    assert (
        report.parameters
        == {"llama-30m": 29_893_120, "llama-demo": 6_819_072, "opt-demo": 7_098_880, "bloom-demo": 6_836_736}[name]
    )
    assert_blocks_equal(artifact, open_checkpoint(folder))


def test_same_input_same_bytes(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path / "q", config("bloom"))
    pack(folder, tmp_path / "a.safetensors")
    pack(folder, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_safetensors_library_opens_it(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    pack(write_quantized(tmp_path / "q", config("llama")), tmp_path / "a.safetensors")
    loaded = load_file(tmp_path / "a.safetensors")
    artifact = open_artifact(tmp_path / "a.safetensors")
    assert set(loaded) == set(artifact.names())
    for name, values in loaded.items():
        assert values.dtype == np.uint8 and values.nbytes == artifact.stored_bytes(name)


def test_activations_of_agq_json(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path / "q", config("llama"), act_bits=4)
    checkpoint = open_checkpoint(folder)
    scheme = {"bits": 4, "group_size": 32, "symmetric": False}
    record = {
        "format": 1,
        "version": "0",
        "recipe": {"seed": 3},
        "kv_bits": 32,
        "head_bits": 16,
        "activations": {linear.module: scheme for linear in checkpoint.parts.block_linears()},
    }
    (folder / "agq.json").write_text(json.dumps(record))
    report = pack(folder, tmp_path / "a.safetensors")
    artifact = open_artifact(tmp_path / "a.safetensors")
    info = artifact.linears["blocks.0.down"]
    assert (info.act_bits, info.act_group, info.act_symmetric) == (4, PerGroup(32), False)
    assert (report.kv_bits, report.head_bits) == (32, 16) and artifact.recipe["recipe"] == {"seed": 3}
    assert list(report.schemes) == ["W4 g32, A4 g32 asym"]


def test_scales_that_are_no_bf16_values_stay_f32(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path / "q", config("opt"))
    file = SafetensorsFile(folder / "model.safetensors")
    tensors = {name: (info.dtype, np.array(file.raw(name))) for name, info in file.tensors.items()}
    name = "model.decoder.layers.0.fc1.weight_scale"
    tensors[name] = ("F32", np.full(tensors[name][1].shape, 0.1, np.float32))
    save_tensors(folder / "model.safetensors", tensors)
    pack(folder, tmp_path / "a.safetensors")
    artifact = open_artifact(tmp_path / "a.safetensors")
    assert [artifact.linears[f"blocks.{index}.up"].scale_dtype for index in range(2)] == ["f32", "bf16"]
    assert_blocks_equal(artifact, open_checkpoint(folder))


def test_symmetric_minus_128(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path / "q", config("opt"), 8, -1, packed=False)
    file = SafetensorsFile(folder / "model.safetensors")
    tensors = {name: (info.dtype, np.array(file.raw(name))) for name, info in file.tensors.items()}
    tensors["model.decoder.layers.0.fc1.weight"][1][3, 3] = -128
    save_tensors(folder / "model.safetensors", tensors)
    pack(folder, tmp_path / "a.safetensors")
    artifact = open_artifact(tmp_path / "a.safetensors")
    assert artifact.linears["blocks.0.up"].asym and not artifact.linears["blocks.1.up"].asym
    assert not artifact.tensor("blocks.0.up.zero").any()
    assert_blocks_equal(artifact, open_checkpoint(folder))


def test_quantized_untied_head(tmp_path: Path) -> None:
    settings = config("llama", tie_word_embeddings=False)
    folder = write_quantized(tmp_path / "q", settings)
    tensors = random_tensors(settings)
    from agq.models import parts, spec_from_config
    from tests.checkpoint.folders import quantized_tensors

    file = SafetensorsFile(folder / "model.safetensors")
    stored = {name: (info.dtype, np.array(file.raw(name))) for name, info in file.tensors.items()}
    head = parts(spec_from_config(settings)).head_linear
    del stored["lm_head.weight"]
    stored.update(quantized_tensors(head, bf16_to_f32(tensors["lm_head.weight"][1]), 4, 32, True))
    save_tensors(folder / "model.safetensors", stored)
    edit(folder, ignore=[])
    assert pack(folder, tmp_path / "a.safetensors").head_bits == 4
    artifact = open_artifact(tmp_path / "a.safetensors")
    assert np.array_equal(unpacked(artifact, "head"), expected(open_checkpoint(folder), "lm_head"))
    with pytest.raises(AgqError, match="quantized"):
        pack(folder, tmp_path / "b.safetensors", head_bits=8)


def test_progress_and_report(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    folder = write_quantized(tmp_path / "q", config("llama"))
    report = pack(folder, tmp_path / "a.safetensors", progress=lambda *step: seen.append(step))
    assert seen[-1][0] == seen[-1][1] and len(seen) == len(open_artifact(tmp_path / "a.safetensors").names())
    assert json.loads(json.dumps(report.to_dict()))["layout"] == "rl16"
    # 4 bits, and a bf16 scale for every 32 weights
    assert report.bits_per_weight == 4.5 and report.schemes == {"W4 g32, A8 per token": 8}


def test_no_torch() -> None:
    code = (
        "import sys, agq.artifact.pack, agq.artifact, agq.checkpoint, agq.models; "
        "print([m for m in ('torch', 'transformers', 'safetensors', 'pandas', 'yaml') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_memory(tmp_path: Path) -> None:
    """Packing takes a fraction of the model's size: tensors are streamed."""
    settings = config(
        "llama",
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=4,
        vocab_size=16384,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    folder = write_folder(tmp_path / "m", settings)
    size = (folder / "model.safetensors").stat().st_size
    code = (
        "import resource, sys; from agq.artifact.pack import pack; "
        "from agq.artifact import layout; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        f"pack({str(folder)!r}, {str(tmp_path / 'a.safetensors')!r}, weights='f32'); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert size > 150e6 and int(result.stdout) * 1024 < 0.75 * size
