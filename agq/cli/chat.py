"""The conversation of `agq run` on a terminal: a message or a command, an answer, again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from agq.cli import failures
from agq.cli.chat_commands import Command, Leave, command_of
from agq.cli.conversation import Conversation
from agq.cli.line_editor import line_reader, message
from agq.cli.terminal import PromptProgress
from agq.errors import AgqError
from agq.reporting import console
from agq.runtime.session import Session

_BANNER = "Ctrl-C stops an answer, Ctrl-D or /exit leaves, /help lists all commands"
_TERMINATED = 128 + signal.SIGTERM


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
                typed = read()
                command = command_of(typed)  # what stands in quotes is none
                if command is not None:
                    _obey(command, conversation)
                elif (text := message(typed)).strip():
                    conversation.answer(text)
            except (EOFError, Leave):
                return 0
            except KeyboardInterrupt:
                console.say(_BANNER)
            except AgqError as error:
                console.error(*failures.worded(error))


def _obey(command: Command, conversation: Conversation) -> None:
    said = command.run(conversation)
    if said:
        console.say(said)


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
