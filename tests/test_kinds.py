"""Files that are no models of agq's kinds are named for what they are."""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from agq.errors import AgqError
from agq.kinds import kind_of
from agq.safetensors.files import SafetensorsFile


def archive(path: Path, *names: str) -> bytes:
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return path.read_bytes()


def _tar(folder: Path) -> bytes:
    (folder / "a.txt").write_text("river")
    with tarfile.open(folder / "a.tar", "w") as made:
        made.add(folder / "a.txt", "a.txt")
    return (folder / "a.tar").read_bytes()


def _numpy(folder: Path) -> bytes:
    np.save(folder / "a.npy", np.zeros(9))
    return (folder / "a.npy").read_bytes()


def samples(folder: Path) -> dict[str, bytes]:
    import torch

    torch.save({"weight": torch.zeros(2)}, folder / "new.bin")
    torch.save({"weight": torch.zeros(2)}, folder / "old.bin", _use_new_zipfile_serialization=False)
    return {
        "GGUF": b"GGUF\x03\0\0\0" + b"\0" * 64,
        "PyTorch checkpoint (zip)": (folder / "new.bin").read_bytes(),
        "PyTorch checkpoint (pickle)": (folder / "old.bin").read_bytes(),
        "(pickle)": pickle.dumps({"a": list(range(99))}),
        "a zip archive": archive(folder / "plain.zip", "readme.txt"),
        "ONNX": b"\x08\x07\x12\x07pytorch\x1a\x032.1:\xff" + b"\0" * 64,
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "a web page": b"\n<!DOCTYPE html><html><head><title>404</title></head></html>",
        "a JSON file": b'{\n  "architectures": ["LlamaForCausalLM"]\n}',
        "gzip": b"\x1f\x8b\x08\x08\x11\x22\x33\x44\0\x03model",
        "a tar archive": _tar(folder),
        "an archive": b"\xfd7zXZ\0\0\4" + b"\0" * 64,
        "a NumPy file": _numpy(folder),
        "an image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0" * 64,
        "a PDF file": b"%PDF-1.7\n" + bytes(range(64)),
        "a text file (UTF-16)": "The river flows.".encode("utf-16"),
    }


def test_every_kind(tmp_path: Path) -> None:
    for name, data in samples(tmp_path).items():
        path = tmp_path / "model.safetensors"
        path.write_bytes(data)
        with pytest.raises(AgqError) as caught:
            SafetensorsFile(path)
        assert name in caught.value.message and f"`{path}` is a" in caught.value.message, name
        assert caught.value.hint and len(caught.value.hint) < 300


@pytest.mark.parametrize(
    ("data", "name", "advice"),
    [
        (b"", "an empty file", "GGUF files"),
        (b"The river flows.", "a text file", "GGUF files"),
        (b"\x00\x01\x02 no text", "a file", "GGUF files"),
        (b"PK\x03\x04" + b"\0" * 60, "a zip archive", "unpack it"),
        ((40).to_bytes(8, "little") + b'{"a": 1}', "a safetensors file", "the folder that holds config.json"),
    ],
)
def test_files_in_the_place_of_folders(tmp_path: Path, data: bytes, name: str, advice: str) -> None:
    from agq.checkpoint import open_checkpoint

    path = tmp_path / "m.bin"
    path.write_bytes(data)
    with pytest.raises(AgqError) as caught:
        open_checkpoint(path)
    assert caught.value.message == f"`{path}` is {name}, not a model folder" and advice in str(caught.value.hint)


def test_empty_and_short_files(tmp_path: Path) -> None:
    """A file of another kind is named though its first bytes could be a header's length."""
    for data, name in ((b"", "an empty file"), (b"PK\x03\x04" + b"\0" * 60, "a zip archive")):
        (tmp_path / "m.bin").write_bytes(data)
        with pytest.raises(AgqError, match=name):
            SafetensorsFile(tmp_path / "m.bin")


def test_safetensors_and_noise_are_none() -> None:
    assert kind_of((200).to_bytes(8, "little") + b'{"a": {"dtype": "F32"}}') is None
    assert kind_of(b"") is None and kind_of(b"\x08") is None and kind_of(bytes(range(7, 256))) is None


def test_hints_name_every_kind_that_is_read() -> None:
    from agq.hub import local_folder

    advice = kind_of(b"\x7fELF" + b"\0" * 64)
    assert advice is not None and all(word in advice.advice for word in ("packed", "GGUF", "Hugging Face"))
    with pytest.raises(AgqError) as caught:
        local_folder("./none")
    assert "GGUF" in str(caught.value.hint)
