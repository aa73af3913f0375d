"""Files as they come: cut off, damaged, hostile, in parts, under other names. One clear error, and no memory spent."""

from __future__ import annotations

import shutil
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.errors import AgqError
from agq.gguf.files import is_gguf, split_parts, stem
from agq.gguf.opening import open_source
from agq.gguf.reader import GgufFile
from tests import families
from tests.gguf.gguf_files import gguf, tokenizer, types_of, write

pytest.importorskip("torch")
MEMORY = 64 << 20


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    return write(path, families.make(families.Case("llama", {"num_hidden_layers": 1})), "llama", types_of("Q8_0"))


def refused(path: Path, data: bytes) -> str:
    """Message of the error that a file of these bytes gives; no traceback, no memory."""
    path.write_bytes(data)
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(AgqError) as error:
            everything(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY and time.monotonic() - started < 20
    finally:
        tracemalloc.stop()
    assert "\n" not in error.value.message
    return error.value.message


def everything(path: Path) -> None:
    """Reads all that packing reads."""
    checkpoint = open_source(path)
    for name in checkpoint.names():
        checkpoint.read(name)
    for module in checkpoint.quantization.modules() if checkpoint.quantization else ():
        checkpoint.codes(module)
        checkpoint.scales(module)
    checkpoint.text("tokenizer.json")


def header(tensors: int = 0, keys: int = 0, version: int = 3, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


ARCH = text("general.architecture") + struct.pack("<I", 8) + text("llama")
HUGE = 1 << 60


def tensor(shape: tuple[int, ...], kind: int = 0, offset: int = 0, name: str = "token_embd.weight") -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE = {
    "empty": b"",
    "short": b"GGU",
    "another magic": b"GGML" + bytes(100),
    "version 1": header(version=1),
    "version 9": header(version=9),
    "no architecture": header(),
    "tensors without end": header(tensors=HUGE),
    "keys without end": header(keys=HUGE),
    "a name without end": header(keys=1, rest=struct.pack("<Q", HUGE)),
    "a text without end": header(keys=1, rest=text("a") + struct.pack("<IQ", 8, HUGE)),
    "an array without end": header(keys=1, rest=text("a") + struct.pack("<IIQ", 9, 4, HUGE)),
    "texts without end": header(keys=1, rest=text("a") + struct.pack("<IIQ", 9, 8, HUGE)),
    "a text that wraps around": header(keys=1, rest=text("a") + struct.pack("<IIQQ", 9, 8, 1, (1 << 64) - 1)),
    "arrays of arrays": header(keys=1, rest=text("a") + struct.pack("<IIQ", 9, 9, 3) + bytes(99)),
    "an unknown kind": header(keys=1, rest=text("a") + struct.pack("<I", 77) + bytes(9)),
    "a name that is no text": header(keys=1, rest=struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<IB", 0, 0)),
    "a key twice": header(keys=2, rest=ARCH + ARCH),
    "an odd alignment": header(keys=1, rest=text("general.alignment") + struct.pack("<II", 4, 3)),
    "a large tensor": header(1, 1, rest=ARCH + tensor((1 << 40, 1 << 40)) + bytes(99)),
    "a tensor whose size wraps around": header(1, 1, rest=ARCH + tensor((1 << 32, 1 << 32)) + bytes(99)),
    "a far tensor": header(1, 1, rest=ARCH + tensor((4, 4), offset=HUGE) + bytes(99)),
    "an unknown type": header(1, 1, rest=ARCH + tensor((4, 4), kind=999) + bytes(99)),
    "no dimensions": header(1, 1, rest=ARCH + tensor(()) + bytes(99)),
    "too many dimensions": header(1, 1, rest=ARCH + tensor((1,) * 9) + bytes(99)),
    "half a block": header(1, 1, rest=ARCH + tensor((16, 4), kind=8) + bytes(99)),
    "a tensor twice": header(2, 1, rest=ARCH + tensor((4, 4)) * 2 + bytes(199)),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile(name: str, tmp_path: Path) -> None:
    assert "model.gguf" in refused(tmp_path / "model.gguf", HOSTILE[name])


def test_a_type_that_the_package_does_not_know(file: Path, tmp_path: Path) -> None:
    """A newer file, not a damaged one."""
    data = bytearray(file.read_bytes())
    tensor = gguf.GGUFReader(file).get_tensor(0).field
    at = tensor.offset + sum(part.nbytes for part in tensor.parts[:4])
    data[at : at + 4] = struct.pack("<I", 9999)
    (tmp_path / "new.gguf").write_bytes(data)
    with pytest.raises(AgqError, match=rf"`{tensor.name}` of `.*` has type 9999, which the `gguf` package") as error:
        GgufFile(tmp_path / "new.gguf")
    assert "newer" in str(error.value.hint)


def test_big_endian(tmp_path: Path) -> None:
    message = refused(tmp_path / "model.gguf", b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    assert "big-endian" in message


def test_cut_off(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    end = max(item.data_offset + item.n_bytes for item in GgufFile(file)._readers[0].tensors)  # padding follows
    for length in sorted({*range(0, 400, 13), *range(400, end, end // 40), end - 1}):
        refused(tmp_path / "model.gguf", data[:length])


def test_flipped_bytes(file: Path, tmp_path: Path) -> None:
    """A damaged file is read, or refused in one line; nothing else happens."""
    data = file.read_bytes()
    start = GgufFile(file)._readers[0].data_offset
    rng = np.random.default_rng(5)
    path = tmp_path / "model.gguf"
    found = 0
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            # Mostly outside the vocabulary's texts, which take most of the header.
            at = (
                int(rng.integers(0, start))
                if rng.random() < 0.3
                else int(rng.choice([*range(900), *range(start - 900, start)]))
            )
            changed[at] = rng.integers(0, 256)
        path.write_bytes(bytes(changed))
        try:
            everything(path)
        except AgqError as error:
            found += 1
            assert "\n" not in error.message
    assert found > 30


def test_values_of_the_wrong_kind(tmp_path: Path) -> None:
    for key, value in (
        ("llama.block_count", "three"),
        ("llama.attention.head_count", [4, 2]),
        ("llama.context_length", -1),
    ):
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        kinds = {str: writer.add_string, list: writer.add_array, int: writer.add_int32}
        given = {"llama.embedding_length": 64, "llama.block_count": 1, "llama.attention.head_count": 4}
        given |= {"llama.feed_forward_length": 96, "llama.context_length": 64, key: value}
        for name, item in given.items():
            kinds[type(item)](name, item)
        tokenizer(writer, 301)
        writer.add_tensor("token_embd.weight", np.zeros((301, 64), np.float32))
        for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            step()
        writer.close()
        with pytest.raises(AgqError, match=key):
            open_source(path)


def test_missing_and_misshapen_tensors(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    assert "lacks 1 tensors: `blk.0.ffn_down.weight`" in refused(
        tmp_path / "model.gguf", data.replace(b"blk.0.ffn_down.weight", b"blk.0.ffn_gone.weight")
    )
    swapped = data.replace(b"blk.0.ffn_down", b"blk.0.ffn_xxxx").replace(b"blk.0.ffn_gate", b"blk.0.ffn_down")
    assert "is of shape [96, 64], not [64, 96]" in refused(
        tmp_path / "model.gguf", swapped.replace(b"blk.0.ffn_xxxx", b"blk.0.ffn_gate")
    )


def test_scales_that_are_not_finite(file: Path, tmp_path: Path) -> None:
    reader = GgufFile(file)
    item = next(each for each in reader._readers[0].tensors if each.name == "blk.0.attn_v.weight")
    data = bytearray(file.read_bytes())
    data[item.data_offset : item.data_offset + 2] = np.array([np.inf], np.float16).tobytes()
    assert "scales of tensor `blk.0.attn_v.weight` are not finite" in refused(tmp_path / "model.gguf", bytes(data))


# ---- names and parts


def test_which_files_are_gguf(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "weights.bin"
    shutil.copyfile(file, other)
    (tmp_path / "x.gguf").write_text("no")
    (tmp_path / "folder.gguf").mkdir()
    assert is_gguf(file) and is_gguf(other) and is_gguf(tmp_path / "x.gguf")
    assert not is_gguf(tmp_path / "none.gguf") and not is_gguf(tmp_path / "folder.gguf") and not is_gguf(__file__)
    assert open_source(other).spec == open_source(file).spec
    names = ("a-00002-of-00003.gguf", "b.Q4_0.gguf", "c.bin", "d-1-of-2.gguf")
    assert [stem(Path(name)) for name in names] == ["a", "b.Q4_0", "c.bin", "d-1-of-2"]


def split(file: Path, folder: Path) -> list[Path]:
    """The model in parts, as llama.cpp's splitting tool names and counts them."""
    whole = GgufFile(file)
    writer = gguf.GGUFWriter(folder / "part.gguf", "llama", split_max_tensors=5)
    for key in whole.keys():
        field = whole._fields[key]
        if key != "general.architecture":
            kind: Any = field.types[0]
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, whole.get(key), kind, sub_type=sub)
    for item in whole.tensors.values():
        writer.add_tensor(item.name, np.array(item.data), raw_dtype=item.kind)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    return sorted(folder.glob("part-*.gguf"))


def test_parts(file: Path, tmp_path: Path) -> None:
    parts = split(file, tmp_path)
    assert len(parts) == 3
    whole = open_source(file)
    for part in parts:
        found = open_source(part)
        assert found.files() == parts and split_parts(part) == parts and found.spec == whole.spec
        for name in whole.names():
            assert np.array_equal(found.read(name), whole.read(name))
    assert stem(parts[1]) == "part"
    renamed = tmp_path / "other.gguf"
    shutil.copyfile(parts[0], renamed)
    with pytest.raises(AgqError, match="is one of 3 parts, and is not named as one"):
        open_source(renamed)
    parts[1].unlink()
    with pytest.raises(AgqError, match=r"`part-00002-of-00003.gguf` is missing"):
        open_source(parts[2])
    (tmp_path / "part-00007-of-00003.gguf").write_bytes(parts[0].read_bytes())
    with pytest.raises(AgqError, match="part 7 of 3"):
        open_source(tmp_path / "part-00007-of-00003.gguf")
