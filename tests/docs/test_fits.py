"""What fits on which Raspberry Pi: README's table is what the script prints, and the script's sizes are real ones."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import agq
from agq.runtime.engine import Engine
from tests.support import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "fits.py"


@pytest.fixture(scope="module")
def fits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fits", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fits"] = module
    spec.loader.exec_module(module)
    return module


def test_readme_has_the_table_that_the_script_prints() -> None:
    printed = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("| model |") and printed in (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_sizes_are_those_of_the_demo_model(
    fits: ModuleType, demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotated model, as the default makes it."""
    agq.quantize(demo_model, tmp_path / "q", preset="w4a8", method="rtn", tune=0, calibration=None, scale=False,
                 scale_norms=False, shift=False)  # fmt: skip
    report = agq.pack(tmp_path / "q", tmp_path / "demo.agq.safetensors")
    shape = fits.Shape(256, 6, 4, 2, 64, 768, 8192, merges=13159)
    assert report.bytes == pytest.approx(shape.file, rel=0.02)
    assert shape.parameters == pytest.approx(6_819_072, rel=0.001)
    with Engine(tmp_path / "demo.agq.safetensors", context=1024) as engine:
        assert engine.kv_bytes * fits.TOKENS / 1024 == pytest.approx(shape.cache, rel=0.07)
        assert engine.workspace_bytes == pytest.approx(shape.workspace, rel=0.3)
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)  # coverage's own memory would be measured, too
    computed, measured = fits.measure(tmp_path / "demo.agq.safetensors")
    assert measured == pytest.approx(computed, rel=0.1), "almost all of it is Python"
    assert computed == pytest.approx(shape.run, rel=0.02)
