"""MODEL means the same to every command that takes one: what is read, what is refused and named, what is not there."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest

COMMANDS = ("run", "info", "verify", "bench", "pack", "eval-ppl", "calibrate", "quantize")
# Those that begin with an unquantized model.
FROM_FLOATS = ("pack", "calibrate", "quantize")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are no models; their names are the words for them."""
    folder = tmp_path_factory.mktemp("others")
    with zipfile.ZipFile(folder / "a zip archive", "w") as made:
        made.writestr("readme.txt", b"x")
    written = {
        "a PyTorch checkpoint (pickle)": pickle.dumps({"a": list(range(99))}, protocol=2),
        "an ONNX model": b"\x08\x07\x12\x07pytorch\x1a\x032.1:\xff" + b"\0" * 64,
        "a JSON file": b'{"architectures": ["LlamaForCausalLM"]}',
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "a text file": "The river flows. \N{RIGHTWARDS ARROW}\n".encode(),
        "an empty file": b"",
    }
    for name, data in written.items():
        (folder / name).write_bytes(data)
    return folder


KINDS = (
    *("a zip archive", "a PyTorch checkpoint (pickle)", "an ONNX model", "a JSON file", "a Git LFS pointer"),
    *("a text file", "an empty file"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_files_of_other_kinds_are_named(call, others: Path, command: str) -> None:
    """Before anything else is looked at: `run` has no prompt here, `eval-ppl` no text."""
    assert {path.name for path in others.iterdir()} == set(KINDS)
    for kind in KINDS:
        result = call(command, others / kind)
        lines = result.err.splitlines()
        assert result.code in (1, 2) and result.out == "", kind
        assert f"` is {kind}" in lines[0] and lines[1].startswith("hint: "), result.err
        assert max(map(len, lines)) < 300


@pytest.mark.parametrize("command", COMMANDS)
def test_names_of_nothing(call, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "tiny.agq.safetensors").write_bytes(b"")
    near = call(command, "tiny.agq.safetensor")
    assert near.code == 1 and "did you mean `tiny.agq.safetensors`?" in near.err
    assert "did you mean `tinyllama-1.1b`" in call(command, "tinyllama-1.1").err
    assert "no such file or folder: `./none`" in call(command, "./none").err
    assert "no such file or folder: `out/none.gguf`" in call(command, "out/none.gguf").err
    assert "no local folder `agq-nobody/nothing`, and hub model" in call(command, "agq-nobody/nothing").err
    (tmp_path / "empty").mkdir()
    assert "folder `empty` has no config.json" in call(command, "empty").err


@pytest.mark.parametrize("command", FROM_FLOATS)
def test_packed_files_are_quantized_already(call, demo_artifact: Path, command: str) -> None:
    result = call(command, demo_artifact)
    assert result.code in (1, 2) and "is a safetensors file" in result.err
    assert "a packed file is quantized already" in result.err


@pytest.mark.parametrize("form", ["packed file", "folder", "recipe"])
def test_models_are_models_everywhere(call, demo_artifact: Path, short_model: Path, form: str, tmp_path: Path) -> None:
    model = {"packed file": demo_artifact, "folder": short_model, "recipe": "demo"}[form]
    assert call("run", model, "The river", "-n", 1).code == 0
    assert "llama" in call("info", model).out
    assert call("verify", model).out.endswith("ok\n")
    if form != "packed file":
        assert call("pack", model, "-o", tmp_path / "m.agq.safetensors").code == 0
        dry = call("quantize", model, "--method", "rtn", "-o", tmp_path / "q", "--dry-run")
        assert dry.code == 0, dry.err
