"""pack: what it refuses, by name, and leaves no file behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agq.artifact.pack import pack
from agq.checkpoint import open_checkpoint
from agq.checkpoint.packing import pack_int
from agq.errors import AgqError, UsageError
from agq.safetensors.files import SafetensorsFile
from tests.artifact.pack_support import edit
from tests.checkpoint.folders import config, random_tensors, save_tensors, write_folder, write_quantized


def test_fused_linears_need_one_scheme(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path / "q", config("llama"))
    record = {
        "format": 1,
        "activations": {
            "model.layers.1.self_attn.k_proj": {"bits": 4, "group_size": 32, "symmetric": False},
            "model.layers.0.mlp.gate_proj": {"bits": 8, "group_size": 32, "symmetric": True},
        },
    }
    (folder / "agq.json").write_text(json.dumps(record))
    with pytest.raises(AgqError, match="one scheme") as caught:
        pack(folder, tmp_path / "a.safetensors")
    assert caught.value.message.endswith("one scheme: gate, up of block 0; q, k, v of block 1")
    assert not (tmp_path / "a.safetensors").exists()


def test_offending_groups_are_all_named(tmp_path: Path) -> None:
    """Groups that the standard allows but no kernel computes; and activation groups that do not divide."""
    settings = config("llama", num_attention_heads=4, intermediate_size=96)
    folder = write_quantized(tmp_path / "q", settings)
    modules = [linear.module for linear in open_checkpoint(folder).parts.block_linears()]
    scheme = {"bits": 4, "group_size": 64, "symmetric": False}
    (folder / "agq.json").write_text(json.dumps({"format": 1, "activations": dict.fromkeys(modules, scheme)}))
    with pytest.raises(AgqError, match="activation group size 64") as caught:
        pack(folder, tmp_path / "a.safetensors")
    message = caught.value.message
    assert message.endswith(": down of 2 blocks") and "possible: 32, -1" in message
    rows = np.zeros((96, 64), np.int8)
    small = write_quantized(tmp_path / "s", settings)
    edit(
        small,
        config_groups={
            "g": {
                "targets": ["re:.*up_proj", "re:.*gate_proj"],
                "weights": {"num_bits": 4, "strategy": "group", "group_size": 16},
            }
        },
    )
    file = SafetensorsFile(small / "model.safetensors")
    tensors = {name: (info.dtype, np.array(file.raw(name))) for name, info in file.tensors.items()}
    original = random_tensors(settings)
    for name, item in original.items():
        if name.endswith("weight") and not name.endswith(("up_proj.weight", "gate_proj.weight")):
            tensors[name] = item
        elif name.endswith(("up_proj.weight", "gate_proj.weight")):
            tensors[f"{name}_packed"] = ("I32", pack_int(rows, 4))
            tensors[f"{name}_scale"] = ("F32", np.ones((96, 4), np.float32))
    save_tensors(small / "model.safetensors", tensors)
    with pytest.raises(AgqError, match="group size 16 is not a multiple of 32") as caught:
        pack(small, tmp_path / "a.safetensors")
    assert caught.value.message.endswith(": gate, up of 2 blocks")


def test_kv_cache_scheme_of_others(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path / "q", config("llama"), kv_cache_scheme={"num_bits": 8, "type": "float"})
    with pytest.raises(AgqError, match="kv_cache_scheme"):
        pack(folder, tmp_path / "a.safetensors")
    assert pack(folder, tmp_path / "a.safetensors", kv_bits=32).kv_bits == 32


@pytest.mark.parametrize("options", [{"weights": "int5"}, {"kv_bits": 6}, {"head_bits": 5}])
def test_wrong_options(tmp_path: Path, options: dict) -> None:
    folder = write_folder(tmp_path / "m", config("llama"))
    with pytest.raises(UsageError):
        pack(folder, tmp_path / "a.safetensors", **options)


def test_wrong_outputs(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path / "m", config("llama"))
    with pytest.raises(UsageError, match="quantized already"):
        pack(folder, tmp_path / "a", weights="f32")
    with pytest.raises(UsageError, match="folder"):
        pack(folder, tmp_path)
    with pytest.raises(UsageError, match="model itself"):
        pack(folder, folder / "model.safetensors")
    with pytest.raises(AgqError, match="does not exist"):
        pack(folder, tmp_path / "nowhere" / "a.safetensors")
    pack(folder, folder / "model.agq.safetensors")
    pack(folder, folder / "model.agq.safetensors")
    assert open_checkpoint(folder).spec.layers == 2


def test_values_that_fp16_cannot_hold(tmp_path: Path) -> None:
    settings = config("llama")
    tensors = random_tensors(settings)
    tensors["model.layers.0.mlp.up_proj.weight"][1][0, 0] = 0x7F00  # 1.7e38
    folder = write_folder(tmp_path / "m", settings, tensors)
    with pytest.raises(AgqError, match="fp16"):
        pack(folder, tmp_path / "a.safetensors", weights="f16")
    assert sorted(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("bits", [0x7FC0, 0x7F80, 0xFF80])  # NaN and the infinities
def test_values_that_are_not_finite(tmp_path: Path, bits: int) -> None:
    settings = config("llama")
    tensors = random_tensors(settings)
    tensors["model.embed_tokens.weight"][1][7, 3] = bits
    folder = write_folder(tmp_path / "m", settings, tensors)
    with pytest.raises(AgqError, match="not finite"):
        pack(folder, tmp_path / "a.safetensors", head_bits=8)


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    folder = write_folder(tmp_path / "m", config("llama"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(AgqError, match="not enough room"):
        pack(folder, tmp_path / "a.safetensors")
    assert sorted(tmp_path.iterdir()) == [folder]


def test_disk_full_leaves_nothing(tmp_path: Path) -> None:
    """/dev/full cannot be renamed to, so a writer that fails half-way stands for it."""
    import errno

    from agq.files import atomic_writer

    with pytest.raises(AgqError, match="disk full"), atomic_writer(tmp_path / "x") as file:
        file.write(b"1")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []
