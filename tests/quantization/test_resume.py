"""An interrupted run continues at the block where it stopped, and gives the same bytes as one that was never
interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agq.errors import AgqError
from agq.reporting.progress import Progress
from tests.quantization.quantization_support import TEXT, Stop, differences, quantized
from tests.support import clean_environment

pytestmark = pytest.mark.slow

# What an interrupted run must remember: the transformations, the clips, the drift of GPTAQ.
RUNS: dict[str, dict[str, Any]] = {
    "gptq": {"scheme": "W4A8"},
    "everything": {
        "scheme": "W4A4",
        "method": "gptaq",
        "rotate": True,
        "scale": True,
        "hadamard": 128,
        "permute": True,
        "rot_seeds": 2,
        "act_clip": "search",
        "kv_bits": 4,
    },
    "rtn with clips": {
        "scheme": "W4A4",
        "method": "rtn",
        "act_clip": "search",
        "data": str(TEXT),
        "samples": 2,
        "seq_len": 64,
    },
}


class StopAfter(Progress):
    """Raises once the block `index` is stored."""

    def __init__(self, index: int) -> None:
        self.index = index

    def block(self, index: int, seconds: float, resumed: bool) -> None:
        if index == self.index:
            raise Stop


@pytest.fixture(scope="module")
def wholes(short_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of RUNS that nothing interrupted, each made when it is first asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            self[name] = quantized(short_model, tmp_path_factory.mktemp("whole") / "whole", **RUNS[name]).path
            return self[name]

    return Made()


@pytest.mark.parametrize("name", RUNS)
def test_run_that_was_interrupted_between_blocks(
    short_model: Path, wholes: dict[str, Path], tmp_path: Path, name: str
) -> None:
    with pytest.raises(Stop):
        quantized(short_model, tmp_path / "resumed", progress=StopAfter(0), **RUNS[name])
    work = tmp_path / ".resumed.agq-work"
    assert work.is_dir() and not (tmp_path / "resumed").exists()
    report = quantized(short_model, tmp_path / "resumed", **RUNS[name])
    assert report.resumed == 1 and not work.exists()
    assert not differences(tmp_path / "resumed", wholes[name])


def test_run_that_was_killed(short_model: Path, wholes: dict[str, Path], tmp_path: Path) -> None:
    """SIGKILL between the storing of a block and everything that follows it."""
    program = """
import os, signal, sys
from agq.reporting.progress import Progress
from tests.quantization.quantization_support import quantized
from tests.quantization.test_resume import RUNS
from pathlib import Path

class Kill(Progress):
    def block(self, index, seconds, resumed):
        os.kill(os.getpid(), signal.SIGKILL)

quantized(Path(sys.argv[1]), Path(sys.argv[2]), progress=Kill(), **RUNS["everything"])
"""
    killed = subprocess.run(
        [sys.executable, "-c", program, str(short_model), str(tmp_path / "resumed")],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "resumed").exists()
    assert quantized(short_model, tmp_path / "resumed", **RUNS["everything"]).resumed == 1
    assert not differences(tmp_path / "resumed", wholes["everything"])


def test_interrupted_search_of_the_transformations_starts_again(short_model: Path, tmp_path: Path) -> None:
    class StopAtFirstStep(Progress):
        def advance(self, text: str) -> None:
            assert text.startswith("transformations of block")
            raise Stop

    options = {"scheme": "W4A8", "scale": True}
    with pytest.raises(Stop):
        quantized(short_model, tmp_path / "resumed", progress=StopAtFirstStep(), **options)
    assert quantized(short_model, tmp_path / "resumed", **options).resumed == 0
    quantized(short_model, tmp_path / "whole", **options)
    assert not differences(tmp_path / "resumed", tmp_path / "whole")


def test_work_folder_of_other_settings_is_refused_by_name(short_model: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        quantized(short_model, tmp_path / "out", scheme="W4A8", progress=StopAfter(0))
    with pytest.raises(AgqError, match=r"recipe\.gptq\.damping") as caught:
        quantized(short_model, tmp_path / "out", scheme="W4A8", damping=0.02)
    assert "`resume: false`" in caught.value.hint
    report = quantized(short_model, tmp_path / "out", scheme="W4A8", damping=0.02, resume=False)
    assert report.resumed == 0
