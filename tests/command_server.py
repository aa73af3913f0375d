"""Runs `agq` commands in forked processes of one server, which has imported what they import: a command of a few lines
takes two seconds of processor time to import PyTorch, and the tests start hundreds.

A command has a process, arguments, environment, folder and streams of its own, as a user's has. What it lacks is a
fresh interpreter: tests of imports and of the start itself begin a real one.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NoReturn

from tests.support import TRACING, trace_as_told

# What commands import when they run.
PRELOADED = (
    "torch",
    "tokenizers",
    "safetensors.torch",
    "gguf",
    "rich.console",
    "rich.markdown",
    "rich.table",
    "typer.rich_utils",
    "agq.quantization.quantize",
    "agq.quantization.compute",
    "agq.quantization.execute",
    "agq.quantization.transforms.parameters",
    "agq.evaluation.reference_scorer",
    "agq.artifact.pack",
    "agq.runtime.engine",
    "agq.sweep.runner",
)


class CommandServer:
    """environment: of the server; each command brings its own. cwd: the repository."""

    # Of all commands of this process, for tests/processor_time.py: they are no children of it.
    processor_seconds: ClassVar[list[float]] = []
    running: ClassVar[list[CommandServer]] = []

    def __init__(self, environment: dict[str, str], cwd: Path) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="agq-")  # a short path: a socket's name has 107 bytes
        self.path = f"{self.folder.name}/server"
        self.running.append(self)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(16)
        with listener:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.command_server", str(listener.fileno())],
                env=environment | TRACING,
                cwd=cwd,
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def close(self) -> None:
        self.seconds()
        self.running.remove(self)
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    @classmethod
    def seconds(cls) -> float:
        """Processor time of all commands so far. Those that shells started stand in files, a line each."""
        for server in cls.running:
            told = Path(f"{server.path}.seconds")
            if told.exists():
                cls.processor_seconds += map(float, told.read_text().split())
                told.unlink()
        return sum(cls.processor_seconds)

    def write_program(self, path: Path) -> None:
        """A program `agq` for shells, whose processes are forks of this server."""
        client = Path(__file__).with_name("command_client.py")
        path.write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {shlex.quote(str(client))} {self.path} "$@"\n'
        )
        path.chmod(0o755)

    def start(self, arguments: Sequence[str], streams: Sequence[int], cwd: Path, env: dict[str, str]) -> Command:
        """streams: descriptors that become the command's stdin, stdout and stderr; the caller closes its own."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        socket.send_fds(connection, [b"f"], list(streams))
        request = {"arguments": list(arguments), "cwd": str(cwd), "env": env}
        connection.sendall(json.dumps(request).encode() + b"\n")
        return Command(connection)

    def run(
        self, arguments: Sequence[str], stdin: str, cwd: Path, timeout: float, env: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """As subprocess.run with captured text."""
        ours, theirs = zip(*(os.pipe()[:: -1 if number == 0 else 1] for number in range(3)), strict=True)
        command = self.start(arguments, theirs, cwd, env)
        for descriptor in theirs:
            os.close(descriptor)
        texts: dict[int, str] = {}
        threads = [threading.Thread(target=_write, args=(ours[0], stdin))]
        threads += [threading.Thread(target=_read, args=(ours[number], texts, number)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        status = command.wait(timeout)
        for thread in threads:
            thread.join()
        if status is None:
            raise subprocess.TimeoutExpired(list(arguments), timeout, texts[1], texts[2])
        return subprocess.CompletedProcess(list(arguments), status, texts[1], texts[2])


class Command:
    """A running one."""

    def __init__(self, connection: socket.socket) -> None:
        self._answer = connection.makefile()
        connection.close()
        self.pid = int(self._answer.readline())

    def wait(self, timeout: float) -> int | None:
        """The exit code, negative for a signal; None where it was killed after `timeout` seconds."""
        late = threading.Timer(timeout, os.kill, (self.pid, signal.SIGKILL))
        late.start()
        status, seconds = self._answer.readline().split()
        killed = late.finished.is_set()
        late.cancel()
        self._answer.close()
        CommandServer.processor_seconds.append(float(seconds))
        return None if killed else int(status)


def _write(descriptor: int, text: str) -> None:
    with contextlib.suppress(BrokenPipeError), open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)


def _read(descriptor: int, texts: dict[int, str], number: int) -> None:
    with open(descriptor, encoding="utf-8") as stream:
        texts[number] = stream.read()


def _serve(listener: socket.socket) -> tuple[list[str], dict[str, str]]:
    """Forks for each request; returns in the command's process, with its arguments and its environment."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for these processes, and their times are told
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
        request = json.loads(connection.makefile().readline())
        if pid := os.fork():
            _wait(connection, streams, pid)
        connection.close()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(request["cwd"])
        return request["arguments"], request["env"]


def _wait(connection: socket.socket, streams: list[int], pid: int) -> NoReturn:
    for descriptor in streams:
        os.close(descriptor)
    connection.sendall(f"{pid}\n".encode())
    _, status, used = os.wait4(pid, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)} {used.ru_utime + used.ru_stime}\n".encode())
    os._exit(0)


def main(descriptor: int) -> NoReturn:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as a command does before it imports PyTorch
    import agq.cli

    commands = [f"agq.cli.{module.name}" for module in pkgutil.iter_modules(agq.cli.__path__)]
    for name in (*PRELOADED, *commands):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a command would copy all pages
    arguments, environment = _serve(socket.socket(fileno=descriptor))
    os.environ.clear()
    os.environ.update(environment)
    trace_as_told()
    sys.argv = ["agq", *arguments]
    code = agq.cli.main()
    # What the end of an interpreter does, but for the memory: to free what the server imported takes half a second.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
