"""One prompt and one text: what `agq run` prints without a conversation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from agq.cli.speed import report_end, report_speed
from agq.cli.terminal import PromptProgress, WordWrap
from agq.errors import AgqError
from agq.reporting import console

if TYPE_CHECKING:
    from agq.runtime.generation import Piece
    from agq.runtime.session import Session


class _Text:
    """The text as it comes; on a terminal words are not broken at its edge."""

    def __init__(self, before: str):
        self._before = before
        self._wrap = WordWrap() if console.is_terminal(sys.stdout) else None

    def put(self, piece: Piece) -> None:
        self._write(self._before + piece.text)
        self._before = ""

    def end(self, statistics: dict[str, Any]) -> None:
        self._write(self._before)
        rest = self._wrap.finish() if self._wrap is not None else ""
        sys.stdout.write(rest if statistics["text"].endswith("\n") else f"{rest}\n")
        sys.stdout.flush()

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(self._wrap.push(text) if self._wrap is not None else text)
            sys.stdout.flush()


class _Json:
    """A line for each token. The last one is held back until it is known whether text without a token follows: that
    belongs to it.
    """

    def __init__(self) -> None:
        self._last: dict[str, Any] | None = None

    def put(self, piece: Piece) -> None:
        if piece.token is None:
            if self._last is not None:
                self._last["text"] += piece.text
            return
        self._print()
        self._last = {"token": piece.token, "text": piece.text}

    def end(self, statistics: dict[str, Any]) -> None:
        self._print()
        _print_object(statistics)

    def _print(self) -> None:
        if self._last is not None:
            _print_object(self._last)
            self._last = None


def answer_once(
    session: Session, progress: PromptProgress, prompt: str, json_output: bool, echo: bool, told: bool
) -> int:
    """Prints the answer to a prompt; returns the exit code. echo: the prompt before it. told: the user said how many
    tokens, so that a full context is an error.
    """
    output = _Json() if json_output else _Text(prompt if echo else "")
    generation = session.answer(prompt)
    try:
        for piece in generation:
            progress.stop()
            output.put(piece)
    except KeyboardInterrupt:
        progress.stop()
        generation.close()
        output.end(session.statistics(generation))
        report_speed(session, generation)
        raise
    finally:
        progress.stop()
    output.end(session.statistics(generation))
    if told and generation.statistics.finish_reason == "context":
        report_speed(session, generation)
        raise _full(session, generation.statistics.tokens)
    report_end(session, generation, told)
    report_speed(session, generation, brief=True)
    return 0


def _full(session: Session, tokens: int) -> AgqError:
    context, most = session.engine.context, session.engine.spec.context
    return AgqError(
        f"the context of {context} tokens is full after {tokens} generated ones",
        hint=f"use a larger context (-c, up to the model's {most})"
        if context < most
        else "shorten the prompt, or ask for fewer tokens with -n",
    )


def _print_object(value: dict[str, Any]) -> None:
    from agq.reporting.output import print_json

    print_json(value)
