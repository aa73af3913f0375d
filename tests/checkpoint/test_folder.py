"""Opening and reading model folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.safetensors.files import bf16_to_f32
from tests.checkpoint.folders import config, random_tensors, save_tensors, write_folder

FAMILIES = ["llama", "opt", "bloom"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("prefix", [True, False])
def test_names_and_values(tmp_path: Path, family: str, shards: int, prefix: bool) -> None:
    settings = config(family)
    tensors = random_tensors(settings, dtype="BF16")
    checkpoint = open_checkpoint(write_folder(tmp_path, settings, tensors, shards=shards, prefix=prefix))
    assert set(checkpoint.names()) == set(tensors)
    for name, (dtype, raw) in tensors.items():
        assert checkpoint.dtype(name) == dtype and checkpoint.shape(name) == raw.shape
        assert np.array_equal(checkpoint.read(name), bf16_to_f32(raw))
        assert checkpoint.read(name).dtype == np.float32
    embed = checkpoint.read(f"{checkpoint.parts.embed}.weight")
    assert checkpoint.has("lm_head.weight") and np.array_equal(checkpoint.read("lm_head.weight"), embed)
    assert np.array_equal(checkpoint.read_rows("lm_head.weight", slice(5, 9)), embed[5:9])
    assert np.array_equal(checkpoint.read_rows("lm_head.weight", np.array([7, 0])), embed[[7, 0]])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_float_types(tmp_path: Path, dtype: str) -> None:
    settings = config("llama")
    checkpoint = open_checkpoint(write_folder(tmp_path, settings, random_tensors(settings, dtype=dtype)))
    assert checkpoint.float_dtype() == dtype
    values = checkpoint.read("model.norm.weight")
    assert values.dtype == np.float32 and np.isfinite(values).all() and values.flags.writeable


def test_reads_as_transformers_does(demo_model: Path) -> None:
    from safetensors.torch import load_file

    checkpoint = open_checkpoint(demo_model)
    reference = load_file(demo_model / "model.safetensors")
    assert set(checkpoint.names()) == set(reference)
    for name in list(reference)[::7]:
        assert np.array_equal(checkpoint.read(name), reference[name].float().numpy())
    assert checkpoint.spec.kv_heads == 2 and checkpoint.quantization is None and checkpoint.agq == {}
    assert "tokenizer.json" in [path.name for path in checkpoint.tokenizer_files()]


def test_the_head_of_a_tied_model(tmp_path: Path) -> None:
    settings = config("llama")
    tensors = random_tensors(settings)
    embed = tensors["model.embed_tokens.weight"]
    same = open_checkpoint(write_folder(tmp_path / "same", settings, {**tensors, "lm_head.weight": embed}))
    assert same.spec.tied
    other = {**tensors, "lm_head.weight": (embed[0], embed[1][::-1].copy())}
    different = open_checkpoint(write_folder(tmp_path / "different", settings, other))
    assert not different.spec.tied and not different.parts.spec.tied
    assert np.array_equal(different.read("lm_head.weight"), bf16_to_f32(embed[1][::-1]))
    swapped = {name: item for name, item in tensors.items() if "embed_tokens" not in name}
    swapped["lm_head.weight"] = embed
    only_head = open_checkpoint(write_folder(tmp_path / "head", settings, swapped))
    assert only_head.spec.tied and np.array_equal(only_head.read("model.embed_tokens.weight"), bf16_to_f32(embed[1]))


def test_an_untied_model_needs_its_head(tmp_path: Path) -> None:
    settings = config("llama", tie_word_embeddings=False)
    tensors = random_tensors(settings)
    assert not open_checkpoint(write_folder(tmp_path / "a", settings, tensors)).spec.tied
    del tensors["lm_head.weight"]
    with pytest.raises(AgqError, match=r"lm_head\.weight"):
        open_checkpoint(write_folder(tmp_path / "b", settings, tensors))


def test_all_missing_tensors_are_named(tmp_path: Path) -> None:
    settings = config("opt")
    tensors = random_tensors(settings)
    gone = [
        "model.decoder.layers.1.fc2.weight",
        "model.decoder.layers.0.self_attn.q_proj.bias",
        "model.decoder.embed_positions.weight",
    ]
    for name in gone:
        del tensors[name]
    with pytest.raises(AgqError) as caught:
        open_checkpoint(write_folder(tmp_path, settings, tensors))
    assert "lacks 3 tensors" in caught.value.message and all(name in caught.value.message for name in gone)


def test_wrong_shape_and_type(tmp_path: Path) -> None:
    settings = config("llama")
    tensors = random_tensors(settings)
    tensors["model.norm.weight"] = ("BF16", np.zeros(63, np.uint16))
    tensors["model.layers.0.mlp.up_proj.weight"] = ("I32", np.zeros((96, 64), np.int32))
    with pytest.raises(AgqError) as caught:
        open_checkpoint(write_folder(tmp_path, settings, tensors))
    assert caught.value.message.endswith(
        "`model.norm.weight`: of shape [63], not [64]; `model.layers.0.mlp.up_proj.weight`: I32, not F32 or F16 or BF16"
    )


def test_no_folder_no_config_a_file(tmp_path: Path) -> None:
    with pytest.raises(AgqError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(AgqError, match=r"no config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(AgqError, match="is a text file, not a model folder"):
        open_checkpoint(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "llama"', '{"a": 1, "a": 2}', "\ud800"])
def test_bad_config(tmp_path: Path, text: str) -> None:
    write_folder(tmp_path, config("llama"))
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(AgqError, match=r"config\.json"):
        open_checkpoint(tmp_path)


def test_pickled_weights_are_refused_with_a_hint(tmp_path: Path) -> None:
    write_folder(tmp_path, config("llama"))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(AgqError, match="pickle") as caught:
        open_checkpoint(tmp_path)
    assert "save_pretrained" in caught.value.hint


def test_no_weights(tmp_path: Path) -> None:
    write_folder(tmp_path, config("llama"))
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(AgqError, match="holds neither") as caught:
        open_checkpoint(tmp_path)
    assert "other.safetensors" in caught.value.hint


def test_truncated_weights(tmp_path: Path) -> None:
    write_folder(tmp_path, config("llama"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AgqError, match="truncated"):
        open_checkpoint(tmp_path)


def index_of(folder: Path) -> Path:
    return folder / "model.safetensors.index.json"


def test_missing_shard(tmp_path: Path) -> None:
    write_folder(tmp_path, config("llama"), shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(AgqError, match="model-00002-of-00003"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "a/../../b", "..\\b", ""])
def test_index_that_points_outside(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, config("llama"), shards=2)
    index = json.loads(index_of(tmp_path).read_text())
    index["weight_map"]["model.norm.weight"] = name
    index_of(tmp_path).write_text(json.dumps(index))
    with pytest.raises(AgqError, match="outside"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": []}', "x"]
)
def test_bad_index(tmp_path: Path, content: str) -> None:
    write_folder(tmp_path, config("llama"), shards=2)
    index_of(tmp_path).write_text(content)
    with pytest.raises(AgqError, match="index"):
        open_checkpoint(tmp_path)


def test_index_and_shards_disagree(tmp_path: Path) -> None:
    write_folder(tmp_path, config("llama"), shards=2)
    index = json.loads(index_of(tmp_path).read_text())
    index["weight_map"]["model.ghost.weight"] = "model-00001-of-00002.safetensors"
    index_of(tmp_path).write_text(json.dumps(index))
    with pytest.raises(AgqError, match="ghost"):
        open_checkpoint(tmp_path)


def test_a_stale_copy_in_another_shard_is_not_read(tmp_path: Path) -> None:
    """The index says which shard counts."""
    settings = config("llama")
    tensors = random_tensors(settings)
    write_folder(tmp_path, settings, tensors, shards=2)
    name = "model.norm.weight"
    table = json.loads(index_of(tmp_path).read_text())["weight_map"]
    (other,) = set(table.values()) - {table[name]}
    stale = {name: (tensors[name][0], np.zeros_like(tensors[name][1]))}
    save_tensors(tmp_path / other, {key: tensors[key] for key, shard in table.items() if shard == other} | stale)
    assert np.array_equal(open_checkpoint(tmp_path).read(name), bf16_to_f32(tensors[name][1]))


def test_tensor_under_two_names(tmp_path: Path) -> None:
    settings = config("llama")
    tensors = random_tensors(settings)
    write_folder(tmp_path / "b", settings, {**tensors, "norm.weight": tensors["model.norm.weight"]})
    with pytest.raises(AgqError, match="twice"):
        open_checkpoint(tmp_path / "b")


def test_shards_may_be_symlinks(tmp_path: Path) -> None:
    """As in the hub's cache, where a snapshot links to blobs outside its folder."""
    write_folder(tmp_path / "blobs", config("llama"))
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    assert open_checkpoint(tmp_path / "snapshot").spec.layers == 2


