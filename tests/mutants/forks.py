"""Runs tests on changed modules: agq and the tests are imported once, and each change has a forked child of its own.

In the child the changed functions take the place of the old ones, wherever these were imported to, so a change costs no
more than its tests. No file is touched. Tests that start the command line in a process of its own see no change.
"""

from __future__ import annotations

import functools
import importlib
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# Seconds after which a test counts as failed: a change can make a loop endless.
_TEST_SECONDS = 60
# Bytes that a child may allocate: a change can make a size absurd.
_MEMORY = 6 << 30

GREEN, RED = 0, 1


@dataclass(frozen=True)
class Change:
    """name: for people; file: relative to the repository; code: of the changed module, None for no change; tests: files
    or single tests, as pytest names them, of those that were collected."""

    name: str
    file: str
    code: CodeType | None
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """status: GREEN where no test saw the change, RED where one did; output: of the failed test; others are errors."""

    change: Change
    status: int
    seconds: float
    output: str


Run = Callable[[Iterable[Change], int], Iterator[Result]]


def with_tests(tests: Iterable[str], body: Callable[[Run], int], preloaded: Iterable[str] = ()) -> int:
    """Collects tests (pytest's names) and calls `body`, whose argument runs changes on them, so many at a time: results
    in the order in which they come. preloaded: modules that tests import when they run, and slowly. Returns what `body`
    does, or 2 where the tests cannot be collected."""
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    os.chdir(REPOSITORY)
    import pytest
    from hypothesis import Phase, settings

    # The first failing example is enough: no search for a small one, no memory of it.
    settings.register_profile(
        "changed", phases=(Phase.explicit, Phase.generate), database=None, derandomize=True, deadline=None
    )
    settings.load_profile("changed")
    for name in preloaded:
        importlib.import_module(name)
    loop = _Loop(body)
    options = ["-q", "-x", "-s", "-p", "no:cacheprovider", f"--timeout={_TEST_SECONDS}"]
    status = pytest.main([*options, *dict.fromkeys(tests)], plugins=[loop])
    return 2 if loop.result is None or status not in (0, 5) else loop.result


class _Loop:
    """A pytest plugin in the place of its loop over the tests."""

    def __init__(self, body: Callable[[Run], int]) -> None:
        self.body = body
        self.result: int | None = None

    def pytest_runtestloop(self, session: Any) -> bool:
        if session.testsfailed:
            raise session.Failed("tests cannot be collected")
        self.result = self.body(functools.partial(_run, session))
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            print(report.nodeid, report.longreprtext, sep="\n")


def _run(session: Any, changes: Iterable[Change], jobs: int) -> Iterator[Result]:
    running: dict[int, tuple[Change, float, Path]] = {}
    waiting = iter(changes)
    while True:
        while len(running) < jobs and (change := next(waiting, None)) is not None:
            folder = Path(tempfile.mkdtemp(prefix="agq-mutant-"))
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                _child(session, change, folder)
            running[pid] = change, time.monotonic(), folder
        if not running:
            return
        pid, status = os.wait()
        change, started, folder = running.pop(pid)
        text = (folder / "output").read_text(errors="replace")
        shutil.rmtree(folder, ignore_errors=True)
        yield Result(change, os.waitstatus_to_exitcode(status), time.monotonic() - started, text)


def _child(session: Any, change: Change, folder: Path) -> NoReturn:
    status = 70
    try:
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        items = [item for test in change.tests for item in session.items if _named(item.nodeid, test)]
        session.items = list(dict.fromkeys(items))
        if not session.items:
            raise ValueError(f"no such tests: {', '.join(change.tests)}")
        try:
            if change.code is not None:
                _replace(change.file.removesuffix(".py").replace("/", "."), change.code)
            from _pytest.main import pytest_runtestloop

            pytest_runtestloop(session)
        except session.Failed:
            pass
        except Exception:
            if change.code is None:
                raise
            status = RED  # the changed module cannot be imported
        status = RED if session.testsfailed or status == RED else GREEN
    finally:
        sys.stdout.flush()
        os._exit(status)


def _named(test: str, name: str) -> bool:
    return test == name or (test.startswith(name) and test[len(name)] in "/:[")


def _replace(name: str, code: CodeType) -> None:
    """Puts the functions, methods and constants of changed code into the module that is imported already."""
    module = importlib.import_module(name)
    fresh = ModuleType(name)
    fresh.__dict__.update({key: module.__dict__[key] for key in ("__file__", "__package__", "__spec__")})
    exec(code, fresh.__dict__)
    for key, new in vars(fresh).items():
        old = module.__dict__.get(key)
        if key.startswith("__") or old is new:
            continue
        if isinstance(new, type):
            for attribute, method in vars(new).items():
                _into(vars(old).get(attribute), method)
        elif not _into(old, new):
            for other in list(sys.modules.values()):
                if getattr(other, "__name__", "").startswith(("agq", "tests")) and other.__dict__.get(key) is old:
                    setattr(other, key, new)


def _into(old: Any, new: Any) -> bool:
    """Changes a function of any kind in place; False for what is none."""
    if hasattr(old, "cache_clear"):
        old.cache_clear()
    for inner in ("__wrapped__", "__func__", "fget", "func"):
        if not isinstance(new, FunctionType) and isinstance(getattr(new, inner, None), FunctionType):
            return _into(getattr(old, inner), getattr(new, inner))
    if not isinstance(old, FunctionType) or not isinstance(new, FunctionType):
        return False
    if old.__code__.co_freevars == new.__code__.co_freevars:
        old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
    return True
