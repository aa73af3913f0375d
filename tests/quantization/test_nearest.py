"""Rounding to nearest without PyTorch gives the folder that PyTorch gives, byte for byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agq.formats import PER_ROW, PerGroup
from agq.numerics.quantizers import quantize_weight, weight_grid
from agq.quantization import nearest
from agq.quantization.nearest import Rounding, suffices
from agq.recipe import WeightScheme
from agq.reporting.progress import Progress
from agq.safetensors.scales import round_scale
from tests.quantization.quantization_support import Stop, contents, differences, planned, quantized
from tests.quantization.test_resume import StopAfter
from tests.support import REPOSITORY, clean_environment

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def weights(rows: int, columns: int) -> torch.Tensor:
    """Normal values with some far out; rows of zeros, of one value, of one sign, of tiny and huge ones."""
    draw = torch.Generator().manual_seed(rows)
    made = torch.randn(rows, columns, generator=draw) * torch.rand(rows, 1, generator=draw)
    made[torch.rand(rows, columns, generator=draw) < 0.01] *= 6
    made[0], made[1], made[2], made[3], made[4] = 0, -0.25, made[2] * 1e-7, made[3] * 1e-38, made[4] * 1e37
    made[5], made[6] = made[5].abs() + 1, -made[6].abs() - 1
    return made


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "size", "mse"), [(4, 32, True), (4, 64, True), (8, -1, True), (4, 96, False)])
def test_codes_and_grids_are_torchs(bits: int, size: int, mse: bool, symmetric: bool, stored: str) -> None:
    weight = weights(700, 576)
    grid = weight_grid(weight, bits, symmetric, size, mse, None, DTYPES[stored])
    scheme = WeightScheme(bits, symmetric, PER_ROW if size < 0 else PerGroup(size))
    codes, scale, zero, bounds = Rounding(scheme, mse, stored).of(weight.numpy())
    assert np.array_equal(scale, grid.scale.numpy())
    assert (zero is None) == symmetric and (zero is None or np.array_equal(zero, grid.zero.numpy()))
    assert np.array_equal(codes, quantize_weight(weight, grid).numpy())
    assert bounds == (float(weight.min()), float(weight.max()))


def test_scales_that_cannot_be_stored_are_one() -> None:
    """fp16's least number is 2^-24, and 65280 the largest bf16 value below its infinity."""
    scale = np.array([[np.inf, 1.0], [70000.0, 2.0**-30], [1.00390625, 2.0**-24]], np.float32)
    assert round_scale(scale.copy(), "BF16").tolist() == [[1, 1], [70144, 2.0**-30], [1, 2.0**-24]]
    assert round_scale(scale.copy(), "F16").tolist() == [[65280, 1], [65280, 1], [1, 2.0**-24]]


RUNS: dict[str, dict[str, Any]] = {
    "W4A8": {"scheme": "W4A8"},
    "asymmetric": {"scheme": "W4A8", "asym": True},
    "W8A8, whole ranges": {"scheme": "W8A8", "mse": False},
    "W4A4, clipped, some left out": {"scheme": "W4A4", "act_clip": 0.9, "ignore": ["re:.*0.mlp.down_proj"]},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_folder_is_torchs(short_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    options = {"method": "rtn", **RUNS[name]}
    assert suffices(planned(short_model, tmp_path / "light", **options))
    light = quantized(short_model, tmp_path / "light", **options)
    monkeypatch.setattr(nearest, "suffices", lambda plan: False)
    heavy = quantized(short_model, tmp_path / "heavy", **options)
    assert differences(tmp_path / "light", tmp_path / "heavy") == []
    assert str(light.layers) == str(heavy.layers) and light.bits_per_weight == heavy.bits_per_weight


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "W4A8", "method": "gptq"},
        {"scheme": "FP8", "method": "rtn"},
        {"scheme": "W4A8", "method": "rtn", "hadamard": 128},
    ],
    ids=str,
)
def test_what_needs_torch(short_model: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    assert not suffices(planned(short_model, tmp_path / "out", **options))


def test_without_the_library_torch_searches(short_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "library", lambda: None)
    assert not suffices(planned(short_model, tmp_path / "out", scheme="W4A8", method="rtn"))
    assert suffices(planned(short_model, tmp_path / "out", scheme="W4A8", method="rtn", mse=False))


def test_an_interrupted_run_goes_on(short_model: Path, tmp_path: Path) -> None:
    options = {"scheme": "W4A8", "method": "rtn"}
    quantized(short_model, tmp_path / "whole", **options)
    with pytest.raises(Stop):
        quantized(short_model, tmp_path / "out", progress=StopAfter(0), **options)
    seen: list[int] = []

    class Seen(Progress):
        def layer(self, index: int, report: object) -> None:
            seen.append(index)

    assert quantized(short_model, tmp_path / "out", progress=Seen(), **options).resumed == 1
    assert seen and 0 not in seen
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_torch_is_not_imported(short_model: Path, tmp_path: Path) -> None:
    """By the command, the dry run before it neither."""
    program = (
        "import sys; from agq.cli import main; assert main(sys.argv[1:]) == 0;"
        "assert main([*sys.argv[1:], '--dry-run', '--force']) == 0;"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    command = ["quantize", str(short_model), "--method", "rtn", "--scheme", "W4A8", "-o", str(tmp_path / "out")]
    result = subprocess.run(
        [sys.executable, "-c", program, *command],
        capture_output=True,
        text=True,
        env=clean_environment(PYTHONPATH=str(REPOSITORY)),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("[]\n")
