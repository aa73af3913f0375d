"""Helpers that tests import: `from tests.support import ...`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


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


def last_object(result: subprocess.CompletedProcess[str]) -> dict:
    """The object that a command's `--json` output ends with."""
    return json.loads(result.stdout.strip().splitlines()[-1])


def heed_interrupts() -> None:
    """`preexec_fn` of a child that is to be interrupted: a test run in the background ignores Ctrl-C, and children
    inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
