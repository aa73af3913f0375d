"""A short model that quantizes in a second or two."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.quantization.quantization_support import cut_model


@pytest.fixture(scope="session")
def short_model(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two of the demo model's six blocks, with its tokenizer: hidden 256, feed-forward 768."""
    return cut_model(demo_model, tmp_path_factory.mktemp("short") / "llama-short", layers=2)
