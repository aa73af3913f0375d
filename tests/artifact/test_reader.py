"""Hostile and damaged artifacts: an error or a finding, never a crash, never an address outside the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agq.artifact import open_artifact
from agq.artifact.header import header_bytes, header_hash
from agq.artifact.pack import pack
from agq.errors import AgqError
from agq.safetensors.files import SafetensorsFile
from tests.checkpoint.folders import config, write_folder, write_quantized


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small artifact."""
    folder = tmp_path_factory.mktemp("small")
    tiny = config(
        "opt",
        hidden_size=32,
        ffn_dim=32,
        num_attention_heads=2,
        vocab_size=17,
        max_position_embeddings=5,
        num_hidden_layers=1,
    )
    pack(write_quantized(folder / "q", tiny), folder / "a.safetensors")
    return (folder / "a.safetensors").read_bytes()


def read_everything(path: Path) -> list[str]:
    """Opens, touches every tensor, verifies."""
    artifact = open_artifact(path)
    end = artifact.size
    for name in artifact.names():
        artifact.tensor(name).sum()
        assert artifact.address(name) % 64 == 0 and artifact.stored_bytes(name) <= end
    return artifact.verify()


def found(path: Path, content: bytes) -> bool:
    """Whether damage is noticed, at open or by verify."""
    path.write_bytes(content)
    try:
        return bool(read_everything(path))
    except AgqError:
        return True


def test_the_undamaged_one(tmp_path: Path, small: bytes) -> None:
    assert not found(tmp_path / "a", small)


@pytest.mark.slow
def test_every_header_byte_and_a_sample_of_the_rest(tmp_path: Path, small: bytes) -> None:
    start = 8 + int.from_bytes(small[:8], "little")
    rng = np.random.default_rng(0)
    positions = [*range(0, start, 3), *rng.integers(start, len(small), 150), len(small) - 1]
    for position in positions:
        content = bytearray(small)
        content[position] ^= 1 << int(rng.integers(0, 8))
        assert found(tmp_path / "a", bytes(content)), position


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_damage(small: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(small)
    start = 8 + int.from_bytes(small[:8], "little")
    limit = start if data.draw(st.booleans()) else len(content)
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, limit - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    if bytes(content) != small:
        assert found(tmp_path_factory.getbasetemp() / "damaged", bytes(content))


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1, -64])
def test_truncated(tmp_path: Path, small: bytes, size: int) -> None:
    (tmp_path / "a").write_bytes(small[:size])
    with pytest.raises(AgqError):
        open_artifact(tmp_path / "a")


def test_appended(tmp_path: Path, small: bytes) -> None:
    (tmp_path / "a").write_bytes(small + bytes(64))
    with pytest.raises(AgqError, match="too long"):
        open_artifact(tmp_path / "a")


def test_which_tensor_is_damaged(tmp_path: Path, small: bytes) -> None:
    (tmp_path / "a").write_bytes(small)
    artifact = open_artifact(tmp_path / "a")
    file = SafetensorsFile(tmp_path / "a")
    content = bytearray(small)
    for name in ("blocks.0.up.weight", "position"):
        content[file.header.data_start + file.tensors[name].start] ^= 1
    del artifact, file
    (tmp_path / "a").write_bytes(content)
    assert open_artifact(tmp_path / "a").verify() == [
        "tensor `position`: SHA-256 differs",
        "tensor `blocks.0.up.weight`: SHA-256 differs",
    ]


def forged(path: Path, small: bytes, change: Callable[[dict], Any]) -> Path:
    """An artifact whose header says something else, with hashes that fit: what an attacker would send."""
    length = int.from_bytes(small[:8], "little")
    header = json.loads(small[8 : 8 + length])
    change(header)
    header["__metadata__"]["agq.header_sha256"] = header_hash(header)
    path.write_bytes(header_bytes(header) + small[8 + length :])
    return path


