"""What a sweep has measured of a model: how much perplexity each scheme costs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agq.errors import AgqError
from agq.files import read_input
from agq.recipe.changes import RecipeChanges
from agq.recipe.resolve import effective_recipe

# The results of the models of the documentation, in a source tree.
_KNOWN = Path(__file__).resolve().parents[2] / "docs" / "results.json"


@dataclass(frozen=True)
class Accuracy:
    """Perplexity over that of the unquantized model, the worst of the texts. text: which. source: where it stands.
    activation_bits: effective ones; None: floats, or an earlier version made the record."""

    ratio: float
    text: str
    source: str
    activation_bits: float | None = None


def accuracies(names: Iterable[str], path: Path | None = None) -> dict[str, Accuracy]:
    """Scheme -> what is known of the model that one of `names` means, from the results of a sweep. path: its
    `results.json`; None: that of the documentation, where it knows the model.

    Raises:
        AgqError: `path` is no such file, or knows other models only.
    """
    if path is None:
        return _read(_KNOWN, names) if _KNOWN.is_file() else {}
    found = _read(path, names)
    if not found:
        models = dict.fromkeys(str(record.get("model")) for record in _records(path))
        raise AgqError(
            f"`{path}` has no results of `{next(iter(names))}`",
            hint=f"it has those of {', '.join(f'`{name}`' for name in models)}",
        )
    return found


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(read_input(path))
        records = document["records"]
        assert all(isinstance(record["options"], dict) and isinstance(record["row"], str) for record in records)
    except (OSError, ValueError, LookupError, TypeError, AssertionError):
        raise AgqError(
            f"`{path}` is not the results of a sweep", hint="a sweep writes `results.json` into its folder"
        ) from None
    return list(records)


def _read(path: Path, names: Iterable[str]) -> dict[str, Accuracy]:
    wanted = {name.lower() for name in names if name}
    mine = [record for record in _records(path) if str(record.get("model")).lower() in wanted]
    base = next((record for record in mine if not record["options"] and not record.get("prune")), None)
    if base is None:
        return {}
    found: dict[str, Accuracy] = {}
    # Rows that change least beside the scheme come first.
    for record in sorted(mine, key=lambda item: len(item["options"])):
        scheme = _scheme(record)
        worst = _worst(record, base)
        source = f"{path.name}, {record['model']}, row {record['row']}"
        if scheme is not None and worst is not None:
            found.setdefault(scheme, Accuracy(*worst, source, record.get("activation_bits")))
    return found


def _scheme(record: dict[str, Any]) -> str | None:
    """The scheme of a row that says nothing but a scheme and its preset; None: another one, or one that failed."""
    options = record["options"]
    if not options or set(options) - {"preset", "scheme"} or record.get("prune") or "error" in record:
        return None
    try:
        return effective_recipe(None, RecipeChanges(**options)).scheme.name
    except AgqError:
        return None


def _worst(record: dict[str, Any], base: dict[str, Any]) -> tuple[float, str] | None:
    texts = base.get("texts", {})
    ratios = [
        (float(found["ppl"]) / float(texts[name]["ppl"]), name)
        for name, found in record.get("texts", {}).items()
        if name in texts
    ]
    return max(ratios, default=None)
