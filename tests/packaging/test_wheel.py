"""The wheel: compiled libraries and recipes inside, a platform tag, usable away from the source tree."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def pip(*arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def source(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree (with kernels already compiled, where they are), so that no test writes into the real
    one."""
    folder = tmp_path_factory.mktemp("source") / "agq"
    skip = shutil.ignore_patterns(
        ".git", ".venv", ".demo", "demo", "tests", "build-*", "__pycache__", "*.egg-info", "dist", ".*_cache"
    )
    shutil.copytree(repository, folder, ignore=skip)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    result = pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, ".", cwd=source)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_tag_and_content(wheel: Path, repository: Path) -> None:
    assert wheel.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"agq/lib/libagq-scalar.so", "agq/py.typed"} <= names
    assert len([name for name in names if name.startswith("agq/lib/libagq-")]) >= 4
    configs = repository / "configs"
    recipes = {f"agq/configs/{path.relative_to(configs)}" for path in configs.rglob("*.yaml")}
    assert recipes == {name for name in names if name.startswith("agq/configs/")}
    for own in ("agq/text/own", "agq/comparison/own"):
        texts = {str(path.relative_to(repository)) for path in (repository / own).iterdir()}
        assert texts == {name for name in names if name.startswith(f"{own}/")}
    assert {"agq/planning/machines.yaml", "agq/planning/shapes.yaml"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "demo/", "kernels/")) for name in names)


def test_installed_wheel_runs_with_its_own_libraries(wheel: Path, demo_artifact: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    result = pip("install", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGQ_")}
    program = (
        "import sys; from agq.native.library import load_library; print(load_library().path); "
        "from agq.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    def agq(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**environment, "PYTHONPATH": str(site)},
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    version = agq("--version")
    assert version.returncode == 0, version.stderr
    assert version.stdout.startswith(str(site / "agq" / "lib" / "libagq-"))
    run = agq("run", demo_artifact, "The red wolf", "-n", "8", "--temp", "0")
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.split("\n", 1)[1].split()) >= 3


def test_without_a_compiler_the_reason_is_clear(source: Path, tmp_path: Path) -> None:
    result = pip("wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ".", cwd=source, CC="no-such-compiler")
    assert result.returncode != 0
    output = result.stdout + result.stderr
    assert "agq compiles its C kernels and needs `no-such-compiler`, which is not on this machine" in output
    assert "hint: on Debian, Ubuntu or Raspberry Pi OS: sudo apt-get install gcc libc6-dev make" in output
    assert not list(tmp_path.iterdir())
