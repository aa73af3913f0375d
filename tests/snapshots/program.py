"""Runs the installed program, with pipes or on a terminal of 80 columns."""

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    code: int


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


def run(arguments: Sequence[str], folder: Path, env: dict[str, str], stdin: str = "") -> Result:
    """With pipes: no terminal."""
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


def run_on_terminal(arguments: Sequence[str], folder: Path, env: dict[str, str]) -> Result:
    """stdout and stderr are two terminals of 80 x 24, so that they can be told apart; stdin is empty."""
    env = env | {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color"}
    pairs = [pty.openpty() for _ in range(2)]
    for _, slave in pairs:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [program(), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=pairs[0][1],
        stderr=pairs[1][1],
        cwd=folder,
        env=env,
        preexec_fn=_as_a_user,
    )
    for _, slave in pairs:
        os.close(slave)
    try:
        stdout, stderr = _read_all([master for master, _ in pairs])
        code = process.wait(_TIMEOUT)
    finally:
        process.kill()
        process.wait()
        for master, _ in pairs:
            os.close(master)
    return Result(_lines(stdout), _lines(stderr), code)


def _read_all(files: list[int]) -> list[bytes]:
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
