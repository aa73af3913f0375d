"""Runs the installed program, with pipes or on a terminal of 80 columns; or a fork of a server that has imported it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import selectors
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.command_server import CommandServer
from tests.support import clean_environment

COLUMNS, ROWS = 80, 24
_TIMEOUT = 300
# Terminal settings of the machine where the tests run, which Rich and Typer heed; where its further models lie.
_FOREIGN = {
    "AGQ_SHARED",
    "COLUMNS", "LINES", "TERM", "TERMINAL_WIDTH", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR", "PY_COLORS",
    "GITHUB_ACTIONS",
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a program said."""

    stdout: str
    stderr: str
    code: int | None


def program() -> Path:
    """The `agq` that pip installed beside this Python."""
    path = Path(sys.executable).parent / "agq"
    if not path.is_file():
        raise FileNotFoundError(f"agq is not installed beside {sys.executable}: pip install -e .")
    return path


def environment(cache: Path, **extra: str) -> dict[str, str]:
    """The same on every machine: the source tree's agq, the scalar kernels, one thread, no progress, no colour."""
    env = clean_environment(
        AGQ_CACHE_DIR=str(cache), AGQ_ISA="scalar", AGQ_NO_PROGRESS="1", LC_ALL="C.UTF-8", OMP_NUM_THREADS="1"
    )
    return {name: value for name, value in env.items() if name not in _FOREIGN} | extra


def run(
    arguments: Sequence[str], folder: Path, env: dict[str, str], stdin: str = "", server: CommandServer | None = None
) -> Result:
    """With pipes: no terminal."""
    if server is not None:
        forked = server.run(arguments, stdin, folder, _TIMEOUT, env)
        return Result(forked.stdout, forked.stderr, forked.returncode)
    done = subprocess.run(
        [program(), *arguments],
        input=stdin.encode(),
        cwd=folder,
        env=env,
        capture_output=True,
        timeout=_TIMEOUT,
        preexec_fn=_as_a_user,
    )
    return Result(done.stdout.decode(), done.stderr.decode(), done.returncode)


def run_on_terminal(
    arguments: Sequence[str], folder: Path, env: dict[str, str], server: CommandServer | None = None
) -> Result:
    """stdout and stderr are two terminals of 80 x 24, so that they can be told apart; stdin is empty."""
    env = env | {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color"}
    masters, slaves = zip(*(pty.openpty() for _ in range(2)), strict=True)
    for slave in slaves:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    wait = _started(arguments, (nothing, *slaves), folder, env, server)
    for descriptor in (nothing, *slaves):
        os.close(descriptor)
    try:
        stdout, stderr = _read_all(masters)
        code = wait()
    finally:
        for master in masters:
            os.close(master)
    return Result(_lines(stdout), _lines(stderr), code)


def _started(
    arguments: Sequence[str], streams: Sequence[int], folder: Path, env: dict[str, str], server: CommandServer | None
) -> Callable[[], int | None]:
    """What waits for the exit code."""
    if server is not None:
        forked = server.start(arguments, streams, folder, env)
        return lambda: forked.wait(_TIMEOUT)
    stdin, stdout, stderr = streams
    process = subprocess.Popen(
        [program(), *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=folder,
        env=env,
        preexec_fn=_as_a_user,
    )

    def wait() -> int:
        try:
            return process.wait(_TIMEOUT)
        finally:
            process.kill()
            process.wait()

    return wait


def _read_all(files: Sequence[int]) -> list[bytes]:
    found = {file: b"" for file in files}
    with selectors.DefaultSelector() as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    data = os.read(key.fd, 1 << 16)
                except OSError:  # Linux: the other end of the terminal is closed
                    data = b""
                found[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
    return list(found.values())


def _lines(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n")


def _as_a_user() -> None:
    """Without root's right to write where the permissions forbid it; does nothing for anybody else."""
    drop_from_bounding_set, rights = 24, (1, 2)  # PR_CAPBSET_DROP; CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    for right in rights:
        ctypes.CDLL(None).prctl(drop_from_bounding_set, right, 0, 0, 0)
