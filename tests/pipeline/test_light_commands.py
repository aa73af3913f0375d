"""The commands for small machines never load torch, nor anything else that is heavy, and start fast because of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import clean_environment

pytestmark = pytest.mark.slow

HEAVY = {"torch", "transformers", "datasets", "pandas", "scipy", "huggingface_hub", "compressed_tensors"}

PROGRAM = """
import atexit, json, os, sys
def report():
    loaded = sorted({name.split(".")[0] for name in sys.modules})
    with open(os.environ["LOADED"], "w") as file: json.dump(loaded, file)
atexit.register(report)
sys.argv[0] = "agq"
from agq.cli import main
sys.exit(main())
"""


def modules_loaded_by(arguments: list[object], folder: Path) -> set[str]:
    loaded = folder / "loaded.json"
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env=clean_environment(LOADED=str(loaded), AGQ_CACHE_DIR=str(folder)),
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(loaded.read_text()))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["env"],
        ["quantize", "--help"],
        ["calibrate", "--help"],
        ["eval-ppl", "--help"],
        ["run", "ARTIFACT", "The red wolf", "-n", "4"],
        ["run", "FOLDER", "The red wolf", "-n", "4"],
        ["info", "ARTIFACT"],
        ["verify", "ARTIFACT"],
        ["pack", "FOLDER", "-o", "OUTPUT"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_nothing_heavy_is_loaded(
    arguments: list[str], demo_artifact: Path, demo_quantized: Path, tmp_path: Path
) -> None:
    names = {"ARTIFACT": demo_artifact, "FOLDER": demo_quantized, "OUTPUT": tmp_path / "packed.agq.safetensors"}
    loaded = modules_loaded_by([names.get(argument, argument) for argument in arguments], tmp_path)
    assert not loaded & HEAVY


def test_evaluating_an_artifact_needs_no_torch(demo_artifact: Path, demo_text: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text((demo_text / "heldout.txt").read_text(encoding="utf-8")[:6000], encoding="utf-8")
    loaded = modules_loaded_by(["eval-ppl", demo_artifact, "--data", text, "--seq-len", "512"], tmp_path)
    assert "torch" not in loaded
