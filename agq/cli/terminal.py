"""What a terminal needs while a text appears on it: words kept whole at its edge, no echo of what is typed, progress
that leaves no trace.
"""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agq.reporting import console

_SILENT = 1.0  # seconds before progress is shown
_INTERVAL = 0.25  # seconds between two looks at it
_SPACES = " \t"
_WIDE = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uff60"  # letters between which a line may break
_PARTS = re.compile(f"\n|[{_SPACES}]+|[{_WIDE}]|[^{_SPACES}\n{_WIDE}]+")
_TAB = 8  # columns between two stops
# What a model writes is text: a sequence that would move the cursor or clear the screen is shown, not obeyed.
_SHOWN: dict[int, int | None] = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_SHOWN |= {0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)} | {ord("\r"): None}
_FENCE = "```"  # what stands between two of them is code: its lines stay as they are


def width(text: str) -> int:
    """Columns that a text takes: two for wide letters, none for combining marks."""
    return sum(
        0 if unicodedata.category(letter) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


class WordWrap:
    """Breaks lines between words, for a text that comes in pieces. A word is held back until it is complete.

    columns: of the terminal; None: ask each time, as it may be resized.
    """

    def __init__(self, columns: int | None = None):
        self._columns = columns
        self._column = 0  # where the next letter goes
        self._line = ""  # of the model's own line, its first letters
        self._space = self._word = ""
        self._code = False

    def push(self, text: str) -> str:
        """What can be shown now."""
        shown = []
        for part in _PARTS.findall(text.translate(_SHOWN)):
            if part == "\n":
                shown.append(self.finish() + "\n")
                if self._line == _FENCE:
                    self._code = not self._code
                self._column, self._line = 0, ""
            elif part[0] in _SPACES:
                shown.append(self._flush_word())
                self._space += part
            else:
                wide = width(part[0]) > 1
                if wide:
                    shown.append(self._flush_word())
                self._word += part
                if wide:
                    shown.append(self._flush_word())
        if self._column + width(self._space + self._word) > self._width():
            shown.append(self._flush_word())  # it will not get shorter
        return "".join(shown)

    def finish(self) -> str:
        """What is still held back."""
        text = self._flush_word() + self._space
        for letter in self._space:
            self._pass(letter)
        self._space = ""
        return text

    def _width(self) -> int:
        return self._columns or shutil.get_terminal_size().columns

    def _flush_word(self) -> str:
        if not self._word:
            return ""
        space, word = self._space, self._word
        self._space = self._word = ""
        if len(self._line) < len(_FENCE):
            self._line = (self._line + space + word)[: len(_FENCE)]
        size = width(space + word)
        if self._column + size > self._width() and self._column and not self._code:
            if space or width(word[0]) > 1:
                space, self._column = "\n", 0
        for letter in space + word if space != "\n" else word:
            self._pass(letter)
        return space + word

    def _pass(self, letter: str) -> None:
        """The cursor behind a letter. Where no room is left for it, as in a word longer than the line, the terminal
        begins another one: a wide letter leaves a column empty."""
        columns, size = self._width(), width(letter)
        if letter == "\t":
            self._column = min(self._column // _TAB * _TAB + _TAB, columns - 1)
        elif size and self._column + size > columns:
            self._column = size
        else:
            self._column += size


@contextmanager
def no_echo() -> Iterator[None]:
    """What is typed meanwhile is not shown, and waits for who reads next. Signals by keys stay."""
    import termios

    try:
        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
    except (termios.error, OSError, ValueError, AttributeError):
        yield  # no terminal
        return
    quiet = [*before]
    quiet[3] &= ~(termios.ECHO | termios.ECHONL)
    with suppress(termios.error):
        termios.tcsetattr(handle, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(handle, termios.TCSADRAIN, before)


class PromptProgress:
    """How far the prompt is, on a terminal's stderr, from its second second on. `stop` erases it; call that before
    anything else is printed.
    """

    def __init__(self) -> None:
        self._shows = console.settings.progress and console.settings.verbosity >= 0 and console.redraws(sys.stderr)
        self._done, self._total, self._start = 0, 0, 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._shown = False

    def update(self, done: int, total: int) -> None:
        """For Generation: `done` of `total` tokens are computed; the first call comes with 0."""
        if not self._shows:
            return
        self._done, self._total = done, total
        if self._thread is None and done < total:
            self._start = time.monotonic()
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        wait = _SILENT
        while not self._ended.wait(wait):
            wait = _INTERVAL
            self._shown = True
            with suppress(OSError, ValueError):
                sys.stderr.write(
                    f"\r\x1b[K{console.paint(self.text()[: shutil.get_terminal_size().columns - 1], 'dim')}"
                )
                sys.stderr.flush()

    def text(self) -> str:
        """ "prompt 3072/9445 tokens, 640 tok/s, 10 s left"."""
        count = f"prompt {self._done}/{self._total} tokens"
        seconds = time.monotonic() - self._start
        if not self._done:
            return f"{count}, {console.clock(seconds)}"
        rate = self._done / seconds
        return f"{count}, {rate:.3g} tok/s, {console.clock((self._total - self._done) / rate)} left"

    def stop(self) -> None:
        """Erases what is shown."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ended.set()
        thread.join()
        if self._shown:
            self._shown = False
            with suppress(OSError, ValueError):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