def test_fingerprint(tmp_path: Path) -> None:
    settings = config("llama")
    first = open_checkpoint(write_folder(tmp_path / "a", settings)).fingerprint()
    assert open_checkpoint(write_folder(tmp_path / "b", settings)).fingerprint() == first
    other = open_checkpoint(write_folder(tmp_path / "c", settings, random_tensors(settings, seed=1))).fingerprint()
    changed = open_checkpoint(write_folder(tmp_path / "d", {**settings, "rms_norm_eps": 1e-6})).fingerprint()
    assert len({first, other, changed}) == 3 and len(first) == 64


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ("[]", "not an agq record"),
        ('{"format": 2}', "update agq|reads 1"),
        ('{"format": 1, "kv_bits": 7}', "kv_bits"),
        ('{"format": 1, "head_bits": true}', "head_bits"),
        ('{"format": 1, "embed_bits": 4}', "embed_bits"),
        ('{"format": 1, "activations": []}', "activations"),
        ('{"format": 1, "activations": {"nope": {"bits": 4, "group_size": 32, "symmetric": true}}}', "nope"),
        ('{"format": 1, "activations": {"lm_head": {"bits": 3, "group_size": 32, "symmetric": true}}}', "lm_head"),
        ('{"format": 1, "activations": {"lm_head": {"bits": 4, "group_size": 0, "symmetric": true}}}', "group_size"),
        ('{"format": 1, "activations": {"lm_head": {"bits": 8, "group_size": 32, "symmetric": false}}}', "asymmetric"),
        ('{"format": 1, "recipe": 3}', "recipe"),
        ("{", "JSON"),
    ],
)
def test_bad_record(tmp_path: Path, record: str, word: str) -> None:
    write_folder(tmp_path, config("llama"))
    (tmp_path / "agq.json").write_text(record)
    with pytest.raises(AgqError, match=word):
        open_checkpoint(tmp_path)
