"""Folders of GGUF files for comparisons on real models, and their twins off the files' grids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agq.checkpoint import open_checkpoint
from agq.checkpoint.base import Checkpoint
from agq.files import sha256_file
from agq.gguf.checkpoint import GgufCheckpoint
from tests import families
from tests.benchmarks.test_benchmarks import module
from tests.gguf.gguf_files import types_of, write

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

Q = "model.layers.1.self_attn.q_proj.weight"
BF16 = 2.0**-8  # of a value: more than rounding to bfloat16 changes


def files(tmp_path: Path, type: str, family: str = "llama") -> tuple[Path, Checkpoint, Checkpoint]:
    """A GGUF file of a type, its folder, and the folder of its twin."""
    path = write(tmp_path / "model.gguf", families.make(families.Case(family, {})), family, types_of(type))
    source = module("gguf_folder").Source(path)
    for name, seed in (("plain", None), ("twin", 7)):
        source.write_folder(tmp_path / name, seed)
    return path, open_checkpoint(tmp_path / "plain"), open_checkpoint(tmp_path / "twin")


def test_the_folder_is_the_file(tmp_path: Path) -> None:
    path, plain, _ = files(tmp_path, "Q4_1")
    file = GgufCheckpoint(path, floats=True)
    for name in file.names():
        expected = file.read(name)
        assert plain.dtype(name) == "BF16" and plain.shape(name) == expected.shape
        assert np.allclose(plain.read(name), expected, rtol=BF16, atol=0)
    assert plain.text("tokenizer.json") == file.text("tokenizer.json")


@pytest.mark.parametrize("type", ["Q4_0", "Q4_1"])
def test_noise_within_half_a_step(tmp_path: Path, type: str) -> None:
    """Uniform on each weight of 4 bits, at its own block's step; rows in the folder's order."""
    path, plain, twin = files(tmp_path, type)
    scales = GgufCheckpoint(path).scales(Q.removesuffix(".weight")).scale
    step = np.repeat(np.abs(scales), 32, axis=1)
    before, after = plain.read(Q), twin.read(Q)
    moved = (after - before) / step
    slack = BF16 * (np.abs(before) + np.abs(after)) / step
    assert (np.abs(moved) <= 0.5 + slack).all()
    assert 0.8 < np.sqrt(12) * moved.std() < 1.2 and abs(moved.mean()) < 0.05
    assert np.corrcoef(moved[:, ::2].reshape(-1), moved[:, 1::2].reshape(-1))[0, 1] < 0.1


def test_what_is_moved(tmp_path: Path) -> None:
    """Types of more bits and norms stay; origin.json counts the rest."""
    path = write(
        tmp_path / "model.gguf",
        families.make(families.Case("llama", {})),
        "llama",
        lambda name, shape: types_of("Q8_0" if name == "token_embd.weight" else "Q4_1")(name, shape),
    )
    source = module("gguf_folder").Source(path)
    source.write_folder(tmp_path / "plain")
    source.write_folder(tmp_path / "twin", 7)
    plain, twin = open_checkpoint(tmp_path / "plain"), open_checkpoint(tmp_path / "twin")
    changed = [name for name in plain.names() if not np.array_equal(plain.read(name), twin.read(name))]
    assert Q in changed and "model.embed_tokens.weight" not in changed
    assert all(len(plain.shape(name)) == 2 for name in changed)
    origin = json.loads((tmp_path / "twin" / "origin.json").read_text())
    weights = sum(int(np.prod(plain.shape(name))) for name in changed)
    assert origin["moved"] == {"types": ["Q4_1"], "tensors": len(changed), "weights": weights}
    assert origin["seed"] == 7 and origin["source"] == {"model.gguf": sha256_file(path)}
    assert json.loads((tmp_path / "plain" / "origin.json").read_text())["moved"]["tensors"] == 0


def test_the_seed(tmp_path: Path) -> None:
    path, _, twin = files(tmp_path, "Q4_1")
    source = module("gguf_folder").Source(path)
    for name, seed in (("again", 7), ("other", 8)):
        source.write_folder(tmp_path / name, seed)
    again, other = open_checkpoint(tmp_path / "again"), open_checkpoint(tmp_path / "other")
    assert np.array_equal(again.read(Q), twin.read(Q))
    assert not np.array_equal(other.read(Q), twin.read(Q))


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_back_to_gguf(tmp_path: Path, family: str) -> None:
    """A file of floats that means the folder: names, order of rows, gains of norms."""
    path, _, twin = files(tmp_path, "Q4_1", family)
    made = module("gguf_folder").Source(path).write_gguf(tmp_path / "twin", tmp_path / "twin.gguf")
    floats = GgufCheckpoint(made, floats=True)
    assert sorted(floats.names()) == sorted(twin.names()) and floats.rounded == ""
    for name in twin.names():
        norm = name.endswith("norm.weight")  # Gemma's are stored as 1 + weight
        assert np.allclose(floats.read(name), twin.read(name), rtol=0, atol=1e-6 if norm else 0), name
