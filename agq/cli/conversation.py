"""The conversation of `agq run` on a terminal: a prompt line, an answer, again."""

from __future__ import annotations

import sys

from agq.cli import failures
from agq.cli.speed import report_speed
from agq.errors import AgqError
from agq.reporting import console
from agq.runtime.generation import Generation
from agq.runtime.session import Session

_HELP = "Ctrl-C stops an answer, Ctrl-D leaves; /clear forgets what was said, /exit leaves"


def converse(session: Session) -> int:
    """Reads lines and answers them until the end of input. Returns the exit code."""
    try:
        import readline  # noqa: F401  (line editing and history for input())
    except ImportError:
        pass
    console.say(_HELP)
    if not session.chat and session.artifact.has("chat_template"):
        console.say("this model has a chat template: `agq run --chat` talks to it; without, it continues your text")
    while True:
        try:
            line = _read_line()
        except EOFError:
            console.say("")
            return 0
        except KeyboardInterrupt:
            console.say("\n" + _HELP)
            continue
        command = line.strip()
        if command == "/exit":
            return 0
        if command == "/clear":
            session.clear()
        elif command in ("/help", "/?"):
            console.say(_HELP)
        elif command:
            try:
                _answer(session, line)
            except AgqError as error:
                message, hint = failures.worded(error)
                console.error(message, "/clear forgets the conversation" if "context" in message else hint)


def _read_line() -> str:
    """One line; the prompt sign goes to stderr where stdout is not a terminal."""
    if console.is_terminal(sys.stdout):
        return input("> ")
    sys.stderr.write("> ")
    sys.stderr.flush()
    return input()


def _answer(session: Session, prompt: str) -> None:
    generation: Generation = session.answer(prompt)
    shown = False
    try:
        for piece in generation:
            text = piece.text if shown or not session.chat else piece.text.lstrip()
            shown = shown or bool(text)
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        generation.close()
    sys.stdout.write("\n")
    sys.stdout.flush()
    session.keep(prompt, generation)
    report_speed(session, generation)
    if generation.statistics.finish_reason == "context":
        console.warning(f"the context of {session.engine.context} tokens is full: /clear forgets the conversation")
