"""What is taken from the results of a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agq.errors import AgqError
from agq.planning.accuracy import Accuracy, accuracies


def record(row: str, ppl: dict[str, float], model: str = "m", **options: Any) -> dict[str, Any]:
    texts = {name: {"ppl": value} for name, value in ppl.items()}
    return {"model": model, "row": row, "options": options, "prune": None, "texts": texts}


RECORDS = [
    record("bf16", {"a": 10.0, "b": 20.0}),
    record("other seed", {"a": 30.0, "b": 20.0}, scheme="W4A8", seed=7),
    record("W8A8", {"a": 10.1, "b": 20.4}, preset="w8a8"),
    {**record("W4A4", {"a": 12.0, "b": 21.0}, preset="w4a4-offline"), "activation_bits": 4.58},
    record("W4A4 online", {"a": 11.0, "b": 21.0}, preset="w4a4"),
    record("W4A16", {"a": 11.0}, scheme="W4A16"),
    record("bf16", {"a": 1.0}, model="n"),
    record("W4A8", {"a": 9.0}, model="n", scheme="W4A8"),
    {**record("pruned", {"a": 9.0}, scheme="W8A16"), "prune": "3-5:0.3"},
    {**record("failed", {}, scheme="W8A16"), "error": "no"},
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"records": RECORDS}))
    return path


def test_the_worst_text_of_the_plainest_row(results: Path) -> None:
    found = accuracies(["M"], results)
    assert found["W8A8"] == Accuracy(pytest.approx(1.02), "b", "results.json, m, row W8A8")
    assert found["W4A4"].ratio == pytest.approx(1.2) and found["W4A4"].source.endswith("row W4A4")
    assert found["W4A4"].activation_bits == 4.58 and found["W8A8"].activation_bits is None
    assert found["W4A16"].ratio == pytest.approx(1.1)
    assert set(found) == {"W8A8", "W4A4", "W4A16"}
    assert accuracies(["absent", "n"], results)["W4A8"].ratio == 9


def test_files_that_do_not_serve(results: Path, tmp_path: Path) -> None:
    with pytest.raises(AgqError, match="has no results of `x`") as caught:
        accuracies(["x"], results)
    assert caught.value.hint == "it has those of `m`, `n`"
    other = tmp_path / "other.json"
    for text in ("{", "[]", '{"records": [{}]}', '{"records": {"a": 1}}'):
        other.write_text(text)
        with pytest.raises(AgqError, match="is not the results of a sweep"):
            accuracies(["m"], other)
    with pytest.raises(AgqError, match="is not the results of a sweep"):
        accuracies(["m"], tmp_path / "absent.json")


def test_the_results_of_the_docs_are_for_their_models() -> None:
    found = accuracies(["llama-30m"])
    assert found["W4A8"].ratio == pytest.approx(1.0139, abs=5e-5)
    assert found["W4A8"].source == "results.json, llama-30m, row W4A8"
    assert accuracies(["llama-7b"]) == {}
