"""Parsed YAML or JSON to dataclasses, strictly, with messages that name the place of what is wrong.

A dataclass declares its keys once: the field's name is the key, its annotation the type, `setting` adds limits. Types
are int, float, bool, str, tuples of one of them, `| None`, and dataclasses, which are tables inside the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from agq.errors import AgqError

# Where a value came from ("`x.yaml`, line 3: `gptq`"), given the path of keys that leads to it.
Place = Callable[[tuple[Any, ...]], str]
Path = tuple[Any, ...]
_T = TypeVar("_T")

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def setting(
    default: Any = MISSING,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: Sequence[str] = (),
    hint: str | None = None,
    read: Callable[[Any, Place, Path], Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Any:
    """A dataclass field with its limits, which `check` enforces.

    Args:
        least, most: bounds of a number, both included. choices: the texts that are allowed. hint: for the error.
        read: makes the value from parsed YAML, (data, place, path) -> value; None: by the annotation.
        more: further metadata of the field.
    """
    limits = {"least": least, "most": most, "choices": tuple(choices), "hint": hint, "read": read}
    return field(default=default, metadata={**limits, **(more or {})})


def in_recipe(path: Path) -> str:
    """The place of a value in a recipe that came from no file."""
    return f"recipe, `{dotted(path)}`" if path else "recipe"


def dotted(path: Path) -> str:
    """("overrides", 0, "scheme") -> "overrides[0].scheme"."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def at(place: Place, path: Path, make: Callable[[], _T]) -> _T:
    """`make()`, whose AgqError gets the place in front."""
    try:
        return make()
    except AgqError as error:
        raise AgqError(f"{place(path)}: {error.message}", error.hint) from None


def nearest(name: str, valid: Iterable[str]) -> str:
    """The hint about an unknown name: the closest valid one, or all of them."""
    valid = list(valid)
    close = difflib.get_close_matches(str(name), valid, n=1)
    return f"did you mean `{close[0]}`?" if close else f"valid keys: {', '.join(valid)}"


def plain(item: Any) -> dict[str, Any]:
    """A dataclass as a dict of JSON types, its fields in their order. A part with a `to_dict` of its own is asked."""
    return {name: _plain(getattr(item, name)) for name in names(item)}


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return plain(value)
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def names(kind: Any) -> tuple[str, ...]:
    """Field names of a dataclass."""
    return tuple(field.name for field in fields(kind))


def table(data: Any, valid: tuple[str, ...], place: Place, path: Path) -> Mapping[str, Any]:
    """`data`, which must be a mapping with keys among `valid`; else AgqError naming the stranger and the valid ones."""
    if not isinstance(data, Mapping):
        raise AgqError(f"{place(path)}: expected a table of keys and values", hint=f"valid keys: {', '.join(valid)}")
    for key in data:
        if key not in valid:
            raise AgqError(f"{place((*path, key))}: unknown key", hint=nearest(key, valid))
    return data


def sequence(data: Any, place: Place, path: Path) -> list[Any]:
    """`data`, which must be a list; else AgqError."""
    if not isinstance(data, list | tuple):
        raise AgqError(f"{place(path)} is not a list")
    return list(data)


def types(kind: Any) -> dict[str, Any]:
    """Field name -> type of a dataclass."""
    return _types(kind)


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def typed(kind: Any, name: str, value: Any, place: Place, path: Path) -> Any:
    """`value`, which must fit the annotation of field `name` of dataclass `kind`; else AgqError."""
    return convert(types(kind)[name], value, place, path)


def convert(kind: Any, value: Any, place: Place, path: Path) -> Any:
    """`value` as type `kind` (see the module's first lines); whole numbers are taken for float. Raises AgqError."""
    if get_origin(kind) in (Union, UnionType):
        wanted = [part for part in get_args(kind) if part is not NoneType]
        if value is None and len(wanted) < len(get_args(kind)):
            return None
        for part in wanted[:-1]:
            if _is_a(part, value):
                return value
        if len(wanted) > 1 and not _is_a(wanted[-1], value):
            words = [_WORDS[part] for part in wanted if part in _WORDS]
            raise AgqError(f"{place(path)}: {value!r} is not {' or '.join(words)}")
        return convert(wanted[-1], value, place, path)
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        found = sequence(value, place, path)
        return tuple(convert(item, part, place, (*path, index)) for index, part in enumerate(found))
    if isinstance(kind, type) and is_dataclass(kind):
        return value if isinstance(value, kind) else build(kind, value, place, path)
    if not _is_a(kind, value):
        raise AgqError(f"{place(path)}: {value!r} is not {_WORDS[kind]}")
    return float(value) if kind is float else value


def _is_a(kind: Any, value: Any) -> bool:
    """A bool is no number here, a whole number is a number."""
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def build(kind: type[_T], data: Any, place: Place, path: Path) -> _T:
    """The dataclass `kind` from a mapping; missing keys take their defaults. AgqError for what does not fit."""
    found = table(data, names(kind), place, path)
    declared = {item.name: item for item in fields(cast(Any, kind))}
    for name, item in declared.items():
        if name not in found and item.default is MISSING and item.default_factory is MISSING:
            raise AgqError(f"{place(path)}: `{name}` is missing")
    values = {}
    for name, value in found.items():
        read = declared[name].metadata.get("read")
        where = (*path, name)
        values[name] = read(value, place, where) if read else typed(kind, name, value, place, where)
    return at(place, path, lambda: kind(**values))


def check(item: Any) -> None:
    """AgqError unless every field is within the limits that `setting` gave it (None is)."""
    for part in fields(item):
        value, limits = getattr(item, part.name), part.metadata
        if value is None:
            continue
        least, most = limits.get("least"), limits.get("most")
        if (least is not None and value < least) or (most is not None and value > most):
            raise AgqError(f"{part.name} is {value}, not {_range(least, most)}", hint=limits["hint"])
        if limits.get("choices") and value not in limits["choices"]:
            hint = limits["hint"] or f"one of {', '.join(limits['choices'])}"
            raise AgqError(f"{part.name} is `{value}`", hint=hint)


def _range(least: float | None, most: float | None) -> str:
    if most is not None:
        return f"between {least or 0:g} and {most:g}"
    words = {0.0: "0 or a positive number", 1.0: "a positive number"}
    return words.get(least or 0.0, f"{least} or more")
