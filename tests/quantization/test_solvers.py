"""Solvers are a registry: one row and one file make a method that a recipe can name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from agq.numerics.quantizers import weight_grid
from agq.quantization import solvers
from agq.quantization.checks import estimate
from agq.quantization.solvers.hessian import Hessian
from agq.quantization.solvers.solver import Unsolvable
from agq.quantization.writer import module_schemes
from agq.recipe import METHODS, Method, Recipe
from agq.recipe.methods import FALLBACK
from tests.quantization.quantization_support import quantized

# All codes are zero; with seed 1 it refuses inputs of 256 channels: those of all linears but the feed-forward's last.
SOURCE = """
import torch

from agq.quantization.solvers.hessian import layer_loss
from agq.quantization.solvers.solver import Rounding, Solution, Unsolvable


def prepare(hessian, recipe):
    if hessian.matrix.shape[0] == 256 and recipe.seed == 1:
        raise Unsolvable("too narrow")

    def solve(weight, grid):
        codes = torch.zeros_like(weight, dtype=torch.int8)
        return Solution(codes, layer_loss(weight, torch.zeros_like(weight), hessian.matrix))

    return Rounding(solve, 0.125, "all weights are zero")
"""


@pytest.fixture()
def zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A throw-away method: its row, and its file in a folder of its own."""
    folder = tmp_path / "solvers"
    folder.mkdir()
    (folder / "zeros.py").write_text(SOURCE)
    monkeypatch.setitem(METHODS, "zeros", Method("all weights zero", working_bytes=lambda columns: 1000 * columns))
    monkeypatch.setattr(solvers, "__path__", [*solvers.__path__, str(folder)])
    return "zeros"


def test_every_row_has_its_file_and_every_file_its_row() -> None:
    files = {path.stem for path in Path(solvers.__file__).parent.glob("*.py")} - {"__init__", "solver", "hessian"}
    assert files == set(METHODS)
    assert FALLBACK in METHODS and not METHODS[FALLBACK].calibrated
    for method in METHODS:
        assert callable(solvers.solver(method))


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.calibrated])
def test_what_is_not_positive_definite_is_unsolvable(method: str) -> None:
    row, weight = METHODS[method], torch.ones(2, 32)
    hessian = Hessian(32, cross=row.float_model)
    hessian.add(torch.randn(64, 32), torch.randn(64, 32) if row.float_model else None)
    hessian.finish()
    hessian.matrix.diagonal().neg_()
    hessian.matrix[0, 1] = float("nan")
    with pytest.raises(Unsolvable, match="damping up to 10"):
        solvers.solver(method)(hessian, Recipe(method=method))
    rounded = solvers.solver(FALLBACK)(None, Recipe()).solve(weight, weight_grid(weight, 4, True, 32))
    assert rounded.codes.unique().tolist() == [7]


@pytest.mark.slow
def test_a_solver_is_one_row_and_one_file(zeros: str, short_model: Path, tmp_path: Path) -> None:
    from agq.checkpoint import open_checkpoint, read_linear

    report = quantized(short_model, tmp_path / "q", scheme="W4A8", method=zeros)
    assert report.fallbacks == 0
    assert {layer["method"] for layer in report.layers} == {"zeros"}
    assert report.layers[0]["relative"] == pytest.approx(1) and report.layers[0]["damping"] == 0.125
    made = open_checkpoint(tmp_path / "q")
    assert not read_linear(made, next(iter(made.parts.block_linears())).module).dequantize().any()
    assert json.loads((tmp_path / "q" / "agq.json").read_text())["recipe"]["method"] == "zeros"


@pytest.mark.slow
def test_what_it_cannot_solve_is_rounded_to_nearest(zeros: str, short_model: Path, tmp_path: Path) -> None:
    quantized(short_model, tmp_path / "rtn", scheme="W4A8", method="rtn", mse=False)
    recipe = Recipe(method=zeros, seed=1)
    report = quantized(short_model, tmp_path / "q", recipe=recipe, mse=False)
    fallen = {layer["module"].rsplit(".", 1)[1] for layer in report.layers if layer["fallback"]}
    assert fallen == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}
    assert {layer["method"] for layer in report.layers} == {"rtn", "zeros"}


def test_the_estimate_asks_the_row(zeros: str, short_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agq.checkpoint import open_checkpoint

    parts = open_checkpoint(short_model).parts
    widest = max(linear.in_features for linear in parts.block_linears())

    def needs(method: str):
        return estimate(parts, module_schemes(parts, Recipe(method=method)), method, (4, 128), 0)

    assert needs(zeros).working == needs("rtn").working + 1000 * widest
    assert needs("gptq").working == needs("rtn").working + 32 * widest**2
    before = needs(zeros)
    monkeypatch.setitem(METHODS, zeros, Method("", float_model=True, working_bytes=lambda columns: 1000 * columns))
    assert needs(zeros).hidden == 2 * before.hidden and needs(zeros).working > before.working
