"""Values of a `quantization_config`, read by their types."""

from collections.abc import Mapping
from typing import Any

from agq.errors import AgqError
from agq.formats import PER_ROW, Granularity, PerGroup
from agq.formats.limits import GROUP

# How these configs write a whole row.
WHOLE = -1


def flag(table: Mapping[str, Any], key: str, usual: bool, where: str) -> bool:
    """A truth value; `usual` where the table has none."""
    value = table.get(key)
    if value is None:
        return usual
    if type(value) is not bool:
        raise AgqError(f"{where}: `{key}` is {value!r}, not true or false")
    return value


def width(table: Mapping[str, Any], known: tuple[int, ...], where: str) -> int:
    """`bits`, one of those that are read."""
    bits = table.get("bits")
    if type(bits) is not int or bits not in known:
        listed = ", ".join(map(str, known))
        raise AgqError(f"{where}: codes of {bits!r} bits are not read", hint=f"read: {listed} bits")
    return bits


def granularity(table: Mapping[str, Any], where: str) -> Granularity:
    """`group_size`: columns that share a scale."""
    size = table.get("group_size")
    if type(size) is not int or not (size == WHOLE or 0 < size <= GROUP):
        raise AgqError(f"{where}: `group_size` is {size!r}, not {WHOLE} (a whole row) or a number of columns")
    return PER_ROW if size == WHOLE else PerGroup(size)


def name(table: Mapping[str, Any], keys: tuple[str, ...], usual: str) -> str:
    """The first of these keys that the table has, in lower case."""
    found = next((table[key] for key in keys if table.get(key) is not None), usual)
    return str(found).lower()
