"""Goes through a sweep. Finished entries are files: a killed sweep goes on where it stopped."""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from agq.errors import AgqError
from agq.files import atomic_write_text, sha256_file
from agq.hub import find_model
from agq.sweep.cells import make_cell, measure_speed
from agq.sweep.definition import ModelEntry, Row, Sweep
from agq.sweep.forecast import REST, Forecast, Told
from agq.version import __version__

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Called as (entries done, entries in all, what is being done).
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Place:
    """Where the files of one entry stand. source: the model's folder; key: of all that the entry depends on."""

    model: ModelEntry
    row: Row
    source: Path
    work: Path
    cell: Path
    key: str

    @property
    def name(self) -> str:
        return f"{self.model.name} / {self.row.name}"

    @property
    def baseline(self) -> Path:
        """The unquantized model, packed."""
        return self.work / "unquantized.agq.safetensors"

    @property
    def artifact(self) -> Path:
        """What the row makes, until its speed is measured."""
        return self.baseline if not self.row.options else self.work / f"{_file_name(self.row.name)}.agq.safetensors"

    def record(self) -> dict[str, Any] | None:
        """The entry's record, if it was made from the same things."""
        if not self.cell.exists():
            return None
        try:
            found = json.loads(self.cell.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AgqError(
                f"cannot read `{self.cell}`: {error}", hint="delete the file: its entry is then made again"
            ) from error
        return found if found.get("key") == self.key else None

    def write(self, record: dict[str, Any]) -> None:
        atomic_write_text(self.cell, json.dumps(record, indent=1) + "\n")


def run_sweep(
    sweep: Sweep,
    output: Path,
    report: Report | None = None,
    jobs: int = 1,
    foretell: Callable[[Callable[[], float | None]], None] | None = None,
) -> list[dict[str, Any]]:
    """Makes what is missing and returns the records of all entries, in the order of models and rows.

    output: folder for `cells/*.json` (finished entries), `work/` (artifacts of unquantized models, twins) and the
    results. An entry is made again when anything that its numbers depend on has changed. jobs: entries that are made at
    the same time, each in a process of its own (on the CUDA devices in turn); speeds are measured afterwards, one after
    the other. foretell: is given a function that tells the seconds that are left; not where several are made at the
    same time.

    Raises:
        AgqError: a model or text that cannot be read, disk full. An entry that cannot be made is a record with `error`.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / "cells").mkdir(exist_ok=True)
    places = _places(sweep, output, report)
    due = _due(places)
    done = len(places) - len(due)

    def say(what: str, of: str = "") -> None:
        if report is not None:
            report(done, len(places), f"{of}: {what}" if of else what)

    say("")
    if jobs == 1:
        forecast = Forecast([_expected(sweep, place) if foretell is not None else {} for place in due])
        if foretell is not None:
            foretell(forecast.left)
        for place in due:
            forecast.entry()
            _make(sweep, place, sweep.threads, partial(say, of=place.name), forecast)
            _add_speed(sweep, place, say)
            forecast.end()
            done += 1
    else:
        # The rows of a model are compared with its unquantized one. Ablations are the last to be missed where time runs
        # out.
        rows = sorted((place for place in due if not place.row.baseline), key=lambda place: place.row.ablation)
        for part in ([place for place in due if place.row.baseline], rows):
            for name in _make_many(sweep, part, jobs):
                done += 1
                say(name)
        for place in places:
            _add_speed(sweep, place, say)
    if report is not None:
        report(len(places), len(places), "done")
    return [place.record() or {} for place in places]


def with_kept(whole: Sweep, records: list[dict[str, Any]], output: Path) -> list[dict[str, Any]]:
    """`records` of a part of a sweep, and of its other entries those that an earlier run finished and that are still
    true, in the order of the whole."""
    found = {(record["model"], record["row"]): record for record in records if record}
    for model in whole.models:
        absent = [row for row in whole.rows_of(model) if (model.name, row.name) not in found]
        if not any(_cell(output, model, row).exists() for row in absent):
            continue
        with suppress(AgqError):  # the model is not there any more
            for place in _places(replace(whole, models=(model,)), output, None):
                if (record := place.record()) is not None:
                    found.setdefault((model.name, place.row.name), record)
    names = [(model.name, row.name) for model in whole.models for row in whole.rows_of(model)]
    return [found[name] for name in names if name in found]


def _cell(output: Path, model: ModelEntry, row: Row) -> Path:
    return output / "cells" / f"{_file_name(model.name)}--{_file_name(row.name)}.json"


def _places(sweep: Sweep, output: Path, report: Report | None) -> list[_Place]:
    from agq.checkpoint import open_checkpoint

    texts = {text.name: sha256_file(text.data) for text in sweep.texts if Path(text.data).is_file()}
    total = sum(len(sweep.rows_of(model)) for model in sweep.models)
    places = []

    def say(what: str, of: str) -> None:
        if report is not None:
            report(0, total, f"{of}: {what}")

    for model in sweep.models:
        work = output / "work" / _file_name(model.name)
        work.mkdir(parents=True, exist_ok=True)
        source = _source(model, work, partial(say, of=model.name))
        fingerprint = open_checkpoint(source).fingerprint()
        for row in sweep.rows_of(model):
            cell = _cell(output, model, row)
            places.append(
                _Place(model, row, source, work, cell, sweep.key(model, row, fingerprint, texts, __version__))
            )
    return places


def _expected(sweep: Sweep, place: _Place) -> dict[str, float]:
    from agq.checkpoint import open_checkpoint
    from agq.sweep.cost import expected_seconds

    try:
        return expected_seconds(sweep, place.model, place.row, open_checkpoint(place.source))
    except (AgqError, RuntimeError):  # the entry will say so; a busy GPU cannot be timed
        return {}


def _due(places: list[_Place]) -> list[_Place]:
    """The entries to make; of a model with any, the unquantized one too where its artifact is gone."""
    missing = {id(place) for place in places if place.record() is None}
    models = {place.model.name for place in places if id(place) in missing}
    return [
        place
        for place in places
        if id(place) in missing or (place.row.baseline and place.model.name in models and not place.baseline.exists())
    ]


def _make(
    sweep: Sweep,
    place: _Place,
    threads: int | None,
    say: Callable[[str], None],
    forecast: Forecast | None = None,
) -> str:
    """Makes an entry but for its speed; its artifact stays for that."""
    from agq.sweep.report import machine

    def rest(what: str) -> None:
        if forecast is not None:
            forecast.part(REST)
        say(what)

    told = Told(forecast, say) if forecast is not None else None
    made = make_cell(sweep, place.model, place.row, place.source, place.baseline, place.artifact, threads, rest, told)
    place.write({**made, "key": place.key, "version": __version__, "machine": machine()})
    return place.name


def _add_speed(sweep: Sweep, place: _Place, say: Callable[[str], None]) -> None:
    record = place.record()
    wanted = place.model.speed and not place.row.prune  # speeds are those of unpruned prompts
    missing = [name for name in ("prefill", "decode") if getattr(sweep, name) and name not in (record or {})]
    if record is not None and "error" not in record and wanted and missing and place.artifact.exists():
        say(f"{place.name}: speed")
        place.write({**record, **measure_speed(sweep, place.artifact)})
    if place.row.options:
        place.artifact.unlink(missing_ok=True)


def _make_many(sweep: Sweep, places: list[_Place], jobs: int) -> Any:
    """Makes entries in processes; yields their names as they are finished."""
    if not places:
        return
    context = get_context("spawn")
    jobs = min(jobs, len(places))
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    pool = ProcessPoolExecutor(jobs, context, _start_process, (context.Value("i", 0), threads))
    try:
        for future in as_completed([pool.submit(_make, sweep, place, threads, _silent) for place in places]):
            yield future.result()
    finally:
        # After an error or Ctrl-C nothing waits for what is being made.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            process.terminate()


def _silent(what: str) -> None:
    pass


def _start_process(counter: Any, threads: int) -> None:
    """The processes share the machine's cores evenly, and its CUDA devices in turn. Ctrl-C is the parent's to deal
    with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # When the parent is killed nobody else ends them.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    from agq.system.torch_threads import set_threads

    set_threads(threads)
    import torch

    with counter.get_lock():
        index = counter.value
        counter.value += 1
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(index % torch.cuda.device_count())


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
