"""What `agq recommend` and `agq fit` share: sizes that a user types, the list of machines."""

from __future__ import annotations

from typing import Any

from agq.errors import UsageError
from agq.recipe.target import SIZES
from agq.recipe.target import size_in_bytes as read_size
from agq.reporting.output import print_table


def size_in_bytes(text: str, name: str) -> int:
    """As agq.recipe.target reads it. name: of the option, for the error."""
    value = read_size(text)
    if value is None:
        raise UsageError(f"{name} is `{text}`, not a size", hint=SIZES)
    return value


def show_machines() -> None:
    """The machines that can be planned for."""
    from agq.planning.machines import machines

    rows = [
        [key, item.name, item.serves, ", ".join(f"{size}" for size in sorted(item.memory)), f"{item.bandwidth:g}"]
        for key, item in machines().items()
    ]
    print_table(["machine", "what it is", "runs", "GB", "GB/s"], rows, least=("GB/s", "runs"))


def machine_rows() -> list[dict[str, Any]]:
    """The same, JSON-ready."""
    from agq.planning.machines import machines

    return [
        {
            "machine": key,
            "name": item.name,
            "serves": item.serves,
            "level": item.level,
            "threads": item.threads,
            "memory_bytes": [size * 10**9 for size in item.memory],
            "bandwidth": item.bandwidth * 1e9,
            "sources": list(item.sources),
        }
        for key, item in machines().items()
    ]
