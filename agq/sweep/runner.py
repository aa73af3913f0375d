"""Goes through a sweep, one entry after the other. Finished entries are files: a killed sweep goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agq import __version__
from agq.errors import AgqError
from agq.files import atomic_write_text, sha256_file
from agq.hub import find_model
from agq.sweep.cells import make_cell
from agq.sweep.definition import ModelEntry, Row, Sweep

# Called as (entries done, entries in all, what is being done).
Report = Callable[[int, int, str], None]


def run_sweep(sweep: Sweep, output: Path, report: Report | None = None) -> list[dict[str, Any]]:
    """Makes what is missing and returns the records of all entries, in the order of models and rows.

    output: folder for `cells/*.json` (finished entries), `work/` (artifacts of unquantized models, twins) and the results. An
    entry is made again when anything that its numbers depend on has changed.

    Raises:
        AgqError: a model or text that cannot be read, disk full. An entry that cannot be made is a record with `error`.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / "cells").mkdir(exist_ok=True)
    texts = {text.name: sha256_file(text.data) for text in sweep.texts if Path(text.data).is_file()}
    todo = [(model, row) for model in sweep.models for row in sweep.rows_of(model)]
    records = []
    for index, (model, row) in enumerate(todo):
        name = f"{model.name} / {row.name}"

        def say(what: str, name: str = name, index: int = index) -> None:
            if report is not None:
                report(index, len(todo), f"{name}: {what}")

        records.append(_entry(sweep, model, row, output, texts, say))
    if report is not None:
        report(len(todo), len(todo), "done")
    return records


def _entry(
    sweep: Sweep, model: ModelEntry, row: Row, output: Path, texts: dict[str, str], say: Callable[[str], None]
) -> dict[str, Any]:
    """A finished entry from its file, or a new one."""
    from agq.checkpoint import open_checkpoint

    work = output / "work" / _file_name(model.name)
    work.mkdir(parents=True, exist_ok=True)
    source = _source(model, work, say)
    key = sweep.key(model, row, open_checkpoint(source).fingerprint(), texts, __version__)
    path = output / "cells" / f"{_file_name(model.name)}--{_file_name(row.name)}.json"
    baseline = work / "unquantized.agq.safetensors"
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AgqError(f"cannot read `{path}`: {error}", hint="delete the file: its entry is then made again") from error
        if found.get("key") == key and (not row.baseline or baseline.exists()):
            return found
    record = {**make_cell(sweep, model, row, source, baseline, work, say), "key": key, "version": __version__}
    atomic_write_text(path, json.dumps(record, indent=1) + "\n")
    return record


def _source(model: ModelEntry, work: Path, say: Callable[[str], None]) -> Path:
    """The model's folder; of a twin, made once."""
    source, _ = find_model(model.path)
    if model.twin is None:
        return source
    twin = work / "twin"
    if not (twin / "config.json").exists():
        from agq.quantization.outliers import inject_outliers

        say("injecting outliers")
        inject_outliers(source, twin, seed=model.twin.seed, strengths=model.twin.strengths)
    return twin


def _file_name(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in name)
