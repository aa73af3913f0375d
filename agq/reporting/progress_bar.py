"""Progress on the standard error stream: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agq.reporting import console

_LINE_INTERVAL = 10.0  # seconds between progress lines where there is no terminal
_WARM = 10.0  # seconds: a first step that is shorter may be imports and little else
_OVERDUE = 0.1  # of a step's time: what is left of one that should be done
_NARROW = 60  # columns below which a progress bar is label, count and time left alone


class Progress:
    """What `progress` gives: count steps and say what is going on. This one shows nothing."""

    def __init__(self, label: str, total: int | None = None, unit: str = "steps") -> None:
        self.begin(label, total, unit)

    def begin(self, label: str, total: int | None = None, unit: str = "steps") -> None:
        """Another part of the work: counting begins anew, and with it the pace."""
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._left: Callable[[], float | None] | None = None
        self.note = ""
        self.start = self._counted = time.monotonic()
        self._first = (self.start, 0)  # when the first step was done, and how many that were

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Counts steps; `note` is shown beside the bar."""
        first, self.done = not self.done, self.done + steps
        self._counted = time.monotonic() if steps else self._counted
        if first:
            self._first = (self._counted, self.done)
        self.update(note)

    def reach(self, done: int, total: int, note: str | None = None) -> None:
        """Counts up to `done` of `total` steps."""
        self.total = total
        self.advance(done - self.done, note)

    def foretell(self, left: Callable[[], float | None]) -> None:
        """Who counts knows better than the pace of the steps how many seconds are left: steps are not alike."""
        self._left = left

    def megabytes(self, done: int, total: int, note: str | None = None) -> None:
        """`reach` for counts of bytes."""
        self.reach(round(done / 1e6), max(1, round(total / 1e6)), note)

    def update(self, note: str | None = None, total: int | None = None) -> None:
        """Another note or another total."""
        if note is not None:
            self.note = note
        if total is not None:
            self.total = total
        self._show()

    def eta(self) -> float | None:
        """Seconds that are left at the pace of the steps so far; None where nothing is known.

        The first step warms caches up and does not count once there are others; a short one says nothing. One that
        takes longer than those before it says that the pace is less: it counts as done now, at the least.
        """
        if self._left is not None and self.done != self.total:
            return self._left()
        if not self.done or self.total is None:
            return None
        now = time.monotonic()
        if self.done >= self.total:
            return 0.0
        begun, done = self._first if self.done > self._first[1] else (self.start, 0)
        if not done and self._counted - begun < _WARM:
            return None
        pace = max((self._counted - begun) / (self.done - done), (now - begun) / (self.done + 1 - done))
        return max(pace * (self.total - self.done) - (now - self._counted), _OVERDUE * pace)

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
        parts = [f"{self.label}: {count} {self.unit}", self.note, "" if left is None else f"{console.clock(left)} left"]
        console.line(", ".join(part for part in parts if part))


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
                return rich_progress.Text("" if left is None else f"{console.clock(left)} left")

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
            console=console.stderr_console(),
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
    if console.settings.progress and console.settings.verbosity >= 0:
        kind = _Bar if console.redraws(sys.stderr) else _Lines
    bar = kind(label, total, unit)
    try:
        yield bar
    finally:
        bar.close()
