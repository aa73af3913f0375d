"""Makefile, scripts and pinned versions: what a newcomer meets before any line of agq runs."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest


def shell(repository: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=repository,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def requirement_name(requirement: str) -> str:
    return re.split(r"[\s<>=!~\[;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_make_alone_lists_every_target(repository: Path) -> None:
    plain, asked = shell(repository, "make"), shell(repository, "make", "help")
    assert plain.returncode == 0 and plain.stdout == asked.stdout
    for target in (
        *("demo", "test", "check", "lint", "types", "format", "coverage"),
        *("kernels", "install", "wheel", "pi", "sanitize", "bench", "deps", "clean"),
    ):
        assert re.search(rf"^  make {target} +\S", asked.stdout, re.MULTILINE), target


@pytest.mark.parametrize(
    ("group", "env", "words", "packages"),
    [
        ("build", {"CC": "no-such-compiler"}, "no-such-compiler", "gcc libc6-dev"),
        ("build", {"PYTHON": "no-such-python"}, "no-such-python", "python3 python3-venv"),
        ("cross", {"CROSS_ARM": "no-such-"}, "no-such-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
        ("arm", {"CROSS_ARM": "no-such-"}, "no-such-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
        ("arm", {"QEMU": "no-such-emulator"}, "no-such-emulator", "qemu-user"),
        ("pi", {"QEMU_STATIC": "no-such-emulator"}, "no-such-emulator", "qemu-user-static"),
    ],
)
def test_missing_tool_is_named_with_the_packages_that_hold_it(
    repository: Path, group: str, env: dict[str, str], words: str, packages: str
) -> None:
    result = shell(repository, "scripts/deps.sh", group, **env)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and words in result.stderr
    assert re.search(f"hint: on Debian, .*: sudo apt-get install (.* )?{packages}\n", result.stderr)


@pytest.mark.parametrize(
    ("target", "wanted", "installed"),
    [("wheel", "build", ["setuptools"]), ("chat", "run", ["setuptools", "."]), ("pi", "run", ["setuptools", "."])],
)
def test_wheels_and_ready_models_need_no_pytorch(
    repository: Path, tmp_path: Path, target: str, wanted: str, installed: list[str]
) -> None:
    """What pip is asked for: setuptools, and agq without extras."""
    planned = shell(repository, "make", "-n", target, f"VENV={tmp_path / 'venv'}", "CROSS=aarch64-linux-gnu-")
    assert planned.returncode == 0, planned.stderr
    sets = re.findall(r"scripts/venv\.sh \S+ (\w+)", planned.stdout)
    assert sets == [wanted]
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/log\n')
    python.chmod(0o755)
    made = shell(repository, "scripts/venv.sh", str(tmp_path / "venv"), wanted)
    assert made.returncode == 0, made.stderr
    assert [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()] == installed


@pytest.fixture
def bare_machine(tmp_path: Path) -> dict[str, str]:
    """A user without an emulator, whose sudo asks for no password and whose apt-get "installs" the emulator."""
    programs = {
        "id": "echo 1000",
        "sudo": '[ "$1" = -n ] && shift && exec "$@"',
        "apt-get": f'echo "$@" >>{tmp_path}/log; [ "$1" = update ] || cp "$0" {tmp_path}/emulator',
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "QEMU": "emulator"}


def test_missing_packages_come_by_a_sudo_that_asks_nothing(
    repository: Path, bare_machine: dict[str, str], tmp_path: Path
) -> None:
    result = shell(repository, "scripts/deps.sh", "--install", "build", "arm", **bare_machine)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()] == ["update", "install"]
    assert (tmp_path / "log").read_text().splitlines()[1].endswith(" qemu-user")


def test_nothing_is_installed_where_sudo_asks_or_nobody_wants_it(
    repository: Path, bare_machine: dict[str, str], tmp_path: Path
) -> None:
    unasked = shell(repository, "scripts/deps.sh", "build", "arm", **bare_machine)
    (tmp_path / "sudo").write_text("#!/bin/sh\nexit 1\n")
    refused = shell(repository, "scripts/deps.sh", "--install", "build", "arm", **bare_machine)
    for result in (unasked, refused):
        assert result.returncode == 1 and result.stderr.startswith("error: ")
        assert result.stderr.endswith("sudo apt-get install qemu-user\n")
    assert not (tmp_path / "log").exists()


def test_scripts_are_executable(repository: Path) -> None:
    for name in (".ci/run", "scripts/bare.sh", "scripts/deps.sh", "scripts/pi.sh", "scripts/venv.sh"):
        assert os.access(repository / name, os.X_OK), name


def test_every_dependency_is_pinned(repository: Path) -> None:
    pinned = {}
    for line in (repository / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, separator, version = line.partition("==")
            assert separator and "+" not in version, f"{line}: one exact version, without a local part"
            pinned[name] = version
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [item for extra in project["optional-dependencies"].values() for item in extra]
    missing = {requirement_name(item) for item in wanted} - set(pinned) - {"agq"}
    assert not missing, f"not in constraints.txt: {sorted(missing)}"


def test_running_a_model_needs_nothing_heavy(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    core = {requirement_name(item) for item in project["dependencies"]}
    assert not core & {"torch", "transformers", "datasets", "pandas", "scipy", "compressed-tensors"}


def test_demo_model_is_the_documented_one(repository: Path, demo_model: Path) -> None:
    digest = hashlib.sha256((demo_model / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (repository / "demo" / "README.md").read_text()


def test_demo_texts_are_attributed(repository: Path, demo_text: Path) -> None:
    readme = (repository / "demo" / "README.md").read_text()
    assert "Attribution-ShareAlike 3.0" in readme
    for name in ("calibration.txt", "heldout.txt"):
        text = (demo_text / name).read_text(encoding="utf-8")
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}`"))
        titles = {article.split("\n", 1)[0] for article in text.strip("\n").split("\n\n")}
        assert titles == {title.strip() for title in row.split("|")[5].split(";")}
        assert f"{len(text.encode()):,}" in row
