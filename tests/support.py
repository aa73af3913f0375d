"""Helpers that tests import: `from tests.support import ...`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# Coverage counts lines in processes that have this variable.
_TRACED = "COVERAGE_PROCESS_CONFIG"
TRACING = {name: value for name, value in os.environ.items() if name == _TRACED}


def shared_folder() -> Path:
    """Where further trained models and texts are, whether or not it exists."""
    return Path(os.environ.get("AGQ_SHARED", REPOSITORY.parent / "shared"))


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without the user's AGQ_* settings (they would change defaults), with the repository
    importable."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AGQ_") or name == "AGQ_SHARED"}
    path = env.get("PYTHONPATH")
    env["PYTHONPATH"] = str(REPOSITORY) if not path else f"{REPOSITORY}{os.pathsep}{path}"
    env.update(NO_COLOR="1", HF_HUB_OFFLINE="1", **extra)
    return env


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Coverage, where it runs, counts no lines here, nor in processes that are started."""
    coverage = sys.modules.get("coverage")
    if coverage is None or (current := coverage.Coverage.current()) is None:
        yield
        return
    current.stop()
    settings = os.environ.pop(_TRACED, None)
    try:
        yield
    finally:
        if settings is not None:
            os.environ[_TRACED] = settings
        current.start()


def trace_as_told() -> None:
    """In a fork: no longer counts lines where the environment, which is the fork's own, does not say so."""
    coverage = sys.modules.get("coverage")
    if _TRACED not in os.environ and coverage and (current := coverage.Coverage.current()):
        current.stop()


def last_object(result: subprocess.CompletedProcess[str]) -> dict:
    """The object that a command's `--json` output ends with."""
    return json.loads(result.stdout.strip().splitlines()[-1])


def heed_interrupts() -> None:
    """`preexec_fn` of a child that is to be interrupted: a test run in the background ignores Ctrl-C, and children
    inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
