"""What makes wrong numbers is found: in a folder, in a packed file, by name, count and kind."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.artifact import open_artifact
from agq.artifact.header import canonical
from agq.artifact.layout import pack_codes, pack_rows, unpack_codes, unpack_rows
from agq.artifact.pack import pack
from agq.checkpoint import open_checkpoint
from agq.checkpoint.finite import count_not_finite
from agq.errors import AgqError
from agq.inspect.verify import told, verify
from agq.safetensors.files import SafetensorsFile, f32_to_bf16
from agq.safetensors.shards import Entry
from tests.artifact.test_reader import forged
from tests.checkpoint.folders import config, random_tensors, write_folder, write_quantized
from tests.checkpoint.test_left_out import entries, rewrite

BAD = (np.nan, -np.nan, np.inf, -np.inf)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_counting(dtype: str) -> None:
    values = np.zeros((5, 7), np.float32)
    values[2], values[4, :4] = 65504, BAD
    stored = f32_to_bf16(values) if dtype == "BF16" else values.astype({"F32": np.float32, "F16": np.float16}[dtype])
    assert count_not_finite(dtype, stored) == 4
    assert count_not_finite("I8", np.full(9, 127, np.int8)) == 0


# Name of a tensor, how many of its values become what.
FOLDERS = {
    "weight": ("model.layers.1.mlp.down_proj.weight", 3, np.nan),
    "norm": ("model.norm.weight", 1, -np.inf),
    "embedding": ("model.embed_tokens.weight", 2, np.inf),
    "beyond fp16": ("model.layers.0.input_layernorm.weight", 1, np.float32(1e5)),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_sources_are_refused_with_tensor_and_count(tmp_path: Path, name: str) -> None:
    tensor, count, value = FOLDERS[name]
    tensors = random_tensors(config("llama"), dtype="F16")
    values = tensors[tensor][1].copy()
    with np.errstate(over="ignore"):
        values.reshape(-1)[-count:] = np.float32(value).astype(np.float16)
    folder = write_folder(tmp_path / "m", config("llama"), tensors | {tensor: ("F16", values)})
    with pytest.raises(AgqError, match=rf"not finite in `{tensor}` \({count} of {values.size}\)"):
        open_checkpoint(folder).check_finite()
    with pytest.raises(AgqError, match=rf"`{tensor}` \({count} of"):
        pack(folder, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert f"{tensor}`: values that are not finite ({count})" in "".join(verify(folder)[1])


def changed(path: Path, change: Callable[[np.ndarray], None], name: str) -> Path:
    """A quantized folder in which tensor `name` is changed."""
    folder = write_quantized(path, config("llama", tie_word_embeddings=False))
    found = entries(folder / "model.safetensors")
    values = found[name].produce().copy()
    change(values)
    found[name] = Entry.of(name, found[name].dtype, values)
    rewrite(folder / "model.safetensors", found)
    return folder


def first(value: Any) -> Callable[[np.ndarray], None]:
    return lambda values: values.reshape(-1).__setitem__(0, value)


SCALE = "model.layers.0.mlp.up_proj.weight_scale"
QUANTIZED = {
    "scale NaN": (first(0x7FC0), SCALE, "negative or not finite"),
    "scale infinite": (first(0x7F80), SCALE, "negative or not finite"),
    "scale zero": (first(0), SCALE, r"zero where codes are not \(1\)"),
    "norm NaN": (first(0x7FC0), "model.norm.weight", r"values that are not finite \(1\)"),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_folders(tmp_path: Path, name: str) -> None:
    change, tensor, problem = QUANTIZED[name]
    folder = changed(tmp_path / "q", change, tensor)
    (found,) = verify(folder)[1]
    assert tensor in found and re.search(problem, found), found


# ---- packed files


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Asymmetric 4-bit weights, biases, an embedding of its own."""
    folder = tmp_path_factory.mktemp("packed")
    settings = config("opt", tie_word_embeddings=False)
    pack(write_quantized(folder / "q", settings, symmetric=False), folder / "a")
    return folder / "a"


