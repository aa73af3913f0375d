"""What one snapshot is made of."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A command line and where it runs.

    Attributes:
        name: of the file in `expected/`.
        line: what a user types; it begins with `agq`.
        files: names of `files.FILES` that are in the working folder.
        texts: further files of the working folder, name -> content.
        stdin: what is piped in. env: variables beside those of `program.environment`.
        terminal: runs on a terminal of 80 columns, too. Tables and helps do; an error is the same line in both.
        read_only: nothing can be written into the working folder.
        slow: not in `make check`.
    """

    name: str
    line: str
    files: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    stdin: str = ""
    env: dict[str, str] = field(default_factory=dict)
    terminal: bool = False
    read_only: bool = False
    slow: bool = False

    @property
    def arguments(self) -> list[str]:
        """Without the program's name."""
        program, *rest = shlex.split(self.line)
        assert program == "agq", self.line
        return rest
