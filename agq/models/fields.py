"""Dataclasses that are stored as JSON, where later versions may have more fields than the files of earlier ones.

A field that is added gets a default that means "as before", and says from which ABI on it exists: `added(False, 5)`.
Older files lack it and read the default. A new file names it only where it is not the default, so that what needs no
new feature is stored as it always was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from typing import Any

from agq.errors import AgqError

_SINCE = "since"


def added(default: Any, abi: int) -> Any:
    """A dataclass field that files have from `abi` on; default: what older files mean. Immutable."""
    return field(default=default, metadata={_SINCE: abi})


def stored(item: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, without added ones that have their default."""
    return {
        each.name: getattr(item, each.name)
        for each in fields(item)
        if _SINCE not in each.metadata or getattr(item, each.name) != each.default
    }


def read(kind: Any, values: Any, where: str) -> dict[str, Any]:
    """Arguments for the dataclass `kind` from parsed JSON; what has a default may be missing.

    where: what it is, for messages. Raises AgqError: not an object, a key that `kind` has no field for, a missing key
    without default.
    """
    if not isinstance(values, Mapping):
        raise AgqError(f"{where} is not an object")
    known = {each.name: each.default is MISSING for each in fields(kind)}
    if strange := sorted(str(key) for key in values if key not in known):
        raise AgqError(
            f"{where}: unknown {', '.join(f'`{key}`' for key in strange)}",
            hint="was the file written by a newer version of agq?",
        )
    if missing := [name for name, needed in known.items() if needed and name not in values]:
        raise AgqError(f"{where}: no {', '.join(f'`{key}`' for key in missing)}")
    return dict(values)
