"""Files that snapshots are taken of, by their names in a case's working folder. All are made from the tiny golden
files of `tests/golden` and from the demo model, so they have the same bytes everywhere."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from tests.support import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "golden"
ARTIFACT = GOLDEN / "abi4" / "llama-w4a8.agq.safetensors"
FOLDER = GOLDEN / "folders" / "llama-w4a8"
DEMO = REPOSITORY / "demo"
# Of the golden models' vocabulary, which is t1 to t95.
WORDS = " ".join(f"t{3 + index * 7 % 90}" for index in range(200))


def put(name: str, folder: Path) -> None:
    """Makes the file or folder `name` in `folder`."""
    FILES[name](folder / name)


def _copy(source: Path) -> Callable[[Path], None]:
    def make(target: Path) -> None:
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)

    return make


def _damaged(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda target: _write(target, change(ARTIFACT.read_bytes()))


def _write(target: Path, data: bytes) -> None:
    target.write_bytes(data)


def _header(change: Callable[[dict], None]) -> Callable[[bytes], bytes]:
    """The bytes of a safetensors file with another header."""

    def changed(data: bytes) -> bytes:
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    return changed


def _flip(data: bytes) -> bytes:
    """One bit of the last tensor."""
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


def _beyond(header: dict) -> None:
    tensor = next(name for name in header if name != "__metadata__")
    header[tensor]["data_offsets"][1] += 1 << 40


def _folder(source: Path, *without: str, **changed: object) -> Callable[[Path], None]:
    """A copy without some files, with other values in its config.json."""

    def make(target: Path) -> None:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*without) if without else None)
        config = target / "config.json"
        if changed:
            config.write_text(json.dumps(json.loads(config.read_text()) | changed))

    return make


def _cut_weights(target: Path) -> None:
    shutil.copytree(FOLDER, target)
    weights = target / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _two_blocks(target: Path) -> None:
    """The first two blocks of the demo model."""
    _folder(DEMO / "llama-demo", "*.safetensors", num_hidden_layers=2)(target)
    data = (DEMO / "llama-demo" / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    kept: dict[str, object] = {}
    parts: list[bytes] = []
    offset = 0
    for name, tensor in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__" or (name.startswith("model.layers.") and int(name.split(".")[2]) > 1):
            continue
        start, end = tensor["data_offsets"]
        parts.append(data[8 + size + start : 8 + size + end])
        kept[name] = tensor | {"data_offsets": [offset, offset + end - start]}
        offset += end - start
    header = json.dumps(kept).encode()
    _write(target / "model.safetensors", struct.pack("<Q", len(header)) + header + b"".join(parts))


def _empty_folder(target: Path) -> None:
    target.mkdir()


FILES: dict[str, Callable[[Path], None]] = {
    # whole
    "model.agq.safetensors": _copy(ARTIFACT),
    "sinks.agq.safetensors": _copy(GOLDEN / "abi4" / "llama-sinks.agq.safetensors"),
    "agile.agq.safetensors": _copy(GOLDEN / "abi4" / "opt-agile.agq.safetensors"),
    "old.agq.safetensors": _copy(GOLDEN / "abi2" / "bloom-w4a8-asym.agq.safetensors"),
    "llama-w4a8": _copy(FOLDER),
    "bloom-w4a8-asym": _copy(GOLDEN / "folders" / "bloom-w4a8-asym"),
    "llama-demo": _copy(DEMO / "llama-demo"),
    "llama-short": _two_blocks,
    "words.txt": lambda target: _write(target, WORDS.encode()),
    "calibration.txt": _copy(DEMO / "text" / "calibration.txt"),
    # damaged, or of another kind
    "cut.agq.safetensors": _damaged(lambda data: data[:-1000]),
    "start.agq.safetensors": _damaged(lambda data: data[:100]),
    "flipped.agq.safetensors": _damaged(_flip),
    "beyond.agq.safetensors": _damaged(_header(_beyond)),
    "long.agq.safetensors": _damaged(lambda data: struct.pack("<Q", 1 << 60) + data[8:]),
    "newer.agq.safetensors": _damaged(_header(lambda header: header["__metadata__"].update({"agq.abi": "99"}))),
    "foreign.safetensors": _damaged(_header(lambda header: header.pop("__metadata__"))),
    "empty.agq.safetensors": lambda target: _write(target, b""),
    "latin1.txt": lambda target: _write(target, "café".encode("latin-1")),
    "empty": _empty_folder,
    "cut": _cut_weights,
    "no-weights": _folder(FOLDER, "*.safetensors"),
    "no-tokenizer": _folder(FOLDER, "tokenizer.json"),
    "other-family": _folder(FOLDER, architectures=["T5ForConditionalGeneration"], model_type="t5"),
    "odd-heads": _folder(FOLDER, num_attention_heads=3),
}