def model(change: Callable[[dict], Any]) -> Callable[[dict], None]:
    """Changes agq.model inside a header."""

    def apply(header: dict) -> None:
        values = json.loads(header["__metadata__"]["agq.model"])
        change(values)
        header["__metadata__"]["agq.model"] = json.dumps(values)

    return apply


def meta(**values: str | None) -> Callable[[dict], None]:
    def apply(header: dict) -> None:
        for key, value in values.items():
            key = key.replace("__", ".")
            if value is None:
                del header["__metadata__"][key]
            else:
                header["__metadata__"][key] = value

    return apply


def linear(name: str, **values: Any) -> Callable[[dict], None]:
    changes = {key.replace("inputs", "in"): value for key, value in values.items()}
    return model(lambda item: item["linears"][name].update(changes))


def shifted(header: dict) -> None:
    """Moves a boundary between two tensors by one byte: the file still has no hole."""
    names = sorted((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"])
    first, second = header[names[0]], header[names[1]]
    first["data_offsets"][1] -= 1
    first["shape"] = [first["shape"][0] - 1]
    second["data_offsets"][0] -= 1
    second["shape"] = [second["shape"][0] + 1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (meta(agq__format="2"), "newer agq"),
        (meta(agq__abi="99"), "newer agq"),
        (meta(agq__format="0"), "reads 1"),
        (meta(agq__format="x"), "not a number"),
        (meta(agq__format="9" * 50), "not a number"),
        (meta(agq__format="²"), "not a number"),
        (meta(agq__layout="zz99"), "layout"),
        (meta(agq__layout=None), "layout"),
        (meta(format="pt"), "not an agq artifact"),
        (meta(agq__model=None), "agq.model"),
        (meta(agq__model="{"), "JSON"),
        (meta(agq__model="[]"), "is not an object"),
        (meta(agq__recipe=None), "agq.recipe"),
        (model(lambda item: item.update(kv_bits=7)), "kv_bits"),
        (model(lambda item: item.update(kv_bits=True)), "kv_bits"),
        (model(lambda item: item.update(head_bits="8")), "head_bits"),
        (model(lambda item: item.update(embed_in_head=1)), "embed_in_head"),
        (model(lambda item: item.update(embed_in_head=False)), "embed"),
        (model(lambda item: item.update(extra=1)), "unknown `extra`"),
        (model(lambda item: item.pop("special")), "no `special`"),
        (model(lambda item: item["special"].update(eos_ids="2")), "eos_ids"),
        (model(lambda item: item["special"].update(bos_token=3)), "special"),
        (model(lambda item: item["special"].update(add_bos_token="yes")), "add_bos_token"),
        (model(lambda item: item["spec"].update(hidden=1 << 40)), "hidden"),
        (model(lambda item: item["spec"].update(hidden=64)), "not"),
        (model(lambda item: item["spec"].update(layers=2)), "linears"),
        (model(lambda item: item["spec"].update(vocab=16)), "head"),
        (model(lambda item: item["spec"].update(context=6)), "fit"),
        (model(lambda item: item["spec"].update(position_offset=3)), "fit"),
        (model(lambda item: item["spec"].update(family=["opt"])), "family"),
        (model(lambda item: item["spec"].update(final_norm=False)), "fit"),
        (model(lambda item: item["tensors"]["position"].update(dtype="f32")), "position"),
        (model(lambda item: item["tensors"]["position"].update(dtype=["f32"])), "position"),
        (model(lambda item: item["tensors"]["position"].update(shape=[7, 33])), "position"),
        (model(lambda item: item["tensors"].update(extra={"dtype": "u8", "shape": [1]})), "extra"),
        (model(lambda item: item["tensors"].pop("config.json")), "config.json"),
        (model(lambda item: item["tensors"]["tokenizer.json"].update(shape=[1 << 50])), "tokenizer.json"),
        (model(lambda item: item["tensors"]["tokenizer.json"].update(shape=[100000])), "tokenizer.json"),
        (model(lambda item: item.update(tensors=[])), "tensors"),
        (model(lambda item: item.update(linears=[])), "linears"),
        (linear("head", out=18), "head"),
        (linear("head", inputs=-32), "head"),
        (linear("head", dtype="u4"), "head"),
        (linear("head", dtype="i4"), "element type"),
        (linear("head", dtype=None), "type"),
        (linear("blocks.0.up", dtype="f32"), "up"),
        (linear("blocks.0.up", scale_dtype=None), "scales"),
        (linear("blocks.0.up", scale_dtype="f32"), "fit"),
        (linear("blocks.0.up", group=31), "group"),
        (linear("blocks.0.up", group=-32), "group"),
        (linear("blocks.0.up", group=64), "group"),
        (linear("blocks.0.up", asym=True), "fit"),
        (linear("blocks.0.up", bias=False), "fit"),
        (linear("blocks.0.up", act_bits=3), "3-bit"),
        (linear("blocks.0.up", act_bits=8.0), "wrong type"),
        (linear("blocks.0.up", act_group=16), "act_group"),
        (linear("blocks.0.up", act_symmetric=False), "asymmetric"),
        (linear("blocks.0.up", extra=1), "unknown `extra`"),
        (shifted, "bytes"),
        (lambda header: header.pop("position"), "hole|start|truncated|too long"),
        (lambda header: header["position"].update(dtype="I8"), "position"),
    ],
)
def test_forged_headers(tmp_path: Path, small: bytes, change: Callable[[dict], Any], word: str) -> None:
    with pytest.raises(AgqError, match=word):
        open_artifact(forged(tmp_path / "a", small, change))


def test_a_damaged_header_is_refused_at_open(tmp_path: Path, small: bytes) -> None:
    """Also where the hash itself is hit, and where the same JSON is written in another order."""
    length = int.from_bytes(small[:8], "little")
    header = small[8 : 8 + length]
    digit = header.index(b'"agq.header_sha256":"') + len(b'"agq.header_sha256":"')
    flipped = bytearray(header)
    flipped[digit] ^= 1
    values = json.loads(header)
    reordered = json.dumps(dict(reversed(values.items())), separators=(",", ":")).encode().ljust(length)
    for damaged in (header.replace(b"agq 0", b"agq 7"), bytes(flipped), reordered):
        assert damaged != header and len(damaged) == length
        (tmp_path / "a").write_bytes(small[:8] + damaged + small[8 + length :])
        with pytest.raises(AgqError, match="header"):
            open_artifact(tmp_path / "a")


def test_forging_nothing_is_accepted(tmp_path: Path, small: bytes) -> None:
    assert forged(tmp_path / "a", small, lambda header: None).read_bytes() == small
    assert not read_everything(tmp_path / "a")


def test_other_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", config("llama"))
    with pytest.raises(AgqError, match="not an agq artifact") as caught:
        open_artifact(folder / "model.safetensors")
    assert "agq pack" in caught.value.hint
    with pytest.raises(AgqError, match="does not exist"):
        open_artifact(tmp_path / "nothing")
    with pytest.raises(AgqError, match="folder"):
        open_artifact(folder)
    (tmp_path / "text").write_text("hello, this is no artifact at all")
    with pytest.raises(AgqError):
        open_artifact(tmp_path / "text")


def test_unknown_tensor(tmp_path: Path, small: bytes) -> None:
    (tmp_path / "a").write_bytes(small)
    with pytest.raises(AgqError, match="nonsense"):
        open_artifact(tmp_path / "a").tensor("nonsense")


def test_tensors_cannot_be_written(tmp_path: Path, small: bytes) -> None:
    (tmp_path / "a").write_bytes(small)
    with pytest.raises(ValueError, match="read-only"):
        open_artifact(tmp_path / "a").tensor("position")[0] = 1
