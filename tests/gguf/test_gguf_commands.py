"""The commands on a GGUF file, as a user types them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.artifact import open_artifact
from agq.checkpoint import open_checkpoint
from agq.gguf.opening import open_source
from agq.runtime.cache import open_model, packed_path
from tests import families
from tests.gguf.gguf_files import types_of, write
from tests.pipeline.test_light_commands import modules_loaded_by

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return write(
        path, families.make(families.Case("llama", {"max_position_embeddings": 256})), "llama", types_of("Q8_0")
    )


def test_packed_once_and_said(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGQ_CACHE_DIR", str(tmp_path))
    said: list[str] = []
    first = open_model(file, said.append)
    assert first.path == packed_path(file) and first.path.name.startswith("small-")
    assert len(said) == 2 and "(once" in said[0] and said[1].startswith("packed in ") and said[1].endswith(" MB")
    assert open_model(file, said.append).path == first.path and len(said) == 2
    changed = first.path.stat().st_mtime_ns
    file.touch()  # a file that was written again may hold something else
    assert open_model(file, said.append).path != first.path and len(said) == 4
    assert first.path.stat().st_mtime_ns == changed


def test_every_command(file: Path, agq_cli: Callable[..., Any], tmp_path: Path) -> None:
    output = tmp_path / "out.agq.safetensors"
    agq_cli("pack", file, "-o", output, check=True)
    assert open_artifact(output).verify() == []
    other = ("pack", file, "-o", tmp_path / "other.agq.safetensors", "--act-bits")
    assert "hint: `--act-bits` is 8 or 16" in agq_cli(*other, 4).stderr
    agq_cli(*other, 16, check=True)
    texts = [agq_cli("run", model, "he", "-n", "5", "--temp", "0", check=True).stdout for model in (file, output)]
    assert texts[0] == texts[1]
    info = json.loads(agq_cli("info", file, "--json", check=True).stdout)
    assert info["family"] == "llama"
    assert agq_cli("verify", file, check=True).stdout.strip().endswith("ok")
    text = tmp_path / "text.txt"
    text.write_text("hello hello he said, and went on his way. " * 60)
    results = [
        json.loads(agq_cli("eval-ppl", model, "--data", text, "--seq-len", "64", "--json", check=True).stdout)
        for model in (file, output)
    ]
    assert results[0]["ppl"] == results[1]["ppl"]
    bench = agq_cli(
        "bench", file, "-p", "8", "-n", "2", "-r", "1", "--no-limits", "--no-startup", "-o", "json", check=True
    )
    assert "decode" in bench.stdout


def test_quantize_starts_from_it(file: Path, agq_cli: Callable[..., Any], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("hello hello he said, and went on his way. " * 200)
    agq_cli("calibrate", file, "--samples", "4", "--seq-len", "64", "--data", text, check=True, cwd=tmp_path)
    options = ["--scheme", "W8A8", "--no-r1", "--calibration", tmp_path / "small-calibration.safetensors"]
    result = agq_cli("quantize", file, "-o", tmp_path / "out", *options, check=True)
    assert "quantized already (Q8_0)" in result.stderr
    folder, source = open_checkpoint(tmp_path / "out"), open_source(file, floats=True)
    assert folder.config["model_type"] == "llama" and folder.text("tokenizer.json") == source.text("tokenizer.json")
    name = "model.embed_tokens.weight"
    assert np.array_equal(folder.read(name), source.read(name))
    agq_cli("run", tmp_path / "out", "he", "-n", "3", check=True)
    search = ["--search-pruning", "--samples", "1", "--seq-len", "64", "--data", text]
    agq_cli("calibrate", file, *search, check=True, cwd=tmp_path)
    assert "pruning:" in (tmp_path / "small-pruning.yaml").read_text()


def test_errors_are_one_line(tmp_path: Path, agq_cli: Callable[..., Any]) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(40))
    for command in (
        ["run", path, "he"],
        ["info", path],
        ["verify", path],
        ["pack", path],
        ["eval-ppl", path],
        ["bench", path],
    ):
        result = agq_cli(*command, cwd=tmp_path)
        assert result.returncode == 1 and result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if line.startswith(("error:", "hint:"))]
        assert lines and lines[0].startswith("error:") and "broken.gguf" in lines[0]
        assert "Traceback" not in result.stderr


def test_a_packed_file_needs_no_gguf(file: Path, agq_cli: Callable[..., Any], tmp_path: Path) -> None:
    output = tmp_path / "out.agq.safetensors"
    agq_cli("pack", file, "-o", output, check=True)
    for arguments in (["run", output, "he", "-n", "2"], ["info", output], ["verify", output]):
        assert not {"gguf", "torch", "requests"} & modules_loaded_by(arguments, tmp_path)
    assert "torch" not in modules_loaded_by(["run", file, "he", "-n", "2"], tmp_path)
    assert "gguf" in sys.modules  # this process has read one
