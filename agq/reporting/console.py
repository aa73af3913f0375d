"""The standard error stream: messages by verbosity, errors, progress. One place decides on colour, verbosity and
progress bars.

stdout carries only what one would pipe; everything else goes through here.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_LINE_INTERVAL = 10.0  # seconds between progress lines where there is no terminal
_NARROW = 60  # columns below which a progress bar is label, count and time left alone
_LONGEST = 290  # characters of an error without the word before it
_ANSI = {"red": "31", "yellow": "33", "green": "32", "cyan": "36", "bold": "1", "dim": "2"}


@dataclass
class Settings:
    """verbosity: -1 (errors and warnings) or less (errors only), 0, 1, 2 (details). color: auto, always or never."""

    verbosity: int = 0
    color: str = "auto"
    progress: bool = True


settings = Settings()
_warned: set[str] = set()


def configure(verbosity: int | None = None, color: str | None = None, progress: bool | None = None) -> None:
    """Sets what the global options say; None leaves a setting as it is."""
    if verbosity is not None:
        settings.verbosity = verbosity
    if color is not None:
        settings.color = color
    if progress is not None:
        settings.progress = progress


def reset() -> None:
    """The settings before any option was read, from the environment (AGQ_NO_PROGRESS, AGQ_COLOR, AGQ_VERBOSE,
    AGQ_QUIET).
    """
    from agq.reporting.environment import flag, number

    configure(
        number("AGQ_VERBOSE") - number("AGQ_QUIET"), os.environ.get("AGQ_COLOR") or "auto", not flag("AGQ_NO_PROGRESS")
    )
    _warned.clear()


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal; False for a closed or replaced one."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def redraws(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can go back and write anew."""
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def use_color(stream: TextIO) -> bool:
    """The setting, else NO_COLOR (no-color.org), FORCE_COLOR, else whether the stream is a terminal that understands
    colour.
    """
    if settings.color != "auto":
        return settings.color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return redraws(stream)


