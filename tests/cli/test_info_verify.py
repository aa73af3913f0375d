"""`agq info` and `agq verify`: artifacts and folders, sound and damaged ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agq.safetensors.files import SafetensorsFile


def last(out: str) -> dict:
    return json.loads(out.splitlines()[-1])


def test_info_of_an_artifact(call, demo_artifact: Path) -> None:
    values = last(call("info", demo_artifact, "--json").out)
    assert values["form"] == "packed" and values["family"] == "llama" and values["layers"] == 6
    assert values["bits_per_weight"] == pytest.approx(4 + 16 / 128)
    assert values["bytes"] == demo_artifact.stat().st_size
    assert len(values["linears"]) == 6 * 4 + 1
    for item in values["linears"]:
        assert item["accumulator"] and item["kernel_decode"] and item["kernel_prefill"]
    assert values["recipe"]["recipe"]["method"] == "rtn"
    text = call("info", demo_artifact).out
    assert "blocks.0-5.down" in text and "blocks.3.down" not in text and "4.125" in text
    assert "blocks.3.down" in call("info", demo_artifact, "-v").out


def test_info_of_the_kv_cache_is_what_the_engine_takes(
    call, demo_artifact: Path, fp32_artifact: Callable[[Path], Path], demo_model: Path
) -> None:
    from agq.runtime.engine import Engine

    for path in (demo_artifact, fp32_artifact(demo_model)):
        values = last(call("info", path, "--json").out)
        with Engine(path, threads=1, context=512) as engine:
            assert engine.kv_bytes == pytest.approx(512 * values["kv_bytes_per_token"], rel=0.05)


def test_info_of_folders(call, demo_quantized: Path, demo_model: Path) -> None:
    quantized = last(call("info", demo_quantized, "--json").out)
    assert quantized["form"] == "quantized" and quantized["bits_per_weight"] == pytest.approx(4.125)
    assert {item["activations"] for item in quantized["linears"]} == {"8 per token", "float"}
    plain = last(call("info", demo_model, "--json").out)
    assert plain["form"] == "plain" and plain["bits_per_weight"] == 16
    assert "model.layers.0-5.mlp.down_proj" in call("info", demo_quantized).out


@pytest.mark.slow
def test_mixed_schemes_get_lines_of_their_own(call, demo_model: Path, tmp_path: Path) -> None:
    import agq

    agq.quantize(
        demo_model,
        output=tmp_path / "mixed",
        scheme="W4A8",
        method="rtn",
        overrides=[r"re:.*layers\.2\.mlp\.down_proj=W8A8"],
    )
    agq.pack(tmp_path / "mixed", tmp_path / "mixed.agq.safetensors")
    text = call("info", tmp_path / "mixed.agq.safetensors").out
    for name in ("blocks.0-1.down", "blocks.2.down", "blocks.3-5.down", "blocks.0-5.up"):
        assert name in text


def test_verify_sound_things(call, demo_artifact: Path, demo_quantized: Path, demo_model: Path) -> None:
    for path in (demo_artifact, demo_quantized, demo_model):
        assert call("verify", path).out == f"{path}: ok\n"
        assert last(call("verify", path, "--json").out)["problems"] == []


def test_verify_names_every_damaged_tensor(call, demo_artifact: Path, tmp_path: Path) -> None:
    data = bytearray(demo_artifact.read_bytes())
    file = SafetensorsFile(demo_artifact)
    names = ("blocks.1.up.scale", "tokenizer.json")
    for name in names:
        data[file.header.data_start + file.tensors[name].start] ^= 4
    broken = tmp_path / "broken.agq.safetensors"
    broken.write_bytes(data)
    result = call("verify", broken)
    assert result.code == 1 and result.err.count("error: ") == 1 and "2 problems" in result.err
    assert all(name in result.err for name in names) and "blocks.2" not in result.err
    assert len(last(call("verify", broken, "--json").out)["problems"]) == 2


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))


def edit_tensors(folder: Path, change: Callable[[dict], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _not_finite(tensors: dict) -> None:
    tensors["model.layers.1.mlp.up_proj.weight_scale"][3, 0] = float("nan")


def _norm(tensors: dict) -> None:
    tensors["model.layers.4.input_layernorm.weight"][7] = float("inf")


def _stray(tensors: dict) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.norm.weight"].clone()


def _missing(tensors: dict) -> None:
    del tensors["model.layers.3.self_attn.k_proj.weight_scale"]


MUTATIONS = {
    "status frozen": (edit_config, lambda config: config.update(quantization_status="frozen"), "frozen"),
    "status missing": (edit_config, lambda config: config.pop("quantization_status"), "quantization_status"),
    "format missing": (
        edit_config,
        lambda config: (
            config.pop("format"),
            [group.pop("format", None) for group in config["config_groups"].values()],
        ),
        "format",
    ),
    "unknown key": (edit_config, lambda config: config["config_groups"]["group_0"].update(colour="red"), "colour"),
    "order without its indices": (
        edit_config,
        lambda config: config["config_groups"]["group_0"]["weights"].update(actorder="group"),
        "self_attn.q_proj.weight_g_idx",
    ),
    "kv scheme without scales": (
        edit_config,
        lambda config: config.update(kv_cache_scheme={"num_bits": 8, "type": "float"}),
        "kv_cache",
    ),
    "transform at run time": (
        edit_config,
        lambda config: config.update(transform_config={"config_groups": {"R1": {}}}),
        "transform",
    ),
    "other activations than recorded": (
        edit_config,
        lambda config: config["config_groups"]["group_0"]["input_activations"].update(num_bits=4),
        "agq.json says activations 8 per token, config.json 4 per token",
    ),
    "scale not finite": (edit_tensors, _not_finite, "model.layers.1.mlp.up_proj.weight_scale"),
    "norm not finite": (edit_tensors, _norm, "model.layers.4.input_layernorm.weight"),
    "leftover weight": (edit_tensors, _stray, "model.layers.0.mlp.up_proj.weight"),
    "missing scale": (edit_tensors, _missing, "model.layers.3.self_attn.k_proj.weight_scale"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_verify_refuses_what_loaders_accept_in_silence(call, demo_quantized: Path, tmp_path: Path, name: str) -> None:
    edit, change, words = MUTATIONS[name]
    folder = tmp_path / "model"
    shutil.copytree(demo_quantized, folder)
    edit(folder, change)
    result = call("verify", folder)
    assert result.code == 1 and result.out == "" and words in result.err, result.err


def test_head_that_is_neither_quantized_nor_ignored(call, demo_quantized: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_quantized, folder)
    edit_config(
        folder,
        lambda config: (
            config.update(ignore=[]),
            [group.update(targets=["Linear"]) for group in config["config_groups"].values()],
        ),
    )
    result = call("verify", folder)
    assert result.code == 1 and "lm_head" in result.err


def test_broken_tokenizer_file(call, demo_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_model, folder)
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes()[:1000])
    assert "tokenizer.json" in call("verify", folder).err


def test_engine_refuses_no_sound_value(demo_artifact: Path) -> None:
    """verify() and the engine read the same bytes: no scale of a sound artifact is negative or not finite."""
    from agq.artifact import open_artifact

    artifact = open_artifact(demo_artifact)
    scales = artifact.tensor("blocks.0.qkv.scale")
    assert scales.dtype == np.uint16 and (scales < 0x7F80).all()


def test_info_of_windows(call, tmp_path: Path) -> None:
    from tests.families import CASES, make

    make(CASES["gemma3"]).save_pretrained(tmp_path)
    values = last(call("info", tmp_path, "--json").out)
    assert values["window"] == {"tokens": 8, "layers": [0, 1, 2, 3, 4, 6]} and values["rope_local"]["theta"] == 1e4
    assert "8 tokens in 6 of 7 layers" in call("info", tmp_path).out
