"""What a sweep compares: models, texts and rows, read from YAML. Plain data, no torch, no numpy.

A row is a name and the options that make it: those of a recipe (`agq.recipe.changes`), as `preset`, `scheme`, `method`,
`overrides`, and how it is run. The row without options is the unquantized model, which the others are compared with.
The fields of the dataclasses are the keys of the YAML, with their types and limits.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agq import structured
from agq.errors import AgqError
from agq.files import read_input, sha256_file
from agq.hub import find_model
from agq.recipe import Recipe
from agq.recipe.changes import RecipeChanges, RunOptions
from agq.recipe.declaration import section
from agq.recipe.files import located, not_yaml, split_sources
from agq.recipe.resolve import adjust_recipe
from agq.structured import setting
from agq.text.sources import NAMED, is_named, local_text

BASELINE = "bf16"


class _Entry:
    """What has a name and limits."""

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise AgqError("the name is empty")
        structured.check(self)


@dataclass(frozen=True)
class Twin:
    """A copy of a model with injected activation outliers that leave its function as it is
    (agq/quantization/outliers.py)."""

    seed: int = 0
    strengths: tuple[float, ...] = (8.0, 16.0, 30.0, 60.0)


@dataclass(frozen=True)
class ModelEntry(_Entry):
    """name: in the table; path: folder, recipe name or hub id; seq_len: tokens per window of calibration and
    evaluation;
    twin: of which outlier-injected copy this is, None: the model itself; rows: names of its rows, None: all; speed:
    whether speeds are measured (a twin's are those of its model)."""

    name: str
    path: str
    seq_len: int = setting(2048, least=2)
    twin: Twin | None = None
    rows: tuple[str, ...] | None = None
    speed: bool = True


@dataclass(frozen=True)
class TextEntry(_Entry):
    """name: in the table; data: as `agq eval-ppl` takes it; windows: the first so many are scored, None: all."""

    name: str
    data: str
    windows: int | None = setting(None, least=1)


@dataclass(frozen=True)
class RowOptions:
    """changes: of the recipe. run: how it is quantized and written."""

    changes: RecipeChanges = RecipeChanges()
    run: RunOptions = RunOptions()

    def __bool__(self) -> bool:
        return bool(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """What was given, by name."""
        return {**self.changes.given(), **self.run.given()}


def _row_options(data: Any, place: structured.Place, path: structured.Path) -> RowOptions:
    kinds = (RecipeChanges, RunOptions)
    table = structured.table(data or {}, tuple(name for kind in kinds for name in structured.names(kind)), place, path)
    parts = [{name: table[name] for name in structured.names(kind) if name in table} for kind in kinds]
    run = RunOptions.read(parts[1], place, path)
    if run.push is not None:
        raise AgqError(f"{place((*path, 'push'))}: a sweep keeps no folder that could be pushed")
    return RowOptions(RecipeChanges.read(parts[0], place, path), run)


def _calibration(data: Any, place: structured.Place, path: structured.Path) -> RecipeChanges:
    """The section of a recipe but for the windows' length, which is the model's."""
    names = [option.name for option in section(RecipeChanges.options(), "calibration") if option.name != "seq_len"]
    found = RecipeChanges.read(structured.table(data or {}, tuple(names), place, path), place, path)
    structured.at(place, path, lambda: adjust_recipe(Recipe(), found))
    return found


@dataclass(frozen=True)
class Row(_Entry):
    """name: in the table; options: what makes it; ablation: belongs to the second table; prune: token pruning of the
    evaluation, LAYERS:BETA as `agq eval-ppl` takes it."""

    name: str
    options: RowOptions = setting(RowOptions(), read=_row_options)
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
    calibration: RecipeChanges = setting(RecipeChanges(), read=_calibration)
    divergence_windows: int = setting(4, least=1)
    reference_windows: int = setting(2, least=0)
    prefill: int = setting(256, least=0)
    decode: int = setting(32, least=0)
    threads: int | None = setting(None, least=1)

    def __post_init__(self) -> None:
        structured.check(self)

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
            "row": [_by_content(row.options.to_dict()), row.prune],
            "texts": [
                [text.name, text.data if text.name not in texts else texts[text.name], text.windows]
                for text in self.texts
            ],
            "calibration": _by_content(self.calibration.given()),
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


def load_sweep(path: Path) -> Sweep:
    """Reads a sweep's YAML; paths that begin with ./ or ../ are relative to the file.

    Raises:
        AgqError: unreadable, an unknown key (with the valid ones), a value of the wrong type.
    """
    import yaml

    try:
        data = yaml.safe_load(read_input(path).decode("utf-8"))
    except OSError as error:
        raise AgqError(f"cannot read the sweep `{path}`: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise not_yaml(error, f"`{path}`") from None
    return parse_sweep(data, path.parent)


def parse_sweep(data: Any, folder: Path) -> Sweep:
    """A sweep from parsed YAML. Raises AgqError as `load_sweep`."""
    place = _places(data)
    keys = structured.names(Sweep)
    if isinstance(data, dict) and "models" not in data and isinstance(data.get("model"), str):
        raise AgqError("this is a recipe of one model, not a sweep", hint="`agq quantize` reads it with `config:`")
    table = structured.table(data, keys, place, ())
    for name in ("models", "texts", "rows"):
        if not table.get(name):
            raise AgqError(f"the sweep has no `{name}`", hint=f"keys: {', '.join(keys)}")
    sweep = structured.build(Sweep, table, place, ())
    names = [row.name for row in sweep.rows]
    if len(set(names)) != len(names):
        raise AgqError("two rows of the sweep have the same name")
    for index, model in enumerate(sweep.models):
        for name in model.rows or ():
            if name not in names:
                raise AgqError(
                    f"{place(('models', index))}: the sweep has no row `{name}`", hint=f"rows: {', '.join(names)}"
                )
    rows = tuple(
        replace(row, options=replace(row.options, changes=_located(row.options.changes, folder))) for row in sweep.rows
    )
    return replace(
        sweep,
        models=tuple(
            replace(model, path=located(model.path, folder), rows=model.rows or None) for model in sweep.models
        ),
        texts=tuple(replace(text, data=located(text.data, folder)) for text in sweep.texts),
        rows=rows if any(row.baseline for row in rows) else (Row(BASELINE), *rows),
        calibration=_located(sweep.calibration, folder),
    )


def _located(changes: RecipeChanges, folder: Path) -> RecipeChanges:
    return changes if changes.data is None else changes.but(data=located(changes.data, folder))


def check_reachable(sweep: Sweep) -> None:
    """AgqError for a model that is nowhere (a hub id is downloaded), or a text file that is not there."""
    for model in sweep.models:
        find_model(model.path)
    for text in sweep.texts:
        if not _is_downloaded(text):
            local_text(text.data)


def downloaded_texts(sweep: Sweep) -> bool:
    """Whether a text to evaluate on is a data set of the hub."""
    return any(map(_is_downloaded, sweep.texts))


def _is_downloaded(text: TextEntry) -> bool:
    return is_named(text.data, *NAMED, "c4-new")


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


def _places(data: Any) -> structured.Place:
    """Words for a place in the sweep: an entry by its name, where it has one."""

    def place(path: structured.Path) -> str:
        if len(path) < 2 or not isinstance(path[1], int):
            return f"the sweep, `{structured.dotted(path)}`" if path else "the sweep"
        entry = data[path[0]][path[1]]
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"{path[0].removesuffix('s')} `{name}` of the sweep" if name else f"the sweep, `{path[0]}[{path[1]}]`"
        return f"{where}, `{structured.dotted(path[2:])}`" if path[2:] else where

    return place
