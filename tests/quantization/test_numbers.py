"""Odd numbers on the way of a quantization run: counted, refused, or taken back and told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agq.artifact import open_artifact
from agq.artifact.pack import pack
from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.inspect.verify import verify
from agq.numerics.quantizers import Grid, fake_quantize, weight_grid
from agq.quantization.numbers import DEAD_CHANNELS, Numbers
from agq.quantization.solvers import gptq
from agq.quantization.solvers.hessian import Hessian
from agq.quantization.solvers.solver import Rounding, Solution, Unsolvable
from agq.quantization.solving import Solving
from agq.quantization.transforms import learn
from agq.quantization.tuning.stage import judged
from agq.recipe import Recipe, TuneOptions
from agq.reporting.progress import Progress
from agq.runtime.engine import Engine
from tests.quantization.quantization_support import contents, quantized

QUICK = {"preset": "gptq", "scheme": "W4A8", "group_size": 64}
# With everything that measures and learns, but tuning.
LEARNED = {"scheme": "W4A4", "group_size": 64, "act_group": 64, "tune": 0, "rot_steps": 3}


def changed(source: Path, target: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """A copy of a model with other tensors."""
    shutil.copytree(source, target)
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def numbers(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "agq.json").read_text())["report"].get("numbers", {})


class Told(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.slow
def test_a_whole_model_has_nothing_to_tell(short_model: Path, tmp_path: Path) -> None:
    quantized(short_model, tmp_path / "q", **QUICK, samples=16)
    assert numbers(tmp_path / "q") == {}


def _odd(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.0.self_attn.k_proj.weight"].zero_()
    tensors["model.layers.1.self_attn.v_proj.weight"].fill_(0.01)
    tensors["model.layers.0.input_layernorm.weight"][:3] = 0


@pytest.mark.slow
def test_zeros_and_constants_are_counted(short_model: Path, tmp_path: Path) -> None:
    """512 tokens: fewer than the 768 inputs of the second feed-forward layers."""
    model = changed(short_model, tmp_path / "m", _odd)
    quantized(model, tmp_path / "q", **QUICK)
    found = numbers(tmp_path / "q")
    assert found == {"zero_matrices": 1, "constant_matrices": 1, "dead_channels": 3, "rank_deficient_hessians": 2}
    assert verify(tmp_path / "q") == ("folder", [])


@pytest.mark.slow
def test_a_matrix_of_zeros_with_all_transformations(short_model: Path, tmp_path: Path) -> None:
    """Its share of a learned rotation was 0 / 0."""
    model = changed(short_model, tmp_path / "m", lambda t: t["model.layers.1.self_attn.k_proj.weight"].zero_())
    quantized(model, tmp_path / "q", **LEARNED)
    assert numbers(tmp_path / "q")["zero_matrices"] == 1
    assert "taken_back" not in numbers(tmp_path / "q")
    open_checkpoint(tmp_path / "q").check_finite()
    pack(tmp_path / "q", tmp_path / "a")
    assert verify(tmp_path / "a") == ("packed", [])
    with Engine(open_artifact(tmp_path / "a"), threads=1, context=16) as engine:
        assert torch.isfinite(torch.from_numpy(engine.forward([1, 2, 3], logits="all"))).all()


@pytest.mark.slow
def test_tokens_of_zeros_and_windows_of_one_token(short_model: Path, tmp_path: Path) -> None:
    model = changed(short_model, tmp_path / "m", lambda t: t["model.embed_tokens.weight"].zero_())
    report = quantized(model, tmp_path / "q", **QUICK, samples=3, seq_len=1)
    found = numbers(tmp_path / "q")
    assert found["zero_tokens"] > 0 and found["dead_channels"] > 256 and report.fallbacks == 0
    assert verify(tmp_path / "q") == ("folder", [])


@pytest.mark.slow
def test_activations_that_overflow(short_model: Path, tmp_path: Path) -> None:
    import agq

    def large(tensors: dict[str, Tensor]) -> None:
        for role in ("up", "down"):
            tensors[f"model.layers.0.mlp.{role}_proj.weight"].mul_(1e22)

    model = changed(short_model, tmp_path / "m", large)
    for made in (
        lambda: quantized(model, tmp_path / "q", **LEARNED),
        lambda: quantized(model, tmp_path / "q", **QUICK, resume=False),
    ):
        with pytest.raises(AgqError, match="hidden states after block 1 are not finite"):
            made()
    with pytest.raises(AgqError, match=r"inputs of `model\.layers\.0\.mlp\.down_proj` are not finite"):
        agq.calibrate(
            model,
            tmp_path / "c",
            data=str(Path(agq.__file__).parents[1] / "demo/text/calibration.txt"),
            samples=1,
            seq_len=32,
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_sources_that_are_not_finite(short_model: Path, tmp_path: Path, value: float) -> None:
    import agq

    model = changed(short_model, tmp_path / "m", lambda t: t["model.norm.weight"][3:5].fill_(value))
    for refused in (lambda: quantized(model, tmp_path / "q", **QUICK), lambda: agq.calibrate(model, tmp_path / "c")):
        with pytest.raises(AgqError, match=r"not finite in `model\.norm\.weight` \(2 of 256\)"):
            refused()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_values_beyond_fp16_are_cut_and_counted(short_model: Path, tmp_path: Path) -> None:
    """A rotation gathers a row that lies along one of its directions."""

    def half(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.half()
        tensors["model.embed_tokens.weight"][-1] = 60000.0

    model = changed(short_model, tmp_path / "m", half)
    quantized(model, tmp_path / "q", method="rtn", scheme="W8A8", r1=True)
    assert 0 < numbers(tmp_path / "q")["values_beyond_fp16"] < 256
    assert verify(tmp_path / "q") == ("folder", [])


# ---- steps that diverge


@pytest.mark.slow
def test_rotations_that_diverge_are_taken_back(
    short_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized(short_model, tmp_path / "without", **LEARNED | {"rot_steps": 0})
    monkeypatch.setattr(learn, "ranges", lambda x, group: x * torch.nan)
    monkeypatch.setattr("agq.quantization.plan.check_push", lambda name: None)
    monkeypatch.setattr("agq.quantization.publish.publish", lambda *_: pytest.fail("published what is refused"))
    told = Told()
    with pytest.raises(AgqError, match="3 steps of the run were taken back: the residual stream: the learned rotation"):
        quantized(short_model, tmp_path / "q", **LEARNED, strict=True, progress=told, push="house/made")
    assert len(told.notes) == 3 and "the rotation as its seed makes it instead" in told.notes[0]
    assert numbers(tmp_path / "q")["taken_back"] == sorted(told.notes)
    weights = [contents(tmp_path / name)["model.safetensors"] for name in ("q", "without")]
    assert weights[0] == weights[1]
    quantized(short_model, tmp_path / "again", **LEARNED)  # not strict


def test_a_rotation_that_is_worse_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corners of a cube have the least range that there is."""
    corners = torch.randint(0, 2, (256, 16), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    monkeypatch.setattr(learn, "LEARNING_RATE", 1.0)
    assert learn.learn_residual([corners], [1.0], 8, 3, False) is None
    assert learn.learn_values(corners, 8, 3, 2, 8) is None
    monkeypatch.setattr(learn, "LEARNING_RATE", 0.01)
    assert learn.learn_values(torch.zeros(256, 16), 8, 3, 2, 8) is not None


def rounded(solve: Callable[[Tensor, Grid], Solution]) -> tuple[Numbers, Tensor, bool]:
    """What becomes of a linear of a solver's."""
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(8, 32, generator=generator), torch.randn(200, 32, generator=generator)
    hessian = Hessian(32)
    hessian.add(x)
    energy = float(((weight @ hessian.finish()) * weight).sum())
    solving = Solving(Recipe(), Numbers())
    grid = weight_grid(weight, 4, True, 32)
    solution, diverged = solving.solved("m", Rounding(solve), hessian, weight, grid, energy)
    return solving.numbers, solution.codes, diverged


def test_solvers_that_diverge_are_replaced() -> None:
    def unsolvable(weight: Tensor, grid: Grid) -> Solution:
        raise Unsolvable("no numbers")

    zeros = torch.zeros(8, 32, dtype=torch.int8)
    outcomes = {
        "no numbers": unsolvable,
        "the error is not finite": lambda weight, grid: Solution(zeros, float("nan")),
        "the error is larger than the outputs": lambda weight, grid: Solution(zeros, 1e9),
    }
    for problem, solve in outcomes.items():
        numbers, codes, diverged = rounded(solve)
        assert diverged and codes.any() and numbers.taken_back == {f"`m`: {problem}": "rounded to nearest"}
    numbers, codes, diverged = rounded(lambda weight, grid: Solution(zeros, 0.5))
    assert not diverged and not codes.any() and not numbers.taken_back


def test_codes_that_are_no_numbers() -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(100, 64, generator=torch.Generator().manual_seed(1))
    factor = gptq.factorize(x.t() @ x / 100)
    assert factor is not None
    grid = weight_grid(weight, 4, True, 64)
    gptq.solve(weight, grid, factor)
    factor = replace(factor, upper=factor.upper * torch.where(torch.eye(64) > 0, 1.0, 1e30))
    with pytest.raises(Unsolvable, match="grew without bound"):
        gptq.solve(weight, grid, factor)


def test_tuning_that_is_not_used() -> None:
    cases = [(0.5, 0.7, "it came no nearer"), (0.5, float("nan"), "its predictions are not finite")]
    for before, after, problem in cases:
        found = Numbers()
        kept = judged({"steps": 3, "before": before, "after": after, "kept": False, "changed": 0.0}, found)
        assert found.taken_back == {f"tuning: {problem}": "the solver's weights"}
        json.dumps(kept, allow_nan=False)
    for report in ({"before": 0.5, "after": 0.4, "kept": True}, {"before": 0.5, "after": 0.5, "kept": False}):
        found = Numbers()
        judged(report, found)
        assert found.record() is None


@pytest.mark.slow
def test_tuning_that_diverges(short_model: Path, tmp_path: Path) -> None:
    recipe = Recipe(tune=TuneOptions(steps=2, learning_rate=1.0, rounding_rate=1.0))
    run = {"recipe": recipe, "group_size": 64}
    quantized(short_model, tmp_path / "without", **run, tune=0)
    quantized(short_model, tmp_path / "q", **run)
    assert [line.split(":")[0] for line in numbers(tmp_path / "q")["taken_back"]] == ["tuning"]
    weights = [contents(tmp_path / name)["model.safetensors"] for name in ("q", "without")]
    assert weights[0] == weights[1]


# ---- what is kept


def test_counts_outlive_an_interruption(tmp_path: Path) -> None:
    for _ in range(2):  # a block that is done again counts once
        found = Numbers(tmp_path / "numbers.json")
        found.count(DEAD_CHANNELS, "a", 3)
        found.count(DEAD_CHANNELS, "b", 0)
        found.take_back("tuning", "worse", "nothing")
    again = Numbers(tmp_path / "numbers.json")
    again.count(DEAD_CHANNELS, "b", 4)
    assert again.record() == {"dead_channels": 7, "taken_back": ["tuning: worse; nothing instead"]}


def test_transformed_weights_that_are_not_finite() -> None:
    with pytest.raises(AgqError, match="`m`: the transformed weights are not finite"):
        Numbers().weight("m", -1.0, float("inf"))


# ---- activations


@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (4, True), (4, False)])
def test_quantized_activations_keep_what_is_not_finite(bits: int, symmetric: bool) -> None:
    """And ranges whose inverse would be infinite are zeros (docs/arithmetic.md)."""
    x = torch.ones(3, 64)
    x[0, 5], x[1, 40] = torch.nan, -torch.inf
    x[2] = torch.linspace(0, 1e-41, 64)
    found = fake_quantize(x, bits, symmetric, 32)
    assert not torch.isfinite(found[0, :32]).any() and torch.equal(
        found[0, 32:], fake_quantize(x, bits, symmetric, 32)[1, :32]
    )
    assert not torch.isfinite(found[1, 32:]).any()
    assert not found[2].any()


@pytest.mark.parametrize("columns", [24, 64])  # those that the C library searches, and those that it does not
def test_a_grid_of_the_largest_weights(columns: int) -> None:
    """Their errors to the power of 2.4 are infinite for every range that is tried."""
    weight = 1e30 * torch.randn(2, columns, generator=torch.Generator().manual_seed(0))
    found, whole = (weight_grid(weight, 4, True, columns, mse=mse) for mse in (True, False))
    assert torch.equal(found.scale, whole.scale)


def test_noise_of_a_matrix_of_zeros() -> None:
    from agq.quantization.transforms.search import _noise

    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert _noise(torch.zeros(3, 4), x) == 0 and _noise(torch.eye(4), x) == pytest.approx(
        4 / float(x.square().mean() * 4)
    )
