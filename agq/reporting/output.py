"""The standard output stream: JSON that every reader accepts, tables, sizes for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agq.reporting.console import rich_console

_LEAST = 8  # columns of the terminal for a cell whose words can go on in the next line


def plain(value: Any) -> Any:
    """JSON types only: NaN and infinities become None (JSON has no word for them), numpy scalars and arrays plain
    numbers.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def dumps(value: Any) -> str:
    """One line of JSON."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def print_json(value: Any) -> None:
    """One object on one line of stdout, flushed."""
    sys.stdout.write(dumps(value) + "\n")
    sys.stdout.flush()


def human_size(nbytes: int | float) -> str:
    """Decimal units, as disks are sold: 13638144 -> "13.6 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(nbytes) < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "bytes" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def counted(number: int, word: str) -> str:
    """ "1 token", "2 tokens"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    title: str | None = None,
    right: Sequence[int] = (),
    least: Sequence[str] = (),
) -> None:
    """A table on stdout. `right`: indices of the columns to align right; None in a cell is shown as "-". `least`:
    columns that a terminal which is too narrow goes without, where there are such, the first of them first; a line
    below names them. The first column, which names the rows, is broken last."""
    from rich import box
    from rich.table import Table

    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    console = rich_console(sys.stdout)
    kept = list(range(len(columns)))
    for name in (name for name in least if name in columns):
        if _table_width([columns[index] for index in kept], [[row[index] for index in kept] for row in cells]) > (
            console.width
        ):
            kept.remove(columns.index(name))
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    narrow = [[row[i] if i in {0, *right} else row[i][:_LEAST] for i in kept] for row in cells]
    first_whole = _table_width([""] * len(kept), narrow) <= console.width
    for index in kept:
        # "fold": on a narrow terminal a long word goes on in the next line; by default its end would be cut off.
        whole = first_whole if index == 0 else index in right
        table.add_column(columns[index], justify="right" if index in right else "left", no_wrap=whole, overflow="fold")
    for row in cells:
        table.add_row(*(_escaped(row[index]) for index in kept))
    console.print(table)
    if left_out := [name for index, name in enumerate(columns) if index not in kept]:
        console.print(f"(a wider terminal shows also: {', '.join(left_out)})")


def _table_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Columns of the terminal that a table takes: with an edge of one on each side, and three between two."""
    widths = [max(len(text) for text in column) for column in zip(columns, *rows, strict=True)]
    return sum(widths) + 3 * (len(widths) - 1) + 2


def print_pairs(pairs: Mapping[str, Any] | Iterable[tuple[str, Any]], title: str | None = None) -> None:
    """Names and values in two columns on stdout; pairs whose value is None are left out. Plain text, no wrapping: easy
    to grep.
    """
    items = list(pairs.items()) if isinstance(pairs, Mapping) else list(pairs)
    items = [(name, value) for name, value in items if value is not None]
    width = max((len(name) for name, _ in items), default=0)
    if title:
        print(title)
    for name, value in items:
        print(f"{name:<{width}}  {value}")


def _escaped(cell: Any) -> str:
    return str(cell).replace("[", "\\[")
