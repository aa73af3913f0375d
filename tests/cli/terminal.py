"""agq on a pseudo-terminal, as a person has it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios

from tests.support import clean_environment

# Escape sequences of a terminal, and the return to the line's beginning in front of a line's end.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r+(?=\n)")


def _environment(**more: str) -> dict[str, str]:
    """Without the size of the terminal in which the tests run."""
    return {name: value for name, value in clean_environment().items() if name not in ("COLUMNS", "LINES")} | more


class Terminal:
    """A process whose stdin, stdout, stderr and controlling terminal are one pseudo-terminal."""

    def __init__(self, *arguments: object, columns: int = 80, term: str = "xterm", **environment: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agq", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=_environment(**{"TERM": term, "XDG_STATE_HOME": "/nonexistent", **environment}),
            start_new_session=True,
            close_fds=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.slave = slave
        self.seen = ""

    def _read(self, timeout: float = 60) -> None:
        if not select.select([self.master], [], [], timeout)[0]:
            raise AssertionError(f"nothing more after {self.seen!r}")
        if self.process.poll() is not None and not select.select([self.master], [], [], 0)[0]:
            raise AssertionError(f"ended after {self.seen!r}")
        self.seen += os.read(self.master, 65536).decode("utf-8", "replace")

    def expect(self, text: str) -> str:
        """Waits for `text` in what has not been consumed yet, consumes up to it, and returns that as it looks."""
        while text not in self.seen:
            self._read()
        before, self.seen = self.seen.split(text, 1)
        return _CONTROL.sub("", before)

    def ready(self) -> str:
        """Waits until a message may be typed; returns what was shown before."""
        return self.expect("\x1b[?2004h")  # bracketed paste is switched on

    def wait_for(self, count: int) -> None:
        """Waits until `count` characters are there that have not been consumed."""
        while len(self.seen) < count:
            self._read()

    def send(self, text: str) -> None:
        """What the keyboard sends: `\\r` is Enter, `\\x03` Ctrl-C."""
        os.write(self.master, text.encode())

    def paste(self, text: str) -> None:
        """A bracketed paste."""
        self.send(f"\x1b[200~{text}\x1b[201~")

    def ask(self, text: str) -> str:
        """Types a line and returns what comes back before the next one may be typed."""
        self.send(text + "\r")
        self.expect("\x1b[?2004l")  # the editor has handed the message over
        return self.ready().strip("\n")

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def close(self) -> int:
        """Waits for the end; returns the exit code."""
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            os.close(self.master)
            os.close(self.slave)
