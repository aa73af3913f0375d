"""The safetensors container: agreement with the reference library, and every malformed file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agq.errors import AgqError
from agq.safetensors.files import SafetensorsFile, bf16_to_f32, f32_to_bf16
from tests.checkpoint.folders import save_tensors


def raw_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, stop: int, shape: list | None = None, dtype: str = "U8") -> dict:
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


ONE_BYTE = json.dumps(entry(0, 1)).encode()


def test_reads_what_the_library_writes_and_the_other_way_round(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = {
        "a": torch.randn(3, 5).to(torch.bfloat16),
        "b": torch.randn(7).to(torch.float16),
        "c": torch.randn(2, 2, 2),
        "d": torch.arange(5),
        "e": torch.tensor(3, dtype=torch.int8),
        "f": torch.zeros(0, 4),
        "g": torch.arange(6, dtype=torch.int32).reshape(2, 3),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.header.metadata == {"format": "pt"}
    for name, tensor in tensors.items():
        raw = file.raw(name)
        assert raw.shape == tuple(tensor.shape)
        values = bf16_to_f32(raw) if tensor.dtype is torch.bfloat16 else raw
        expected = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
        assert np.array_equal(values, expected.numpy())
    again = tmp_path / "y.safetensors"
    save_tensors(again, {name: (file.tensors[name].dtype, file.raw(name)) for name in file.tensors})
    loaded = load_file(again)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_bf16_rounding_is_torch_s() -> None:
    import torch

    values = np.concatenate([np.random.default_rng(0).normal(0, 1, 5000), [0, -0.0, np.inf, -np.inf, 3e38, 1e-40]])
    halfway = np.arange(0x3F800000, 0x3F820000, 257, np.uint32).view(np.float32)
    values = np.concatenate([values.astype(np.float32), halfway])
    reference = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(bf16_to_f32(f32_to_bf16(values)), reference)
    assert np.isnan(bf16_to_f32(f32_to_bf16(np.array([np.nan], np.float32)))).all()


@pytest.mark.parametrize(
    ("header", "data", "word"),
    [
        ({"a": entry(0, 4)}, b"123", "truncated"),
        ({"a": entry(0, 4)}, b"12345", "too long"),
        ({"a": entry(0, 4), "b": entry(2, 6)}, b"123456", "overlaps"),
        ({"a": entry(0, 4), "b": entry(0, 4)}, b"1234", "overlaps"),
        ({"a": entry(0, 4), "b": entry(5, 6)}, b"123456", "hole"),
        ({"a": entry(1, 4)}, b"1234", "hole"),
        ({"a": entry(4, 0, [0])}, b"", "data_offsets"),
        ({"a": entry(0, 4, [5])}, b"1234", "needs 5"),
        ({"a": entry(0, 4, [2], "F32")}, b"1234", "needs 8"),
        ({"a": entry(0, 4, [1 << 61, 1 << 61])}, b"1234", "needs"),
        ({"a": entry(0, 4, [1 << 70])}, b"1234", "shape"),
        ({"a": entry(0, 4, [-4])}, b"1234", "shape"),
        ({"a": entry(0, 4, [4.0])}, b"1234", "shape"),
        ({"a": entry(0, 4, [True] * 2)}, b"1234", "shape"),
        ({"a": entry(0, 4, [1] * 40)}, b"1234", "shape"),
        ({"a": entry(0, 4, None, "f32")}, b"1234", "dtype"),
        ({"a": {**entry(0, 4), "dtype": ["U8"]}}, b"1234", "dtype"),
        ({"a": {"dtype": "U8", "shape": [4]}}, b"1234", "proper"),
        ({"a": {**entry(0, 4), "more": 1}}, b"1234", "proper"),
        ({"a": [1, 2]}, b"1234", "proper"),
        ({"__metadata__": {"a": 1}}, b"", "metadata"),
        ({"__metadata__": [1]}, b"", "metadata"),
        (b'{"a": ' + ONE_BYTE + b', "a": ' + ONE_BYTE + b"}", b"1", "twice"),
        (b'{"a": NaN}', b"", "NaN"),
        (b'{"a\xff": 1}', b"", "UTF-8"),
        (b'{"a": ', b"", "JSON"),
        (b"[1]", b"", "not JSON"),
        (b'{"a":' * 20000, b"", "JSON"),
        (b'{"a":' + b"9" * 20000 + b"}", b"", "JSON"),
        (b"", b"", "not JSON"),
    ],
)
def test_malformed(tmp_path: Path, header: object, data: bytes, word: str) -> None:
    with pytest.raises(AgqError, match=word):
        SafetensorsFile(raw_file(tmp_path / "x.safetensors", header, data))


@pytest.mark.parametrize("length", [100_000_001, 1 << 40, (1 << 64) - 1, 400])
def test_header_length(tmp_path: Path, length: int) -> None:
    with pytest.raises(AgqError):
        SafetensorsFile(raw_file(tmp_path / "x.safetensors", {"a": entry(0, 1)}, b"1", length))


@pytest.mark.parametrize("data", [b"", b"1234567", bytes(8), b"PK\x03\x04" + bytes(100)])
def test_other_files(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(AgqError):
        SafetensorsFile(tmp_path / "x.safetensors")


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(AgqError, match="does not exist"):
        SafetensorsFile(tmp_path / "x")
    with pytest.raises(AgqError, match="folder"):
        SafetensorsFile(tmp_path)


def test_empty_header_is_a_file_without_tensors(tmp_path: Path) -> None:
    assert SafetensorsFile(raw_file(tmp_path / "x", {})).tensors == {}


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    save_tensors(path, {"a": ("F32", np.ones((3, 4), np.float32)), "b": ("BF16", np.ones(5, np.uint16))})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        file = SafetensorsFile(path)
    except AgqError:
        return
    for name in file.tensors:
        try:
            file.raw(name).sum()
        except AgqError as error:
            assert "a dtype that agq does not know" in error.message
