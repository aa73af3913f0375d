"""The prompts that models are compared on: the project's own set, or a file's."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agq.errors import AgqError, UsageError
from agq.files import read_input
from agq.text.sources import JOINT, Text, is_json_lines

_OWN = Path(__file__).parent / "own" / "prompts.jsonl"
_HINT = 'write lines such as {"prompt": "The river"}, or one prompt a line'


@dataclass(frozen=True)
class Prompt:
    """A prompt. id: its name in results. kind: chat, code, summary, reasoning of the own set; "" where a file says
    nothing."""

    id: str
    text: str
    kind: str = ""


@dataclass(frozen=True)
class PromptSet:
    """Prompts in their order. label: what they are, for people. sha256: of the bytes of the file."""

    prompts: Sequence[Prompt]
    label: str
    sha256: str

    @property
    def kinds(self) -> list[str]:
        """Kinds in the order of their first prompts."""
        return list(dict.fromkeys(prompt.kind for prompt in self.prompts if prompt.kind))

    def first(self, limit: int | None) -> PromptSet:
        """So many of them, the kinds in turn: 4 of the own set are one of each. None: all.

        Raises:
            UsageError: fewer than one.
        """
        if limit is None or limit >= len(self.prompts):
            return self
        if limit < 1:
            raise UsageError(f"{limit} prompts say nothing", hint="`limit:` is at least 1")
        seen: dict[str, int] = {}
        places = []
        for index, prompt in enumerate(self.prompts):
            seen[prompt.kind] = seen.get(prompt.kind, 0) + 1
            places.append((seen[prompt.kind], index))
        chosen = sorted(index for _, index in sorted(places)[:limit])
        label = f"{self.label}, {limit} of {len(self.prompts)}"
        return replace(self, prompts=tuple(self.prompts[index] for index in chosen), label=label)


def own_prompts() -> PromptSet:
    """The project's own set."""
    return replace(read_prompts(_OWN), label="agq's own prompts")


def own_text() -> Text:
    """The own prompts as one text, joined by blank lines: what nothing was calibrated on."""
    prompts = own_prompts()
    text = JOINT.join(prompt.text for prompt in prompts.prompts)
    return Text(text, hashlib.sha256(text.encode("utf-8")).hexdigest(), "agq's own prompts")


def read_prompts(path: str | os.PathLike[str]) -> PromptSet:
    """The prompts of a file: of .jsonl, .ndjson or .json the field `prompt` of each line's object (with `id` and `kind`
    where it has them), of any other file each line that is not empty.

    Raises:
        AgqError: the file cannot be read, is not UTF-8, has no prompts, a line that is none, or an id twice.
    """
    path = Path(path).expanduser()
    try:
        data = read_input(path)
    except OSError as error:
        raise AgqError(f"cannot read `{path}`: {error.strerror or error}") from None
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise AgqError(f"`{path}` is not UTF-8 text (byte {error.start})", hint=_HINT) from None
    make = _of_json if is_json_lines(path) else _of_line
    prompts = [make(line, number, path) for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise AgqError(f"`{path}` holds no prompts", hint=_HINT)
    ids = [prompt.id for prompt in prompts]
    if twice := next((name for name in ids if ids.count(name) > 1), None):
        raise AgqError(f"`{path}`: two prompts have the id `{twice}`", hint="ids must differ; the default is the line")
    return PromptSet(tuple(prompts), path.name, hashlib.sha256(data).hexdigest())


def _of_line(line: str, number: int, path: Path) -> Prompt:
    return Prompt(str(number), line.strip())


def _of_json(line: str, number: int, path: Path) -> Prompt:
    where = f"`{path}`, line {number}"
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise AgqError(f"{where}: not JSON", hint=_HINT) from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise AgqError(f"{where}: no text `prompt`", hint=_HINT)
    kind = row.get("kind", "")
    return Prompt(str(row.get("id", number)), row["prompt"], kind if isinstance(kind, str) else "")
