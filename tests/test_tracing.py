"""Where `make coverage` counts lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support import clean_environment

SETTINGS = "[run]\nsource_pkgs = lines\nparallel = true\npatch = subprocess\ndisable_warnings = no-data-collected\n"
LINES = "\n".join(
    f"def {name}():\n    return 1" for name in ("before", "within", "after", "child", "alone", "fork", "quiet")
)
# A worker of pytest is no more than a process that it starts, and so is the server.
START = "import subprocess, sys; subprocess.run([sys.executable, 'program.py'], check=True)"
PROGRAM = """
import atexit, os, subprocess, sys, lines
from tests.support import trace_as_told, untraced

def started(name):
    subprocess.run([sys.executable, "-c", f"import lines; lines.{name}()"], check=True)

def forked(name, environment):
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
        return
    os.environ.clear()
    os.environ.update(environment)
    trace_as_told()
    getattr(lines, name)()
    atexit._run_exitfuncs()
    os._exit(0)

lines.before()
started("child")
with untraced():
    lines.within()
    started("alone")
    environment = dict(os.environ)
lines.after()
forked("fork", dict(os.environ))
forked("quiet", environment)
"""


def test_lines_of_slow_tests_do_not_count(tmp_path: Path) -> None:
    """Nor those of what they start, or of the commands that a server forks for them."""
    for name, text in {"settings": SETTINGS, "lines.py": LINES, "start.py": START, "program.py": PROGRAM}.items():
        (tmp_path / name).write_text(text)
    environment = clean_environment()
    environment["PYTHONPATH"] += f":{tmp_path}"
    environment.pop("COVERAGE_PROCESS_CONFIG", None)
    for words in (["run", "--rcfile=settings", "start.py"], ["combine", "-q"], ["json", "-q", "-o", "found"]):
        subprocess.run(
            [sys.executable, "-m", "coverage", *words], cwd=tmp_path, env=environment, check=True, timeout=60
        )
    (found,) = json.loads((tmp_path / "found").read_text())["files"].values()
    ran = {name for name, body in found["functions"].items() if name and body["executed_lines"]}
    assert ran == {"before", "child", "after", "fork"}
