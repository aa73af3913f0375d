"""Reads the mutants of `*.txt` beside this file.

A section begins with `[file or folder under agq/]` and the tests that see its mutants, as pytest names them; then each
mutant: its name, `- fragment`, `+ what replaces it`. Lines that begin with # say something to the reader.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Section:
    """where: a file or folder under agq/; changes: (name, fragment, what replaces it)."""

    where: str
    tests: list[str] = field(default_factory=list)
    changes: list[tuple[str, str, str]] = field(default_factory=list)


def read() -> list[Section]:
    """All sections. Raises ValueError for a line in the wrong place."""
    sections: list[Section] = []
    for path in sorted(Path(__file__).parent.glob("*.txt")):
        name = old = ""
        for number, line in enumerate(path.read_text().splitlines(), 1):
            line = line.strip()
            if line.startswith("[") and line.endswith("]"):
                sections.append(Section(line[1:-1]))
            elif line.startswith("- ") and name:
                old = line[2:]
            elif line.startswith("+") and old:
                sections[-1].changes.append((name, old, line[1:].strip()))
                name = old = ""
            elif line.startswith("tests/") and not sections[-1].changes:
                sections[-1].tests.append(line)
            elif line and not line.startswith("#"):
                if name or old:
                    raise ValueError(f"{path.name}:{number}: a mutant is not complete before this line")
                name = line
        if name:
            raise ValueError(f"{path.name}: the last mutant is not complete")
    return sections
