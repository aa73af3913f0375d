"""The conversation of `agq run` on a terminal: a message, an answer, again."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agq.cli import failures
from agq.cli.chat_commands import Command, Leave, command_of
from agq.cli.line_editor import line_reader
from agq.cli.speed import report_end, report_speed
from agq.cli.terminal import PromptProgress, WordWrap, no_echo
from agq.errors import AgqError
from agq.reporting import console
from agq.runtime.session import Session

_BANNER = "Ctrl-C stops an answer, Ctrl-D or /exit leaves, /help lists all commands"
_TERMINATED = 128 + signal.SIGTERM


class Conversation:
    """A session, and how its answers are shown. `statistics`: whether a line of speed follows each of them."""

    def __init__(self, session: Session, progress: PromptProgress):
        self.session, self._progress = session, progress
        self.statistics = True

    def answer(self, prompt: str) -> bool:
        """Shows the answer to a message and keeps both, on Ctrl-C the part that was said; False if that is nothing."""
        session = self.session
        generation, forgotten = session.answer_within_context(prompt)
        if forgotten:
            turns = "the oldest turn is" if forgotten == 1 else f"the {forgotten} oldest turns are"
            console.say(
                console.paint(f"the context of {session.engine.context} tokens is full: {turns} forgotten", "dim")
            )
        try:
            with no_echo():
                self._show(generation)
        except KeyboardInterrupt:
            generation.close()
            sys.stdout.write("\n")
            sys.stdout.flush()
        finally:
            self._progress.stop()
        kept = bool(generation.statistics.tokens) or generation.statistics.finish_reason == "eos"
        if kept:
            session.keep(prompt, generation)
        report_end(session, generation, told=False)
        if self.statistics:
            report_speed(session, generation, brief=True)
        return kept

    def _show(self, generation: Any) -> None:
        """Writes an answer as it comes, to its last line's end."""
        wrap = WordWrap() if console.is_terminal(sys.stdout) else None
        shown = False
        try:
            for piece in generation:
                self._progress.stop()
                text = piece.text if shown or not self.session.chat else piece.text.lstrip()
                shown = shown or bool(text)
                _write(wrap.push(text) if wrap else text)
        finally:
            _write(wrap.finish() if wrap else "")
        _write("\n")


def converse(session: Session, progress: PromptProgress) -> int:
    """Reads messages and answers them until the end of input. Returns the exit code."""
    read = line_reader()
    console.say(_BANNER)
    if not session.chat:
        console.say("without a chat template the model does not answer: it continues your text")
    conversation = Conversation(session, progress)
    with _ended_by_signals():
        while True:
            try:
                text = read()
                command = command_of(text)
                if command is not None:
                    _obey(command, conversation)
                elif text.strip():
                    conversation.answer(text)
            except (EOFError, Leave):
                return 0
            except KeyboardInterrupt:
                console.say(_BANNER)
            except AgqError as error:
                message, hint = failures.worded(error)
                console.error(message, hint)


def _obey(command: Command, conversation: Conversation) -> None:
    said = command.run(conversation)
    if said:
        console.say(said)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP leave by an exception, so that the terminal gets its echo back."""

    def leave(*_: object) -> None:
        raise SystemExit(_TERMINATED)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
