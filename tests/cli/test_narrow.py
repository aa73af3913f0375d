"""Tables on narrow terminals: columns are left out, and names stay whole."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agq.cli.sweep import _print_results
from agq.reporting import console

WIDTHS = (80, 60, 40)


def shown(text: str) -> list[str]:
    """The lines of a table, without colours: those from its heading on."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
    rule = next(number for number, line in enumerate(lines) if "──" in line)
    return lines[rule - 1 :]


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of the terminal."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    return request.param


def test_info_of_a_file_and_of_a_folder(call: Any, demo_artifact: Path, demo_quantized: Path, width: int) -> None:
    """A folder's names have 37 columns: on 40 they are broken where nothing is left to leave out but the weights."""
    for model, name in ((demo_artifact, "blocks.0-5.down"), (demo_quantized, "model.layers.0-5.self_attn.q_proj")):
        done = call("info", model)
        assert done.code == 0, done.err
        table = shown(done.out)
        assert max(map(len, table)) <= width
        assert any(line.strip().startswith(name) for line in table) or (width == 40 and model == demo_quantized)


def test_a_dry_run(call: Any, demo_model: Path, demo_text: Path, width: int) -> None:
    done = call("quantize", demo_model, "--data", demo_text / "heldout.txt", "--samples", 2, "--dry-run")
    assert done.code == 0, done.err
    table = shown(done.out)[:9]
    assert max(map(len, table)) <= width and any("gate" in line for line in table)


def test_results_of_a_sweep(capsys: pytest.CaptureFixture[str], width: int) -> None:
    model = SimpleNamespace(name="llama-demo")
    rows = [SimpleNamespace(name="bf16"), SimpleNamespace(name="W4A8 best of 4")]
    sweep: Any = SimpleNamespace(texts=[SimpleNamespace(name="held-out")], models=[model], rows_of=lambda model: rows)
    texts = {"held-out": {"ppl": 131.25}}
    speeds = {"bits_per_weight": 4.125, "decode": 1900.0}
    records = [
        {"model": "llama-demo", "row": row.name, "options": {}, "prune": None, "texts": texts, "kl": 0.1} | speeds
        for row in rows
    ]
    _print_results(sweep, records)
    table = shown(capsys.readouterr().out)
    assert max(map(len, table)) <= width
    (line,) = [line for line in table if "W4A8 best of 4" in line]
    assert "131.25" in line and ("1,900" in line) == (width > 60)
