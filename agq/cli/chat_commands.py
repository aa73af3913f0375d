"""What begins with a slash in a conversation: one row a command."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agq.errors import AgqError
from agq.files import atomic_write_text, read_input
from agq.runtime.transcript import split_messages

if TYPE_CHECKING:
    from agq.cli.conversation import Conversation


class Leave(Exception):
    """The conversation is to end."""


@dataclass(frozen=True)
class Row:
    """A command: its names, what it takes, what it does, in words and as a function of the conversation and its
    argument that returns what is said.
    """

    names: tuple[str, ...]
    takes: str
    words: str
    run: Callable[[Conversation, str], str]


@dataclass(frozen=True)
class Command:
    """A command as it was typed."""

    row: Row
    argument: str

    def run(self, conversation: Conversation) -> str:
        """Does it; returns what is to be said. Raises AgqError, Leave."""
        return self.row.run(conversation, self.argument)


def command_of(text: str) -> Command | None:
    """The command of a line that begins with a slash; None for a message, which a space before the slash makes of it.

    Raises:
        AgqError: no such command, or not what it takes.
    """
    if text.strip().lower() in ("exit", "quit"):
        raise AgqError(f"`{text.strip()}` alone is not sent to the model", hint="/exit or Ctrl-D leaves")
    if not text.startswith("/") or "\n" in text:
        return None
    name, _, argument = text.strip().partition(" ")
    argument = argument.strip()
    known = {alias: row for row in ROWS for alias in row.names}
    row = known.get(name.lower())
    if row is None:
        close = get_close_matches(name.lower(), list(known), n=1)
        raise AgqError(
            f"unknown command `{name}`" + (f": did you mean `{close[0]}`?" if close else ""),
            hint=" ".join(name for row in ROWS for name in row.names if name[1:].isalpha()),
        )
    if argument and not row.takes:
        raise AgqError(f"`{name}` takes nothing behind it", hint=f"type `{name}` alone")
    if not argument and row.takes and not row.takes.startswith("["):
        raise AgqError(f"`{name}` needs a {row.takes.lower()}", hint=f"for example `{name} talk.json`")
    return Command(row, argument)


def names_of(row: Row) -> str:
    """The names of a command, as they are listed."""
    return " ".join(row.names)


def _leave(conversation: Conversation, argument: str) -> str:
    raise Leave


def _clear(conversation: Conversation, argument: str) -> str:
    conversation.session.transcript.turns.clear()
    return "forgotten"


def _undo(conversation: Conversation, argument: str) -> str:
    turns = conversation.session.transcript.turns
    if not turns:
        raise AgqError("there is nothing to undo")
    return f"forgotten: {_beginning(turns.pop().prompt)}"


def _retry(conversation: Conversation, argument: str) -> str:
    session = conversation.session
    turns = session.transcript.turns
    if not turns:
        raise AgqError("there is no answer to try again")
    last, answered = turns.pop(), False
    try:
        answered = conversation.answer(last.prompt)
    finally:
        if not answered:
            turns.append(last)
    return "the likeliest token is taken each time: the answer stays the same" if session.sampler.greedy else ""


def _system(conversation: Conversation, argument: str) -> str:
    transcript = conversation.session.transcript
    if not conversation.session.chat:
        raise AgqError("a system message needs a chat template, and this conversation has none")
    if not argument:
        return f"system message: {transcript.system}" if transcript.system is not None else "there is no system message"
    before = transcript.system
    transcript.system = None if argument in ('""', "''") else argument
    try:
        tokens, context = len(transcript.encode("", len(transcript.turns))), conversation.session.engine.context
        if tokens >= context:
            raise AgqError(
                f"the system message takes {tokens} tokens, and the context holds {context}: no room for a question",
                hint="shorten it, or start with a larger `context:`",
            )
    except AgqError:
        transcript.system = before
        raise
    return "the system message is " + ("removed" if transcript.system is None else "set")


def _save(conversation: Conversation, argument: str) -> str:
    path = _path(argument)
    if path.exists():
        try:
            split_messages(_read(path))
        except AgqError as error:
            raise AgqError(f"`{path}` is there, and is no conversation", hint="choose another name") from error
    messages = conversation.session.transcript.messages()
    if not messages:
        raise AgqError("nothing was said that could be saved")
    atomic_write_text(path, json.dumps(messages, ensure_ascii=False, indent=1) + "\n")
    return f"{_counted(len(messages))} saved in `{path}`"


def _load(conversation: Conversation, argument: str) -> str:
    transcript = conversation.session.transcript
    transcript.load(_read(_path(argument)))
    return f"{_counted(len(transcript.messages()))} loaded"


def _counted(messages: int) -> str:
    return f"{messages} message{'s' if messages != 1 else ''}"


def _path(argument: str) -> Path:
    """The file that is meant: AgqError where it can be none, so that the conversation goes on."""
    if "\0" in argument:
        raise AgqError("the name of a file has no zero byte")
    try:
        return Path(argument).expanduser()
    except RuntimeError as error:
        raise AgqError(f"the home folder of `{argument}` is not known", hint="write the whole path") from error


def _read(path: Path) -> Any:
    """The JSON of a file."""
    try:
        return json.loads(read_input(path).decode("utf-8-sig"))
    except OSError as error:
        raise AgqError(f"cannot read `{path}`: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise AgqError(f"`{path}` is not JSON", hint="/save writes such a file") from error


def _stats(conversation: Conversation, argument: str) -> str:
    conversation.statistics = not conversation.statistics
    return "speed is shown after each answer" if conversation.statistics else "speed is not shown any more"


def _help(conversation: Conversation, argument: str) -> str:
    typed = [f"{names_of(row)} {row.takes}" for row in ROWS]
    wide = max(map(len, typed))
    lines = [f"  {name:<{wide}}  {row.words}" for name, row in zip(typed, ROWS, strict=True)]
    columns = shutil.get_terminal_size().columns
    if max(map(len, lines)) > columns:
        lines = [line for name, row in zip(typed, ROWS, strict=True) for line in (name, *_folded(row.words, columns))]
    more = (
        'Several lines: paste them, end a line with \\, or write """ before and after.',
        "A space before the slash makes a message of it.",
        "Ctrl-C stops an answer and keeps what was said; Ctrl-D leaves.",
    )
    return "\n".join([*lines, *(line for text in more for line in _folded(text, columns))])


def _folded(text: str, columns: int) -> list[str]:
    """Lines of a terminal, set in."""
    return textwrap.wrap(text, max(columns, 8), initial_indent="  ", subsequent_indent="  ", break_long_words=False)


def _beginning(text: str, most: int = 50) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


ROWS = (
    Row(("/exit", "/bye"), "", "leave", _leave),
    Row(("/clear",), "", "forget what was said", _clear),
    Row(("/undo",), "", "forget the last message and its answer", _undo),
    Row(("/retry",), "", "answer the last message again", _retry),
    Row(("/system",), "[TEXT]", 'show or set the system message; "" removes it', _system),
    Row(("/save",), "FILE", "write what was said as JSON messages", _save),
    Row(("/load",), "FILE", "go on from such a file", _load),
    Row(("/stats",), "", "show the speed of answers, or no longer", _stats),
    Row(("/help", "/?"), "", "this list", _help),
)
