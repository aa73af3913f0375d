"""Reports of GGUF files, and of models that were quantized from one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agq.report.make import make
from tests import families
from tests.gguf.gguf_files import types_of, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return write(
        path, families.make(families.Case("llama", {"max_position_embeddings": 256})), "llama", types_of("Q8_0")
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("hello hello he said, and went on his way. " * 20)
    return str(path)


def test_the_original_is_computed_in_floats(file: Path, text: str, tmp_path: Path) -> None:
    """Packed, as other commands take it, its inputs would have 8 bits."""
    import agq

    agq.quantize(file, output=tmp_path / "q", method="rtn", scheme="W8A8")
    made = make(tmp_path / "q", file, text, 32, 1)
    assert made.losses is not None and made.losses.original is not None
    assert made.losses.original.form == "original" and made.losses.original.activation_bits is None
    assert made.losses.ratio == pytest.approx(1, abs=0.02)
    assert "original model was not named" not in " ".join(made.to_dict()["not_shown"])


def test_the_file_itself(file: Path, text: str, tmp_path: Path, call: Callable[..., Any]) -> None:
    done = call("report", file, "--data", text, "--seq-len", 32, "-o", tmp_path / "page.html", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["activation_bits"] == 8 and found["story"][0].startswith("This quantized model has a perplexity of ")
    assert any("does not say how it was made" in text for text in found["not_shown"])
