"""The workflow of docs/ci.md: its `run` lines, as shell, on the demo model."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command_server import CommandServer
from tests.support import REPOSITORY, clean_environment

PAGE = REPOSITORY / "docs" / "examples" / "quantize.yml"
WORKFLOW: dict[str, Any] = yaml.safe_load(PAGE.read_text(encoding="utf-8"))
JOB = WORKFLOW["jobs"]["quantize"]
STEPS = {step["name"]: step["run"] for step in JOB["steps"] if "run" in step}


def run(step: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A step, as the workflow's shell runs it, with its variables."""
    programs = folder.parent / "bin"
    variables = {**WORKFLOW["env"], "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [JOB["defaults"]["run"]["shell"], "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[step]],
        cwd=folder,
        env=clean_environment(**{**variables, "PYTHONPATH": str(REPOSITORY), **environment}),
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_steps_run_and_the_gate_shuts(tmp_path: Path, command_server: CommandServer) -> None:
    """All but Install: the tests have what it installs."""
    folder = tmp_path / "clone"
    for path in (folder, tmp_path / "bin"):
        path.mkdir()
    (folder / "demo").symlink_to(REPOSITORY / "demo")
    command_server.write_program(tmp_path / "bin" / "agq")
    assert list(STEPS) == ["Install", "Quantize", "Pack", "Gate"]
    for step in list(STEPS)[1:]:
        done = run(step, folder)
        assert done.returncode == 0, f"{step}: {done.stderr[-2000:]}"
    report = json.loads((folder / "report.json").read_text())
    assert 1 < report["ratio"] < float(WORKFLOW["env"]["MAX_RATIO"])
    uploaded = JOB["steps"][-1]["with"]["path"].split()
    assert all((folder / name).is_file() for name in uploaded) and len(uploaded) == 2
    shut = run("Gate", folder, MAX_RATIO="1.0")
    assert shut.returncode == 1 and "above the limit" in shut.stderr
    assert json.loads((folder / "report.json").read_text())["ratio"] == report["ratio"]


def test_what_it_installs_exists() -> None:
    """The extra is one of pyproject.toml's."""
    assert STEPS["Install"] == "pip install '.[quantize]'"
    assert "\nquantize = [\n" in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def test_the_page_names_every_step() -> None:
    page = (REPOSITORY / "docs" / "ci.md").read_text(encoding="utf-8")
    assert all(f"\n| {name} | " in page for name in STEPS)
