"""Parsed YAML or JSON to dataclasses, strictly, with messages that name the place of what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from agq.errors import AgqError

# Where a value came from ("`x.yaml`, line 3: `gptq`"), given the path of keys that leads to it.
Place = Callable[[tuple[Any, ...]], str]
Path = tuple[Any, ...]


def in_recipe(path: Path) -> str:
    """The place of a value in a recipe that came from no file."""
    return f"recipe, `{dotted(path)}`" if path else "recipe"


def dotted(path: Path) -> str:
    """("overrides", 0, "scheme") -> "overrides[0].scheme"."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def at(place: Place, path: Path, make: Callable[[], Any]) -> Any:
    """`make()`, whose AgqError gets the place in front."""
    try:
        return make()
    except AgqError as error:
        raise AgqError(f"{place(path)}: {error.message}", error.hint) from None


def plain(item: Any) -> dict[str, Any]:
    """A flat dataclass as a dict."""
    return {field.name: getattr(item, field.name) for field in fields(item)}


def names(kind: Any) -> tuple[str, ...]:
    """Field names of a dataclass."""
    return tuple(field.name for field in fields(kind))


def table(data: Any, valid: tuple[str, ...], place: Place, path: Path) -> Mapping[str, Any]:
    """`data`, which must be a mapping with keys among `valid`; else AgqError naming the stranger and the valid ones."""
    if not isinstance(data, Mapping):
        raise AgqError(f"{place(path)}: expected a table of keys and values", hint=f"valid keys: {', '.join(valid)}")
    for key in data:
        if key not in valid:
            raise AgqError(f"{place((*path, key))}: unknown key", hint=f"valid keys: {', '.join(valid)}")
    return data


def sequence(data: Any, place: Place, path: Path) -> list[Any]:
    """`data`, which must be a list; else AgqError."""
    if not isinstance(data, list | tuple):
        raise AgqError(f"{place(path)} is not a list")
    return list(data)


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a text"),
    "str | None": ((str, type(None)), "a text"),
}


def typed(kind: Any, name: str, value: Any, place: Place, path: Path) -> Any:
    """`value`, which must fit the annotation of field `name` of dataclass `kind`; else AgqError."""
    annotation = next(field.type for field in fields(kind) if field.name == name)
    types, words = _TYPES[annotation]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise AgqError(f"{place(path)}: {value!r} is not {words}")
    return float(value) if annotation == "float" else value


def build(kind: Any, data: Any, place: Place, path: Path) -> Any:
    """The flat dataclass `kind` from a mapping; missing keys take their defaults. AgqError for anything that does not
    fit.
    """
    found = table(data, names(kind), place, path)
    values = {name: typed(kind, name, value, place, (*path, name)) for name, value in found.items()}
    return at(place, path, lambda: kind(**values))


def check_positive(item: Any, *names: str) -> None:
    """AgqError unless the named fields are at least 1."""
    for name in names:
        if getattr(item, name) < 1:
            raise AgqError(f"{name} is {getattr(item, name)}, not a positive number")
