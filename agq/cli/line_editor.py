"""Messages that a person types: lines with an editor and a history, pasted text as one message, `\"\"\"` and a trailing
backslash for messages of several lines.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agq.errors import AgqError
from agq.reporting import console

if TYPE_CHECKING:
    from prompt_toolkit.history import History

_QUOTES = '"""'
_SIGN, _CONTINUED = "> ", ". "


def goes_on(text: str) -> bool:
    """Whether a message is incomplete: it ends in a backslash, or begins with three quotes that are not closed."""
    begun = text.lstrip().startswith(_QUOTES)
    if begun:
        return not text.rstrip().endswith(_QUOTES) or len(text.strip()) < 2 * len(_QUOTES)
    return text.endswith("\\")


def message(text: str) -> str:
    """What was meant by what was typed: without the quotes around it, or the backslashes that continue lines."""
    stripped = text.strip()
    if stripped.startswith(_QUOTES) and stripped.endswith(_QUOTES) and len(stripped) >= 2 * len(_QUOTES):
        return stripped[len(_QUOTES) : -len(_QUOTES)].strip("\n")
    return text.replace("\\\n", "\n")


def line_reader() -> Callable[[], str]:
    """A function that asks for a message, and gives it as it was typed: raises EOFError at the end of input,
    KeyboardInterrupt on Ctrl-C."""
    screen = next((stream for stream in (sys.stdout, sys.stderr) if console.is_terminal(stream)), None)
    if screen is None or os.environ.get("TERM", "dumb") == "dumb":
        return _read_plainly
    return _editor(screen)


def _read_plainly() -> str:
    """Lines as the terminal itself edits them; the prompt sign goes to stderr where stdout is not a terminal."""
    stream = sys.stdout if console.is_terminal(sys.stdout) else sys.stderr
    text = ""
    while not text or goes_on(text):
        stream.write(_CONTINUED if text else _SIGN)
        stream.flush()
        data = sys.stdin.buffer.readline()
        if not data:
            raise EOFError
        try:
            line = data.decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise AgqError("what was typed is not UTF-8 text", hint="set the terminal to UTF-8") from error
        text = f"{text}\n{line}" if text else line
        if not text:
            break
    return text


def _editor(screen: Any) -> Callable[[], str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output.vt100 import Vt100_Output

    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: Any) -> None:
        buffer = event.current_buffer
        if _more_waits(event) or (goes_on(buffer.text) and buffer.document.is_cursor_at_the_end):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _newline(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    output = Vt100_Output.from_pty(screen, term=os.environ.get("TERM"))
    # The terminal is not asked where its cursor is: not all answer, and no menu needs it.
    output.enable_cpr = False
    session: PromptSession[str] = PromptSession(
        history=_history(),
        key_bindings=keys,
        output=output,
        reserve_space_for_menu=0,
        prompt_continuation=lambda width, number, wrapped: "" if wrapped else _CONTINUED,
        enable_suspend=True,
    )

    def read() -> str:
        return session.prompt(_SIGN)

    return read


def _more_waits(event: Any) -> bool:
    """Whether letters follow at once: text that was pasted into a terminal without bracketed paste."""
    letters = [item for item in event.key_processor.input_queue if len(item.key) == 1 and item.data != "_Flush"]
    return bool(letters) or bool(select.select([event.app.input.fileno()], [], [], 0)[0])


def history_path() -> Path | None:
    """XDG_STATE_HOME/agq/history, else ~/.local/state/agq/history; None for a user without a home."""
    if value := os.environ.get("XDG_STATE_HOME"):
        return Path(value) / "agq" / "history"
    try:
        return Path.home() / ".local" / "state" / "agq" / "history"
    except RuntimeError:
        return None


def _history() -> History:
    """What was typed in earlier conversations, where it can be kept: for its owner's eyes only."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class Kept(FileHistory):
        """A full disk does not end a conversation."""

        def store_string(self, string: str) -> None:
            with suppress(OSError):
                super().store_string(string)

    path = history_path()
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            with open(path, "ab"):
                return Kept(path)
    except OSError as error:
        console.detail(f"no history: cannot write `{path}`: {error.strerror}")
    return InMemoryHistory()
