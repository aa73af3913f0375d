"""A quantized model and its report, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from agq.report.make import Made, make


@pytest.fixture(scope="session")
def turned(short_model: Path, demo_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of the demo model as W4A4, rotated, with finer formats where 4 bits lose too much."""
    import agq

    text = str(demo_text / "calibration.txt")
    options = {"preset": "w4a4-offline", "tune": 0, "data": text, "samples": 2, "seq_len": 64, "rot_steps": 0}
    output = tmp_path_factory.mktemp("report") / "llama-w4a4"
    agq.quantize(short_model, output=output, **options)
    return output


@pytest.fixture(scope="session")
def packed(turned: Path) -> Path:
    """`turned`, packed."""
    import agq

    output = turned.with_name("llama-w4a4.agq.safetensors")
    agq.pack(turned, output)
    return output


@pytest.fixture(scope="session")
def made(turned: Path, short_model: Path, demo_text: Path) -> Made:
    """The report of `turned` against its original, on two windows of 64 tokens."""
    return make(turned, short_model, str(demo_text / "heldout.txt"), 64, 2)
