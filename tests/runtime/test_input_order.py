"""Columns in another order than the model's (GPTQ's `desc_act`, compressed-tensors' `actorder: group`): the engine
against the torch reference, what a folder must say, and packed files that no engine takes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agq
from agq.artifact import open_artifact
from agq.artifact.header import canonical
from agq.checkpoint import open_checkpoint, read_linear
from agq.errors import AgqError
from agq.inspect.verify import verify
from agq.native.library import libraries
from agq.runtime.engine import Engine
from agq.safetensors.files import SafetensorsFile
from tests.artifact.test_embedding import forged, model
from tests.checkpoint.folders import config, save_tensors, write_quantized
from tests.checkpoint.word_folders import write_words

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": True}
DOWN = "model.layers.{}.mlp.down_proj"


def shuffled(columns: int, size: int) -> np.ndarray:
    return np.random.default_rng(columns).permutation(np.arange(columns) // size)


def change_tensors(folder: Path, change: Any) -> Path:
    """Writes a folder's tensors, name -> (dtype, array), again after `change`."""
    file = SafetensorsFile(folder / "model.safetensors")
    tensors = {key: (file.tensors[key].dtype, np.array(file.raw(key))) for key in file.tensors}
    change(tensors)
    save_tensors(folder / "model.safetensors", tensors)
    return folder


def scatter(folder: Path, index: Any = shuffled, only: str = "") -> Path:
    """Gives the linears of a folder in compressed-tensors' form an activation order. only: those of such a name."""
    checkpoint = open_checkpoint(folder)
    found = [linear for linear in checkpoint.parts.block_linears() if only in linear.module]
    settings = json.loads((folder / "config.json").read_text())
    (group,) = settings["quantization_config"]["config_groups"].values()
    other = json.loads(json.dumps(group))
    other["weights"]["actorder"], other["targets"] = "group", [linear.module for linear in found]
    settings["quantization_config"]["config_groups"] = {"ordered": other, "rest": group}
    (folder / "config.json").write_text(json.dumps(settings))
    new = {f"{item.module}.weight_g_idx": ("I32", index(item.in_features, 32).astype("<i4")) for item in found}
    return change_tensors(folder, lambda tensors: tensors.update(new))


def test_a_column_has_the_scale_of_its_group(tmp_path: Path) -> None:
    """By hand: the same codes and scales as a folder without an order, scales by `weight_g_idx`. Keys number their two
    groups otherwise than queries."""
    plain = open_checkpoint(write_quantized(tmp_path / "plain", config("llama")))
    folder = scatter(write_quantized(tmp_path / "q", config("llama")))
    key = "model.layers.1.self_attn.k_proj"
    name = f"{key}.weight_g_idx"
    change_tensors(folder, lambda tensors: tensors.update({name: ("I32", 1 - tensors[name][1])}))
    checkpoint = open_checkpoint(folder)
    for linear in plain.parts.block_linears():
        codes, scale = plain.codes(linear.module), plain.scales(linear.module).scale
        index = shuffled(linear.in_features, 32)
        values = codes * scale[:, 1 - index if linear.module == key else index]
        assert np.array_equal(read_linear(checkpoint, linear.module).dequantize(), values)


@pytest.mark.parametrize("family", ["llama", "opt", "bloom"])
def test_engine_equals_the_reference(tmp_path: Path, family: str) -> None:
    """8-bit inputs of compressed-tensors, float ones of GPTQ."""
    from agq.reference.decoder import ReferenceModel

    ordered = scatter(write_quantized(tmp_path / "ct", config(family)))
    write_words(tmp_path / "gptq", config(family), GPTQ, shuffled)
    for folder, most in ((ordered, 2e-3), (tmp_path / "gptq", 1e-5)):
        agq.pack(folder, tmp_path / "a", kv_bits=32, head_bits=32, embed_bits=32)
        artifact = open_artifact(tmp_path / "a")
        assert artifact.metadata["agq.abi"] == "7" and verify(tmp_path / "a")[1] == []
        assert all(info.ordered == name.startswith("blocks") for name, info in artifact.linears.items())
        assert ", activation order" in artifact.linears["blocks.0.qkv"].words()[1]
        tokens = np.random.default_rng(3).integers(3, 80, 30)
        expected = ReferenceModel.from_folder(folder, kv_bits=32, head_bits=32, embed_bits=32).logits(tokens)
        with Engine(artifact, threads=1, context=40) as engine:
            found = engine.forward(tokens, logits="all")
        errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert np.median(errors) < most


