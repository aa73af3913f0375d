"""What a file is, from its first bytes: for messages about files that are no models of the kinds that agq reads."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

# Bytes that `kind_of` wants to see.
LOOKED_AT = 512


@dataclass(frozen=True)
class Kind:
    """name: with its article, as a sentence says it. advice: what to do instead."""

    name: str
    advice: str


_AGAIN = "download the file again: what came is not the file itself"
_FOLDER = "agq reads packed files, GGUF files and Hugging Face folders with safetensors weights"
_CONVERT = (
    'convert the model once: python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
    "[kind.from_pretrained('FOLDER').save_pretrained('model') for kind in (M, T)]\""
)
_PICKLE = Kind("a PyTorch checkpoint (pickle)", _CONVERT)
_ZIP = Kind("a zip archive", f"unpack it; {_FOLDER}")
_UTF16 = Kind("a text file (UTF-16)", _FOLDER)
# The first bytes that tell.
_STARTS = (
    (b"GGUF", Kind("a GGUF file", "give it to the command itself: `agq run FILE`, `agq pack FILE`")),
    (
        b"version https://git-lfs",
        Kind("a Git LFS pointer", "it stands for the file: run `git lfs pull` there"),
    ),
    (b"\x89HDF", Kind("an HDF5 file", _CONVERT)),
    (b"\x1f\x8b", Kind("a gzip archive", f"unpack it; {_FOLDER}")),
    *(
        (start, Kind("an archive", f"unpack it; {_FOLDER}"))
        for start in (b"\xfd7zXZ", b"BZh", b"(\xb5/\xfd", b"7z\xbc\xaf")
    ),
    (b"\x93NUMPY", Kind("a NumPy file", _FOLDER)),
    (b"\x89PNG", Kind("an image", _FOLDER)),
    (b"\xff\xd8\xff", Kind("an image", _FOLDER)),
    (b"%PDF", Kind("a PDF file", _FOLDER)),
    (b"\xff\xfe", _UTF16),
    (b"\xfe\xff", _UTF16),
    (b"\x7fELF", Kind("a program", _FOLDER)),
    (b"lmgg", Kind("a GGML file", _FOLDER)),
    (b"tjgg", Kind("a GGML file", _FOLDER)),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def kind_of_file(path: Path) -> Kind:
    """The kind of a file that is no model; "a file", with what a model is, for one that is not known."""
    with open(path, "rb") as file:
        start = file.read(LOOKED_AT)
    if start[8:9] == b"{":
        return Kind("a safetensors file", "pass the folder that holds config.json; a packed file is quantized already")
    return kind_of(start) or Kind("a file" if start else "an empty file", _FOLDER)


def kind_of(start: bytes) -> Kind | None:
    """The kind of a file that begins with `start` (LOOKED_AT bytes, or the whole file); None: none that is known."""
    for prefix, kind in _STARTS:
        if start.startswith(prefix):
            return kind
    if start.startswith(b"PK\x03\x04"):
        return Kind("a PyTorch checkpoint (zip)", _CONVERT) if b"data.pkl" in start or b".data/" in start else _ZIP
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _PICKLE
    if start[:1] == b"\x08" and b"\x01" <= start[1:2] <= b"\x14" and start[2:3] in (b"\x12", b"\x1a", b"\x3a"):
        return Kind("an ONNX model", f"{_FOLDER}; export is one-way: take the original folder")
    if start[257:262] == b"ustar":
        return Kind("a tar archive", f"unpack it; {_FOLDER}")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_PAGES):
        return Kind("a web page", _AGAIN)
    if text[:1] in (b"{", b"["):
        return Kind("a JSON file", f"{_FOLDER}: pass the folder that the file is in")
    if _is_text(start):
        return Kind("a text file", _FOLDER)
    return None


def _is_text(start: bytes) -> bool:
    """UTF-8 without control characters; the last character may be cut."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(start)
    return bool(text) and all(letter.isprintable() or letter in "\t\r\n\f\ufeff" for letter in text)
