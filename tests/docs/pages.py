"""The pages of the documentation, and what stands in them: commands, links, lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support import REPOSITORY

# Pages whose commands are run.
RUN = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES = [
    *RUN,
    *(REPOSITORY / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "demo/README.md")),
]
_FENCE = re.compile(r"^```(\w*)$")
_MARK = re.compile(r"^<!-- (not run|file|fetched): (.+) -->$")
SHELL = ("console", "sh")


def name_of(page: Path) -> str:
    """Of a page, for test names."""
    return str(page.relative_to(REPOSITORY))


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of the fence, from 1. language: after the fence. mark, words: of the comment before it,
    "not run" and the reason, "file" and its name, or
    "fetched" and the file that its commands fetch by pip; None without."""

    page: Path
    line: int
    language: str
    lines: tuple[str, ...]
    mark: str | None = None
    words: str = ""

    @property
    def commands(self) -> list[str]:
        """Shell commands: of `console` the lines behind `$ `, of `sh` all lines; a backslash joins lines."""
        return [command for command, _ in self.runs]

    @property
    def runs(self) -> list[tuple[str, list[str]]]:
        """Each command, with the lines that follow it: what it prints."""
        if self.language not in SHELL:
            return []
        console = self.language == "console"
        found: list[tuple[str, list[str]]] = []
        going_on = False
        for line in self.lines:
            if going_on:
                command, printed = found[-1]
                found[-1] = (command.removesuffix("\\") + line.strip(), printed)
            elif console and line.startswith("$ "):
                found.append((line[2:], []))
            elif not console and line.strip() and not line.startswith("#"):
                found.append((line, []))
            else:
                if found:
                    found[-1][1].append(line)
                continue
            going_on = line.endswith("\\")
        return found


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    mark: tuple[str | None, str] = (None, "")
    inside: tuple[int, str, list[str]] | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if inside is not None:
            if line == "```":
                found.append(Block(page, inside[0], inside[1], tuple(inside[2]), *mark))
                inside, mark = None, (None, "")
            else:
                inside[2].append(line)
        elif fence := _FENCE.match(line):
            inside = (number, fence[1], [])
        elif marked := _MARK.match(line):
            mark = (marked[1], marked[2])
        elif line.strip():
            mark = (None, "")
    assert inside is None, f"{page}: a fence without its end"
    return found


def prose(page: Path) -> list[tuple[int, str]]:
    """Lines outside of fenced blocks, by number."""
    found, fenced = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            found.append((number, line))
    return found