def damaged(source: Path, target: Path, name: str, change: Callable[[np.ndarray], None]) -> Path:
    """The file with a tensor changed, and hashes that fit."""
    file = SafetensorsFile(source)
    info = file.tensors[name]
    start, stop = file.header.data_start + info.start, file.header.data_start + info.stop
    content = bytearray(source.read_bytes())
    kind = {"f32": np.float32, "bf16": np.uint16, "i8": np.int8, "u4": np.uint8}[
        open_artifact(source).describe(name).dtype
    ]
    part = np.frombuffer(content, kind, (stop - start) // np.dtype(kind).itemsize, start)
    change(part)

    def rehash(header: dict[str, Any]) -> None:
        hashes = json.loads(header["__metadata__"]["agq.sha256"])
        hashes[name] = hashlib.sha256(content[start:stop]).hexdigest()
        header["__metadata__"]["agq.sha256"] = canonical(hashes)

    del file
    return forged(target, bytes(content), rehash)


FILES = {
    "scale NaN": ("blocks.1.up.scale", first(0x7FC0), "1 values that are not finite"),
    "bias infinite": ("blocks.0.qkv.bias", first(np.inf), "1 values that are not finite"),
    "norm NaN": ("final_norm.weight", lambda values: values[:2].fill(np.nan), "2 values that are not finite"),
    "embedding scale": ("embed.scale", first(np.nan), "1 values that are not finite"),
    "embedding scale zero": ("embed.scale", first(0), "1 are zero where codes are not"),
    "scale zero": ("blocks.1.up.scale", first(0), "1 are zero where codes are not"),
    "head's scale zero": ("head.scale", first(0), "1 are zero where codes are not"),
}


@pytest.mark.parametrize("name", FILES)
def test_packed_files(tmp_path: Path, packed: Path, name: str) -> None:
    tensor, change, problem = FILES[name]
    path = damaged(packed, tmp_path / "b", tensor, change)
    assert open_artifact(path).verify() == []
    assert verify(path)[1] == [f"tensor `{tensor}`: {problem}"]


def test_a_scale_of_zero_under_codes_of_zero_is_sound(tmp_path: Path, packed: Path) -> None:
    """As a row of zeros may have it: its codes are its zero points."""
    assert verify(packed)[1] == [] and told(packed) == []
    artifact, name = open_artifact(packed), "blocks.1.up"
    info = artifact.linears[name]
    row = pack_rows(np.arange(info.out)[:, None].repeat(info.groups, 1) == 5)

    def no_scales(values: np.ndarray) -> None:
        values[row] = 0

    path = damaged(packed, tmp_path / "s", f"{name}.scale", no_scales)
    assert verify(path)[1] == [f"tensor `{name}.scale`: {info.groups} are zero where codes are not"]

    def zeros(values: np.ndarray) -> None:
        codes = unpack_codes(info.format, values, info.out, info.inputs)
        middle = unpack_rows(artifact.tensor(f"{name}.zero"), info.out, info.groups) - np.int8(info.format.offset)
        assert middle[5].any()
        codes[5] = middle[5].repeat(info.inputs // info.groups)
        values[:] = pack_codes(info.format, codes)

    assert verify(damaged(path, tmp_path / "z", f"{name}.weight", zeros))[1] == []


def test_what_the_record_says(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path / "q", config("llama"))
    record = json.loads((folder / "agq.json").read_text()) if (folder / "agq.json").exists() else {"format": 1}
    record["report"] = {"numbers": {"dead_channels": 7, "taken_back": ["tuning: no nearer; the solver's instead"]}}
    (folder / "agq.json").write_text(json.dumps(record))
    lines = ["7 input channels that are always zero", "tuning: no nearer; the solver's instead"]
    assert verify(folder)[1] == [] and told(folder) == lines
    pack(folder, tmp_path / "a")
    assert told(tmp_path / "a") == lines
