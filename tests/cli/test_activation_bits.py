"""Where a perplexity of a W4A4 model is printed, its effective activation bits stand beside it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agq.cli.sweep import _print_results
from agq.sweep.report import _table

GOLDEN = Path(__file__).parent.parent / "golden" / "abi4"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text(" ".join(f"w{index % 90}" for index in range(200)))
    return path


@pytest.mark.parametrize(
    ("model", "line"), [("llama-w4a4", "activation bits  4"), ("opt-agile", "activation bits  5.5")]
)
def test_perplexity_and_info(call: Any, words: Path, model: str, line: str) -> None:
    path = GOLDEN / f"{model}.agq.safetensors"
    measured = call("eval-ppl", path, "--data", words, "--seq-len", 16, "--max-windows", 1)
    assert measured.code == 0, measured.err
    assert line in measured.out and "perplexity" in measured.out
    assert line in call("info", path).out
    found = json.loads(call("info", path, "--json").out)
    assert f"{found['activation_bits']:g}" == line.split()[-1] == found["activation_formats"]["words"]


def test_eight_bits_need_no_line(call: Any, words: Path) -> None:
    path = GOLDEN / "llama-w4a8.agq.safetensors"
    arguments = ("eval-ppl", path, "--data", words, "--seq-len", 16, "--max-windows", 1, "--baseline", path)
    shown = call(*arguments).out
    assert "activation bits " not in shown and "(packed, W4A8, 8 activation bits)" in shown
    record = json.loads(call(*arguments, "--json").out)
    assert record["activation_bits"] == record["baseline"]["activation_bits"] == 8


def test_the_end_of_quantizing(call: Any, demo_model: Path, tmp_path: Path) -> None:
    options = ("--scheme", "W4A4", "--preset", "rtn", "--method", "rtn", "--json")
    done = call("quantize", demo_model, *options, "-o", tmp_path / "model")
    assert done.code == 0, done.err
    assert "activation bits: 4\n" in done.err and json.loads(done.out)["activation_bits"] == 4


def test_the_table_of_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    names = {"W4A4": {"activation_bits": 4.58}, "bf16": {"activation_bits": None}, "old": {}}
    model, rows = SimpleNamespace(name="demo"), [SimpleNamespace(name=name) for name in names]
    sweep: Any = SimpleNamespace(texts=[SimpleNamespace(name="text")], models=[model], rows_of=lambda model: rows)
    common = {"model": "demo", "options": {}, "prune": None, "texts": {"text": {"ppl": 20.0}}, "kv_bits": 8}
    records = [{**common, "row": name, **more} for name, more in names.items()]
    lines = _table(sweep, model, rows, {("demo", record["row"]): record for record in records})  # type: ignore[arg-type]
    column = [cell.strip() for cell in lines[0].split("|")].index("abits")
    # The head of a text's two columns holds a bar of its own.
    assert [line.split("|")[column].strip() for line in lines[2:]] == ["4.58", "-", "?"]
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    _print_results(sweep, records)
    (shown,) = [line for line in capsys.readouterr().out.splitlines() if "W4A4" in line]
    assert "4.58" in shown
