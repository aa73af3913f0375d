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


def newest(item: Any) -> int:
    """The latest ABI from which on an added field exists that has not its default; 0 without one."""
    changed = [each for each in fields(item) if getattr(item, each.name) != each.default]
    return max((each.metadata.get(_SINCE, 0) for each in changed), default=0)


def read(
    kind: Any, values: Any, where: str, keys: Mapping[str, str] | None = None, complete: bool = False
) -> dict[str, Any]:
    """Arguments for the dataclass `kind` from parsed JSON; what has a default may be missing.

    where: what it is, for messages. keys: of fields that the JSON names otherwise, its names. complete: only added
    fields may be missing, whatever has a default.

    Raises AgqError: not an object, a key that `kind` has no field for, a missing key that is needed.
    """
    if not isinstance(values, Mapping):
        raise AgqError(f"{where} is not an object")
    known = {(keys or {}).get(each.name, each.name): each for each in fields(kind)}
    if strange := sorted(str(key) for key in values if key not in known):
        raise AgqError(
            f"{where}: unknown {', '.join(f'`{key}`' for key in strange)}",
            hint="was the file written by a newer version of agq?",
        )
    needed = {
        key for key, each in known.items() if (_SINCE not in each.metadata if complete else each.default is MISSING)
    }
    if missing := [key for key in known if key in needed and key not in values]:
        raise AgqError(f"{where}: no {', '.join(f'`{key}`' for key in missing)}")
    return {known[key].name: value for key, value in values.items()}
