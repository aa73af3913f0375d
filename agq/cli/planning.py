"""What `agq recommend` and `agq fit` share: sizes that a user types, the list of machines."""

from __future__ import annotations

import re
from typing import Any

from agq.errors import UsageError
from agq.reporting.output import print_table

# Decimal units, as `human_size` writes them, and binary ones by their own names.
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def size_in_bytes(text: str, name: str) -> int:
    """ "4G" -> 4000000000, "900MB", "4GiB". name: of the option, for the error."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) *([KMGT]I?)?B?", text.strip().upper())
    value = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if not value:
        raise UsageError(f"{name} is `{text}`, not a size", hint="4G, 900M and 4GiB are sizes")
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
