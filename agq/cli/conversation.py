"""One answer after the other to what a person says, shown as they come."""

from __future__ import annotations

import sys
from typing import Any

from agq.cli.speed import report_end, report_speed
from agq.cli.terminal import PromptProgress, WordWrap, no_echo
from agq.reporting import console
from agq.runtime.session import Session


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


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
