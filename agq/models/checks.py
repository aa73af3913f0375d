"""Checks of the values of a model description: AgqError with the field's name for what is out of its range."""

import math
import struct
from dataclasses import fields
from typing import Any

from agq.errors import AgqError


def float32(value: float) -> float:
    """The float32 nearest to `value` (infinity where it is too large)."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
        return rounded
    except OverflowError:
        return math.copysign(math.inf, value)


def number(value: Any, name: str, low: float, high: float) -> None:
    """A number in low..high."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise AgqError(f"model description: `{name}` is {value!r}, not a number between {low:g} and {high:g}")


def integer(value: Any, name: str, low: int, high: int) -> None:
    """An integer in low..high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise AgqError(f"model description: `{name}` is {value!r}, not an integer between {low} and {high}")


def one_of(value: Any, name: str, choices: tuple[str, ...]) -> None:
    """One of the texts `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise AgqError(f"model description: `{name}` is {value!r}, not one of {', '.join(choices)}")


def flags(item: Any) -> None:
    """Every field of a dataclass that is declared as bool holds one."""
    for each in fields(item):
        if each.type in (bool, "bool") and not isinstance(getattr(item, each.name), bool):
            raise AgqError(f"model description: `{each.name}` must be true or false")


def tuples(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields that are tuples, which JSON has as lists."""
    for item in fields(kind):
        if str(item.type).startswith("tuple") and item.name in found:
            if not isinstance(found[item.name], (list, tuple)):
                raise AgqError(f"model description: `{item.name}` is not a list")
            found[item.name] = tuple(found[item.name])
    return found
