"""The standard error stream: messages by verbosity, errors. One place decides on colour, verbosity and progress bars
(`progress_bar.py` draws them).

stdout carries only what one would pipe; everything else goes through here.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

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


def line(text: str) -> None:
    """One line on stderr, whatever the settings."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (BrokenPipeError, ValueError):
        pass  # nobody reads stderr: no reason to stop the work


def say(text: str) -> None:
    """A message of the ordinary course: hidden below verbosity 0."""
    if settings.verbosity >= 0:
        line(text)


def detail(text: str, level: int = 1) -> None:
    """A message for verbosity `level` and above."""
    if settings.verbosity >= level:
        line(paint(text, "dim"))


def warning(text: str) -> None:
    """`warning: ...`, once for each text, as long as an error at most; hidden by `-qq`."""
    if settings.verbosity > -2 and text not in _warned:
        _warned.add(text)
        line(f"{paint('warning:', 'yellow', 'bold')} {_one_line(text)}")


def error(message: str, hint: str | None = None) -> None:
    """`error: ...` and, if there is one, `hint: ...`; always shown, one line each, at verbosity 0 of 300 characters at
    most: what is too long loses its middle."""
    line(f"{paint('error:', 'red', 'bold')} {_one_line(message)}")
    if hint:
        line(f"{paint('hint:', 'cyan', 'bold')} {_one_line(hint)}")


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
    line(traceback_of(exception))