def test_bit_for_bit_what_other_rows_of_the_linear_before_give(tmp_path: Path) -> None:
    """The order of down's inputs, computed into the rows of gate and up instead: the same integers and the same sums,
    on every level of this machine."""
    ordered = scatter(write_quantized(tmp_path / "ordered", config("llama")), only="down_proj")
    checkpoint = open_checkpoint(ordered)
    folder = write_quantized(tmp_path / "rows", config("llama"))

    def move(tensors: dict[str, tuple[str, np.ndarray]]) -> None:
        from agq.checkpoint.packing import pack_int

        for block in range(2):
            name = DOWN.format(block)
            stored, order = read_linear(checkpoint, name), checkpoint.scales(name).order
            tensors[f"{name}.weight_packed"] = ("I32", pack_int(stored.codes, 4))
            kind, scale = tensors[f"{name}.weight_scale"]
            runs = shuffled(len(order), 32)[order][::32]
            tensors[f"{name}.weight_scale"] = (kind, np.ascontiguousarray(scale[:, runs]))
            for role in ("gate_proj", "up_proj"):
                for leaf in ("weight_packed", "weight_scale"):
                    kind, values = tensors[key := f"{name.replace('down_proj', role)}.{leaf}"]
                    tensors[key] = (kind, np.ascontiguousarray(values[order]))

    change_tensors(folder, move)
    tokens = np.random.default_rng(5).integers(3, 80, 20)
    for source in ("ordered", "rows"):
        agq.pack(tmp_path / source, tmp_path / f"{source}.agq")
    for isa in [item.isa for item in libraries() if item.usable]:
        logits = []
        for source in ("ordered", "rows"):
            with Engine(tmp_path / f"{source}.agq", threads=1, context=40, isa=isa) as engine:
                logits.append(engine.forward(tokens, logits="all"))
        assert np.array_equal(*logits), isa


def test_an_order_that_was_never_set(tmp_path: Path) -> None:
    """compressed-tensors stores -1 where a linear was rounded without GPTQ: columns as they stand."""
    plain = write_quantized(tmp_path / "plain", config("llama"))
    folder = scatter(write_quantized(tmp_path / "q", config("llama")), lambda columns, size: np.full(columns, -1))
    checkpoint = open_checkpoint(folder)
    name = DOWN.format(0)
    assert checkpoint.scales(name).order is None
    assert np.array_equal(read_linear(checkpoint, name).codes, read_linear(open_checkpoint(plain), name).codes)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (lambda columns, size: np.zeros(columns), "does not give 32 columns to each of 2 groups"),
        (lambda columns, size: shuffled(columns, size) - 1, "names groups outside 0..1"),
        (lambda columns, size: shuffled(columns, size)[1:], "is of shape|does not fit"),
    ],
)
def test_orders_that_are_none(tmp_path: Path, index: Any, words: str) -> None:
    folder = scatter(write_quantized(tmp_path, config("llama")), index, "up_proj")
    with pytest.raises(AgqError, match=words):
        open_checkpoint(folder)


def test_linears_that_are_computed_together_need_one_order(tmp_path: Path) -> None:
    folder = scatter(write_quantized(tmp_path, config("llama")))
    name = "model.layers.0.self_attn.k_proj.weight_g_idx"
    change_tensors(folder, lambda tensors: tensors.update({name: ("I32", tensors[name][1][::-1].copy())}))
    with pytest.raises(AgqError, match="have different activation orders") as caught:
        open_checkpoint(folder)
    assert "static activation order" in caught.value.hint


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("order")
    write_words(folder / "gptq", config("llama"), GPTQ, shuffled)
    agq.pack(folder / "gptq", folder / "a")
    return (folder / "a").read_bytes()


@pytest.mark.parametrize(("place", "value"), [(0, 63), (63, 64), (5, 0xFFFFFFFF)])
def test_orders_that_no_engine_takes(tmp_path: Path, packed: bytes, place: int, value: int) -> None:
    """A column that is read twice, or lies outside, with hashes that fit: `verify` says it, no engine starts."""
    name = "blocks.1.up.input_order"
    (tmp_path / "a").write_bytes(packed)
    file = SafetensorsFile(tmp_path / "a")
    info = file.tensors[name]
    start, stop = file.header.data_start + info.start, file.header.data_start + info.stop
    order = np.array(file.raw(name)).view("<u4")
    value = int(order[1]) if value == 63 else value
    del file
    content = bytearray(packed)
    content[start + 4 * place : start + 4 * place + 4] = np.uint32(value).tobytes()

    def rehash(header: dict[str, Any]) -> None:
        hashes = json.loads(header["__metadata__"]["agq.sha256"])
        hashes[name] = hashlib.sha256(content[start:stop]).hexdigest()
        header["__metadata__"]["agq.sha256"] = canonical(hashes)

    path = forged(tmp_path / "b", bytes(content), rehash)
    assert verify(path)[1] == [f"tensor `{name}`: no permutation of 64 columns"]
    with pytest.raises(AgqError, match=r"input orders or exponents of `blocks\.1\.up` cannot be"):
        Engine(open_artifact(path), threads=1, context=8)


def test_a_head_that_is_the_embedding_has_no_order(tmp_path: Path, packed: bytes) -> None:
    path = forged(tmp_path / "a", packed, model(lambda item: item["linears"]["head"].update(ordered=True)))
    with pytest.raises(AgqError, match="embedding rows cannot be read from a head whose columns"):
        open_artifact(path)