def paint(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """`text` in ANSI styles (red, yellow, green, cyan, bold, dim) if the stream (stderr by default) shows colour."""
    if not text or not use_color(stream or sys.stderr):
        return text
    codes = ";".join(_ANSI[style] for style in styles)
    return f"\x1b[{codes}m{text}\x1b[0m"


def _line(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except (BrokenPipeError, ValueError):
        pass  # nobody reads stderr: no reason to stop the work


def say(text: str) -> None:
    """A message of the ordinary course: hidden below verbosity 0."""
    if settings.verbosity >= 0:
        _line(text)


def detail(text: str, level: int = 1) -> None:
    """A message for verbosity `level` and above."""
    if settings.verbosity >= level:
        _line(paint(text, "dim"))


def warning(text: str) -> None:
    """`warning: ...`, once for each text; hidden by `-qq`."""
    if settings.verbosity > -2 and text not in _warned:
        _warned.add(text)
        _line(f"{paint('warning:', 'yellow', 'bold')} {text}")


def error(message: str, hint: str | None = None) -> None:
    """`error: ...` and, if there is one, `hint: ...`; always shown, one line each, at verbosity 0 of 300 characters at
    most: what is too long loses its middle."""
    _line(f"{paint('error:', 'red', 'bold')} {_one_line(message)}")
    if hint:
        _line(f"{paint('hint:', 'cyan', 'bold')} {_one_line(hint)}")


def _one_line(text: str) -> str:
    text = " ".join(text.split("\n")).strip()
    if len(text) <= _LONGEST or settings.verbosity > 0:
        return text
    return f"{text[: _LONGEST - 90]} [...] {text[-80:]}"


def stderr_console() -> Console:
    """A rich console on stderr that follows the settings."""
    return rich_console(sys.stderr)


def rich_console(stream: TextIO) -> Console:
    """A rich console on any stream that follows the settings; lines are not cut to 80 columns where there is no
    terminal.
    """
    from rich.console import Console

    color = use_color(stream)
    return Console(
        file=stream,
        force_terminal=color or None,
        no_color=not color,
        highlight=False,
        width=None if is_terminal(stream) else 200,
    )


class Progress:
    """What `console.progress` gives: count steps and say what is going on. This one shows nothing."""

    def __init__(self, label: str, total: int | None = None, unit: str = "steps") -> None:
        self.begin(label, total, unit)

    def begin(self, label: str, total: int | None = None, unit: str = "steps") -> None:
        """Another part of the work: counting begins anew, and with it the pace."""
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.note = ""
        self.start = self._counted = time.monotonic()

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Counts steps; `note` is shown beside the bar."""
        self.done += steps
        self._counted = time.monotonic() if steps else self._counted
        self.update(note)

    def update(self, note: str | None = None, total: int | None = None) -> None:
        """Another note or another total."""
        if note is not None:
            self.note = note
        if total is not None:
            self.total = total
        self._show()

    def eta(self) -> float | None:
        """Seconds that are left at the pace of the steps so far; None where nothing is known."""
        if not self.done or self.total is None:
            return None
        left = (self._counted - self.start) / self.done * max(0, self.total - self.done)
        return max(0.0, left - (time.monotonic() - self._counted))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The bar is away while something is printed."""
        yield

    def _show(self) -> None:
        pass

    def close(self) -> None:
        """The work is done."""


class _Lines(Progress):
    """Without a terminal: a line now and then."""

    _last = 0.0

    def begin(self, label: str, total: int | None = None, unit: str = "steps") -> None:
        self._last = self._last or time.monotonic()
        super().begin(label, total, unit)

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._last < _LINE_INTERVAL:
            return
        self._last = now
        count = f"{self.done}/{self.total}" if self.total is not None else str(self.done)
        left = self.eta()
        parts = [f"{self.label}: {count} {self.unit}", self.note, "" if left is None else f"{clock(left)} left"]
        _line(", ".join(part for part in parts if part))


class _Bar(Progress):
    """On a terminal: a rich progress bar that is gone when it is done."""

    _bar: Any = None

    def begin(self, label: str, total: int | None = None, unit: str = "steps") -> None:
        if self._bar is None:
            self._bar = self._made()
            self._task = self._bar.add_task(label, total=total, text="", note="")
        else:
            self._bar.reset(self._task, total=total, description=label)
        super().begin(label, total, unit)
        self._show()
        self._bar.start()  # no second time: rich leaves a display alone that runs

    def _made(self) -> Any:
        from rich import progress as rich_progress

        owner = self

        class Left(rich_progress.ProgressColumn):
            """Time left; it counts down between two steps."""

            max_refresh = 0.5

            def render(self, task: Any) -> Any:
                left = owner.eta()
                return rich_progress.Text("" if left is None else f"{clock(left)} left")

        columns = [
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(bar_width=10),
            rich_progress.TextColumn("{task.fields[text]}"),
            Left(),
            rich_progress.TextColumn("{task.fields[note]}", markup=False),
        ]
        if _columns() < _NARROW:
            del columns[4], columns[1]
        return rich_progress.Progress(
            *columns,
            console=stderr_console(),
            transient=True,
            # rich would otherwise send what is printed on stdout to this console, that is to stderr
            redirect_stdout=False,
            redirect_stderr=True,
        )

    def _show(self) -> None:
        count = f"{self.done}/{self.total}" if self.total is not None else str(self.done) if self.done else ""
        text = f"{count} {self.unit}" if count else ""
        # Beside the label, the bar and the longest time left; what does not fit is cut, never wrapped.
        room = max(0, _columns() - len(self.label) - len(text) - 10 - len(" 1:00:00 left") - 5)
        self._bar.update(self._task, completed=self.done, total=self.total, text=text, note=self.note[:room])

    @contextmanager
    def aside(self) -> Iterator[None]:
        sys.stderr.flush()
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def close(self) -> None:
        self._bar.stop()


def _columns() -> int:
    return shutil.get_terminal_size().columns


@contextmanager
def progress(label: str, total: int | None = None, unit: str = "steps") -> Iterator[Progress]:
    """Progress on stderr: a bar on a terminal, lines every ten seconds elsewhere, nothing where the settings say so.

    Usage: `with progress("pack", total=12, unit="layers") as bar: bar.advance(note="layer 3")`.
    """
    kind: type[Progress] = Progress
    if settings.progress and settings.verbosity >= 0:
        kind = _Bar if redraws(sys.stderr) else _Lines
    bar = kind(label, total, unit)
    try:
        yield bar
    finally:
        bar.close()


def clock(seconds: float) -> str:
    """12.3 -> "12 s", 75 -> "1:15", 3700 -> "1:01:40"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def traceback_of(exception: BaseException) -> str:
    """The traceback as text, for AGQ_DEBUG=1."""
    import traceback

    return "".join(traceback.format_exception(exception)).rstrip()


def show_traceback(exception: BaseException) -> None:
    """Prints the traceback on stderr."""
    _line(traceback_of(exception))
