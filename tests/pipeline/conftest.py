"""One pass of the real commands over the demo model, shared by the tests of this folder."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import last_object

Cli = Callable[..., subprocess.CompletedProcess[str]]

# So few steps of tuning bring W4A4 no nearer to the original.
FEWER_STEPS = {"W4A8": ["--tune", 4], "W4A4": ["--tune", 0, "--rot-steps", 40]}


@dataclass
class Pipeline:
    """Calls the commands as the demo does, in a folder of its own; results are made once and kept."""

    cli: Cli
    model: Path
    calibration: Path
    heldout: Path
    folder: Path

    def __post_init__(self) -> None:
        self._perplexities: dict[Path, dict] = {}

    def statistics(self) -> Path:
        path = self.folder / "statistics.safetensors"
        if not path.exists():
            self.cli(
                "calibrate",
                self.model,
                "--data",
                self.calibration,
                "--samples",
                16,
                "--seq-len",
                512,
                "-o",
                path,
                check=True,
            )
        return path

    def options(self, scheme: str, method: str | None = None) -> list[str | int | Path]:
        """Of `quantize`: by default what the scheme's preset does, tuned and rotations learned for fewer steps; with a
        method that method and nothing else."""
        chosen = ["--method", method] if method else FEWER_STEPS.get(scheme, [])
        return ["--scheme", scheme, *chosen, "--calibration", self.statistics()]

    def quantized(self, scheme: str, method: str | None = None) -> Path:
        path = self.folder / f"{scheme}-{method or 'default'}"
        if not path.exists():
            self.cli("quantize", self.model, *self.options(scheme, method), "-o", path, check=True)
        return path

    def packed(self, scheme: str, method: str | None = None) -> Path:
        path = self.folder / f"{scheme}-{method or 'default'}.agq.safetensors"
        if not path.exists():
            self.cli("pack", self.quantized(scheme, method), "-o", path, check=True)
        return path

    def evaluate(self, model: Path) -> dict:
        """The whole object of `eval-ppl --json` on the first 8 windows of the held-out text."""
        if model not in self._perplexities:
            result = self.cli("eval-ppl", model, "--data", self.heldout, "--seq-len", 1024, "--json", check=True)
            self._perplexities[model] = last_object(result)
        return self._perplexities[model]

    def perplexity(self, model: Path) -> float:
        return self.evaluate(model)["ppl"]


@pytest.fixture(scope="session")
def pipeline(agq_cli: Cli, demo_model: Path, demo_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("pipeline")
    heldout = folder / "heldout.txt"
    heldout.write_text((demo_text / "heldout.txt").read_text(encoding="utf-8")[:32_500], encoding="utf-8")
    return Pipeline(agq_cli, demo_model, demo_text / "calibration.txt", heldout, folder)
