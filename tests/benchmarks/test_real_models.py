"""The table of a real model's files: types by name, ratios, what is better by size, rows of one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.test_benchmarks import module

pytestmark = pytest.mark.slow

TEXTS = ["a", "b"]


def row(model: str, name: str, program: str, size: int, *ppl: float) -> dict[str, Any]:
    return {
        "model": model, "name": name, "program": program, "bytes": size, "ppl": dict(zip(TEXTS, ppl, strict=True))
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
    llama = "llama.cpp"
    return [
        row("as it is", "Q4_0", llama, 92_000_000, 22, 44),
        row("as it is", "F32", llama, 540_000_000, 20, 40),
        row("twin", "F32", llama, 540_000_000, 30, 50),
        row("twin", "Q4_0", llama, 92_000_000, 36, 55),
        row("twin", "Q4_K_M", llama, 105_000_000, 31.5, 52.5),
    ]


def test_types_by_name() -> None:
    tool, types = module("real_models"), module("llama_types")
    assert tool.names_of(["Q8_0", "IQ4_NL"]) == ["F32", "Q8_0", "IQ4_NL", "IQ4_NL +i"]
    assert tool.names_of([]) == []
    assert [types.file_type(name) for name in ("F32", "Q4_0", "Q8_0", "Q3_K_M", "IQ4_NL")] == [0, 2, 7, 12, 25]
    with pytest.raises(ValueError, match="Q9_9"):
        tool.names_of(["Q9_9"])


def test_the_table() -> None:
    """Perplexities of the floats, ratios to those of the same model, one line a type, the largest first."""
    tool = module("real_models")
    lines = tool.table(tool.ratios(rows(), TEXTS), TEXTS)
    assert [line["type"] for line in lines] == ["F32", "Q4_K_M", "Q4_0"]
    assert list(lines[0].values())[2:] == ["540.0", "20.000", "40.000", "30.000", "50.000"]
    assert list(lines[1].values())[2:] == ["105.0", "-", "-", "1.0500", "1.0500"]
    assert list(lines[2].values())[2:] == ["92.0", "1.1000", "1.1000", "1.2000", "1.1000"]


@pytest.mark.parametrize(
    ("size", "ppl", "better"),
    [
        (92_000_000, (33, 52), {"Q4_0": True, "Q4_K_M": False}),
        (92_000_001, (33, 52), {"Q4_0": False, "Q4_K_M": False}),
        (92_000_000, (31, 51), {"Q4_0": True, "Q4_K_M": True}),
        (92_000_000, (33, 55), {"Q4_0": False, "Q4_K_M": False}),  # no better on one of the texts
    ],
)
def test_better_by_size(size: int, ppl: tuple[float, float], better: dict[str, bool]) -> None:
    tool = module("real_models")
    found = tool.by_size(tool.ratios([*rows(), row("twin", "W4A8", "agq", size, *ppl)], TEXTS), TEXTS)
    told = {key.split(" than ")[1].split(" (")[0]: value.startswith("W4A8 (") for key, value in found.items()}
    assert told == better
    assert tool.by_size(tool.ratios(rows(), TEXTS), TEXTS) == {}


def test_rows_are_kept(tmp_path: Path) -> None:
    """A row replaces an older one of its name; rows of another protocol are refused."""
    tool = module("real_models")
    path, (first, *_) = tmp_path / "rows.json", rows()
    results = tool.Results(path, {"windows": 4})
    results.add(first)
    results.add(first | {"bytes": 3})
    again = tool.Results(path, {"windows": 4})
    assert again.rows == [first | {"bytes": 3}] and again.find("twin", first["name"]) is None
    with pytest.raises(SystemExit, match="another protocol"):
        tool.Results(path, {"windows": 5})
