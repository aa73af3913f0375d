"""What a sweep compares: models, texts and rows, read from YAML. Plain data, no torch, no numpy.

A row is a name and the options of `agq.quantize` that make it (`preset`, `scheme`, `method`, `overrides`, ...); the row
without options is the unquantized model, which the others are compared with.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agq import structured
from agq.errors import AgqError
from agq.files import sha256_file
from agq.recipe.files import located, split_sources

BASELINE = "bf16"


@dataclass(frozen=True)
class Twin:
    """A copy of a model with injected activation outliers that leave its function as it is
    (agq/quantization/outliers.py)."""

    seed: int
    strengths: tuple[float, ...] = (8.0, 16.0, 30.0, 60.0)


@dataclass(frozen=True)
class ModelEntry:
    """name: in the table; path: folder, recipe name or hub id; seq_len: tokens per window of calibration and
    evaluation;
    twin: of which outlier-injected copy this is, None: the model itself; rows: names of its rows, None: all; speed:
    whether speeds are measured (a twin's are those of its model)."""

    name: str
    path: str
    seq_len: int = 2048
    twin: Twin | None = None
    rows: tuple[str, ...] | None = None
    speed: bool = True


@dataclass(frozen=True)
class TextEntry:
    """name: in the table; data: as of `agq eval-ppl --data`; windows: the first so many are scored, None: all."""

    name: str
    data: str
    windows: int | None = None


@dataclass(frozen=True)
class Row:
    """name: in the table; options: arguments of `agq.quantize`; ablation: belongs to the second table; prune: token
    pruning of the evaluation, as of `agq eval-ppl --prune`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    ablation: bool = False
    prune: str | None = None

    @property
    def baseline(self) -> bool:
        """The unquantized model."""
        return not self.options and self.prune is None


@dataclass(frozen=True)
class Sweep:
    """A whole comparison.

    calibration: `data`, `samples`, `seed` of all rows; divergence_windows: windows of the first text on which KL
    divergence and top-1 agreement with the unquantized model are measured; reference_windows: windows of every text
    that the torch reference computes too, 0: none; prefill, decode: tokens of the speed test, 0: none; threads: of
        engine and torch.
    """

    models: tuple[ModelEntry, ...]
    texts: tuple[TextEntry, ...]
    rows: tuple[Row, ...]
    calibration: dict[str, Any]
    divergence_windows: int = 4
    reference_windows: int = 2
    prefill: int = 256
    decode: int = 32
    threads: int | None = None

    def rows_of(self, model: ModelEntry) -> list[Row]:
        """The rows of a model, the unquantized one first."""
        wanted = [row for row in self.rows if model.rows is None or row.name in model.rows or row.baseline]
        return sorted(wanted, key=lambda row: not row.baseline)

    def key(self, model: ModelEntry, row: Row, fingerprint: str, texts: dict[str, str], version: str) -> str:
        """SHA-256 of all that an entry's numbers depend on; texts: name -> sha256 of the text, where it is a local
        file."""
        record = {
            "version": version,
            "model": fingerprint,
            "seq_len": model.seq_len,
            "row": [_by_content(row.options), row.prune],
            "texts": [
                [text.name, text.data if text.name not in texts else texts[text.name], text.windows]
                for text in self.texts
            ],
            "calibration": _by_content(self.calibration),
            "windows": [self.divergence_windows, self.reference_windows],
            "speed": [self.prefill, self.decode, self.threads],
        }
        return hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()


def _by_content(options: dict[str, Any]) -> dict[str, Any]:
    """`options` with the bytes of files in place of their paths, which mean nothing on another machine."""
    if not isinstance(options.get("data"), str):
        return options
    parts = [sha256_file(part) if Path(part).is_file() else part for part in split_sources(options["data"])]
    return {**options, "data": parts}


_KEYS = {
    "sweep": (
        "models",
        "texts",
        "rows",
        "calibration",
        "divergence_windows",
        "reference_windows",
        "prefill",
        "decode",
        "threads",
    ),
    "model": ("name", "path", "seq_len", "twin", "rows", "speed"),
    "twin": ("seed", "strengths"),
    "text": ("name", "data", "windows"),
    "row": ("name", "options", "ablation", "prune"),
    "calibration": ("data", "samples", "seed"),
}


def load_sweep(path: Path) -> Sweep:
    """Reads a sweep's YAML; paths that begin with ./ or ../ are relative to the file.

    Raises:
        AgqError: unreadable, an unknown key (with the valid ones), a value of the wrong type.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AgqError(f"cannot read the sweep `{path}`: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AgqError(f"`{path}` is not YAML: {str(error).splitlines()[0]}") from error
    return parse_sweep(data, path.parent)


def parse_sweep(data: Any, folder: Path) -> Sweep:
    """A sweep from parsed YAML. Raises AgqError as `load_sweep`."""
    table = structured.table(data, _KEYS["sweep"], _place, ())
    for name in ("models", "texts", "rows"):
        if not table.get(name):
            raise AgqError(f"the sweep has no `{name}`", hint=f"keys: {', '.join(_KEYS['sweep'])}")
    calibration = dict(structured.table(table.get("calibration") or {}, _KEYS["calibration"], _place, ("calibration",)))
    if isinstance(calibration.get("data"), str):
        calibration["data"] = located(calibration["data"], folder)
    rows = tuple(_row(item, ("rows", i), folder) for i, item in enumerate(table["rows"]))
    names = [row.name for row in rows]
    if len(set(names)) != len(names):
        raise AgqError("two rows of the sweep have the same name")
    if not any(row.baseline for row in rows):
        rows = (Row(BASELINE), *rows)
    models = tuple(_model(item, ("models", i), folder, names) for i, item in enumerate(table["models"]))
    texts = tuple(_text(item, ("texts", i), folder) for i, item in enumerate(table["texts"]))
    numbers = {}
    for name, least in (("divergence_windows", 1), ("reference_windows", 0), ("prefill", 0), ("decode", 0)):
        if name in table:
            value = table[name]
            if type(value) is not int or value < least:
                raise AgqError(f"`{name}` of the sweep is {value!r}, not a number from {least} on")
            numbers[name] = value
    return Sweep(models, texts, rows, calibration, threads=table.get("threads"), **numbers)


def select(sweep: Sweep, models: list[str] | None, rows: list[str] | None) -> Sweep:
    """The part of a sweep that names were given for; the unquantized row stays. Raises AgqError for an unknown name."""
    for kind, wanted, known in (
        ("model", models, [item.name for item in sweep.models]),
        ("row", rows, [item.name for item in sweep.rows]),
    ):
        for name in wanted or ():
            if name not in known:
                raise AgqError(f"the sweep has no {kind} `{name}`", hint=f"{kind}s: {', '.join(known)}")
    return replace(
        sweep,
        models=tuple(item for item in sweep.models if not models or item.name in models),
        rows=tuple(item for item in sweep.rows if not rows or item.name in rows or item.baseline),
    )


def _place(path: tuple[Any, ...]) -> str:
    return "the sweep" + "".join(f"[{part}]" if isinstance(part, int) else f" `{part}`" for part in path)


def _named(item: Any, kind: str, path: tuple[Any, ...]) -> dict[str, Any]:
    table = structured.table(item, _KEYS[kind], _place, path)
    if not isinstance(table.get("name"), str) or not table["name"]:
        raise AgqError(f"{_place(path)}: `name` is missing")
    return table


def _model(item: Any, path: tuple[Any, ...], folder: Path, rows: list[str]) -> ModelEntry:
    table = _named(item, "model", path)
    if not isinstance(table.get("path"), str):
        raise AgqError(f"{_place(path)}: `path` is missing")
    twin = None
    if table.get("twin") is not None:
        values = structured.table(table["twin"], _KEYS["twin"], _place, (*path, "twin"))
        twin = Twin(
            int(values.get("seed", 0)), tuple(float(value) for value in values.get("strengths", Twin(0).strengths))
        )
    wanted = table.get("rows")
    for name in wanted or ():
        if name not in rows:
            raise AgqError(f"{_place(path)}: the sweep has no row `{name}`", hint=f"rows: {', '.join(rows)}")
    return ModelEntry(
        table["name"], located(table["path"], folder), int(table.get("seq_len", 2048)), twin, tuple(wanted) if wanted else None,
        bool(table.get("speed", True)),
    )  # fmt: skip


def _text(item: Any, path: tuple[Any, ...], folder: Path) -> TextEntry:
    table = _named(item, "text", path)
    if not isinstance(table.get("data"), str):
        raise AgqError(f"{_place(path)}: `data` is missing")
    return TextEntry(table["name"], located(table["data"], folder), table.get("windows"))


def _row(item: Any, path: tuple[Any, ...], folder: Path) -> Row:
    table = _named(item, "row", path)
    options = table.get("options") or {}
    if not isinstance(options, dict):
        raise AgqError(f"{_place(path)}: `options` is not a table of arguments of quantize")
    if isinstance(options.get("data"), str):
        options = {**options, "data": located(options["data"], folder)}
    return Row(table["name"], dict(options), bool(table.get("ablation", False)), table.get("prune"))
