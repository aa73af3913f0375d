"""Helpers of the tests of quantization."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from agq.quantization.plan import Plan, plan
from agq.quantization.quantize import quantize
from agq.quantization.report import QuantizeReport
from agq.recipe.changes import RecipeChanges, RunOptions
from agq.recipe.declaration import given_to
from agq.reporting.progress import Progress
from tests.support import REPOSITORY

TEXT = REPOSITORY / "demo" / "text" / "calibration.txt"


def cut_model(source: Path, target: Path, layers: int) -> Path:
    """A copy of a LLaMA folder with its first `layers` blocks only."""
    target.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text()) | {"num_hidden_layers": layers}
    (target / "config.json").write_text(json.dumps(config))

    def kept(name: str) -> bool:
        return not name.startswith("model.layers.") or int(name.split(".")[2]) < layers

    tensors = load_file(source / "model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if kept(name)},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
    return target


def quantized(model: Path, output: Path, **options: Any) -> QuantizeReport:
    """A quick run on the demo's calibration text: 4 windows of 128 tokens."""
    if options.get("method") != "rtn":
        options = {"data": str(TEXT), "samples": 4, "seq_len": 128} | options
    return quantize(model, output, **options)


def planned(model: Path, output: Path, **options: Any) -> Plan:
    """The plan that `agq.quantize` would execute with these keywords."""
    changes, run = given_to(quantize, options, RecipeChanges, RunOptions)
    return plan(str(model), output, changes, run)


class Stop(Exception):
    """What `StopAt` raises."""


class StopAt(Progress):
    """Ends a run at the step whose text begins so."""

    def __init__(self, text: str) -> None:
        self.text = text

    def advance(self, text: str) -> None:
        if text.startswith(self.text):
            raise Stop


def contents(folder: Path) -> dict[str, bytes]:
    """File name -> bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two folders: a file's name, and both texts from a little before they part."""
    found = []
    first, second = contents(one), contents(other)
    for name in sorted({*first, *second}):
        both = [files.get(name, b"(no file)") for files in (first, second)]
        if both[0] != both[1]:
            pairs = enumerate(zip(*both, strict=False))
            start = max(0, next((i for i, (a, b) in pairs if a != b), min(map(len, both))) - 60)
            found.append(f"{name}: {both[0][start:][:120]!r}, {both[1][start:][:120]!r}")
    return found
