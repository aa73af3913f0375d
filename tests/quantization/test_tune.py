"""Tuning of scales and rounding: predictions come closer, formats stay, and it survives interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agq.checkpoint import open_checkpoint, read_linear
from agq.errors import AgqError, UsageError
from agq.formats import PerGroup
from agq.numerics.quantizers import quantize_weight, weight_grid
from agq.quantization.plan import Plan, plan
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.plan import TransformPlan
from agq.quantization.tuning.effort import Budget
from agq.quantization.tuning.linear import TrainedLinear
from agq.quantization.tuning.student import Tuner, kl_divergence
from agq.quantization.tuning.text import apart
from agq.quantization.tuning.whole import Lesson
from agq.recipe import CalibrationSpec, Recipe, Scheme, TuneOptions
from agq.recipe.changes import RecipeChanges, RunOptions
from agq.recipe.files import apply_preset
from agq.recipe.resolve import effective_recipe
from agq.reference.attention import Positions
from agq.reporting.progress import Progress
from agq.text.calibration import calibration_windows
from tests.quantization.quantization_support import TEXT, Stop, StopAt, differences, quantized

pytestmark = pytest.mark.traced
STEPS = 32
TUNE = TuneOptions(steps=STEPS, rounding_rate=4e-3, temperature=1.0, drawn=0.0)
RECIPE = Recipe(scheme=Scheme.parse("W4A8").fit(PerGroup(128)), tune=TUNE)
RUN = {"recipe": RECIPE, "samples": 16, "seq_len": 128, "scale": True, "hadamard": 128}


@pytest.fixture(scope="module")
def folders(short_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tuned")
    quantized(short_model, folder / "solved", **RUN, tune=0)
    quantized(short_model, folder / "tuned", **RUN)
    return folder / "solved", folder / "tuned"


def report(folder: Path) -> dict:
    return json.loads((folder / "agq.json").read_text())["report"]["tune"]


@pytest.mark.slow
def test_scales_and_codes_move_and_nothing_else(folders: tuple[Path, Path]) -> None:
    solved, tuned = map(open_checkpoint, folders)
    scales = codes = count = 0
    for linear in solved.parts.block_linears():
        before, after = read_linear(solved, linear.module), read_linear(tuned, linear.module)
        ratio = after.scale / before.scale
        assert 0.8 < ratio.min() and ratio.max() < 1.25
        scales += int((ratio != 1).sum())
        codes += int((after.codes != before.codes).sum())
        count += before.codes.size
        assert np.abs(after.codes.astype(int) - before.codes).max() <= 1
    assert scales > 100
    assert report(folders[1])["changed"] == pytest.approx(codes / count) and 0 < codes < 0.1 * count
    for name in solved.parts.dense_tensors():
        assert np.array_equal(solved.read_raw(name)[1], tuned.read_raw(name)[1])


@pytest.mark.slow
def test_without_rounding_codes_stay(short_model: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    quantized(
        short_model,
        tmp_path / "scales",
        **RUN | {"recipe": replace(RECIPE, tune=replace(TUNE, steps=6, rounding=False))},
    )
    solved, tuned = open_checkpoint(folders[0]), open_checkpoint(tmp_path / "scales")
    changed = 0
    for linear in solved.parts.block_linears():
        before, after = read_linear(solved, linear.module), read_linear(tuned, linear.module)
        assert np.array_equal(before.codes, after.codes)
        changed += int((after.scale != before.scale).sum())
    assert changed > 100 and report(tmp_path / "scales")["changed"] == 0


@pytest.mark.slow
def test_predictions_come_closer_on_windows_that_were_not_trained_on(folders: tuple[Path, Path]) -> None:
    found = report(folders[1])
    assert found["kept"] is True and found["steps"] == STEPS
    assert found["after"] < 0.98 * found["before"]


@pytest.mark.slow
def test_record_is_what_the_reference_computes(short_model: Path, folders: tuple[Path, Path]) -> None:
    """KL divergence of the written folders from the original on the judged windows, with the head in floats as in
    tuning."""
    from agq.quantization.execute import calibration_tokens
    from agq.reference.decoder import ReferenceModel

    made = plan(
        str(short_model),
        folders[0].parent / "unused",
        RecipeChanges(data=str(TEXT), samples=16, seq_len=128, detached=False),
    )
    windows = calibration_tokens(made)[0][:4]
    original = ReferenceModel.from_folder(short_model)
    for folder, expected in zip(folders, (report(folders[1])["before"], report(folders[1])["after"]), strict=True):
        model = ReferenceModel.from_folder(folder, head_bits=32)
        found = []
        for window in windows:
            log_p, log_q = (
                torch.log_softmax(torch.from_numpy(m.logits(window)).double(), -1) for m in (original, model)
            )
            found.append(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()))
        assert np.mean(found) == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_interrupted_tuning_gives_the_same_bytes(short_model: Path, tmp_path: Path) -> None:
    tune = TuneOptions(steps=8, drawn=0.3)
    run = {"recipe": replace(RECIPE, tune=tune), "samples": 8, "seq_len": 64, "hadamard": 128}
    with pytest.raises(Stop):
        quantized(short_model, tmp_path / "tuned", progress=StopAt("weights tuned: step 3"), **run)
    assert quantized(short_model, tmp_path / "tuned", **run).resumed == 2
    assert quantized(short_model, tmp_path / "whole", **run).resumed == 0
    assert report(tmp_path / "tuned")["steps"] == 8 and report(tmp_path / "tuned")["kept"]
    assert not differences(tmp_path / "tuned", tmp_path / "whole")


@pytest.mark.slow
def test_result_that_is_worse_is_not_kept(short_model: Path, tmp_path: Path) -> None:
    """A learning rate that destroys the model leaves the solver's scales and codes."""
    wild = Recipe(tune=TuneOptions(steps=2, learning_rate=1.0, rounding_rate=1.0))
    quantized(short_model, tmp_path / "wild", recipe=wild, scheme="W4A8")
    quantized(short_model, tmp_path / "solved", recipe=wild, scheme="W4A8", tune=0)
    found = report(tmp_path / "wild")
    assert found["kept"] is False and found["after"] > found["before"] and found["changed"] == 0
    assert (tmp_path / "wild" / "model.safetensors").read_bytes() == (
        tmp_path / "solved" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("bits,symmetric", [(4, True), (4, False), (8, True)])
def test_nothing_changes_before_the_first_step(bits: int, symmetric: bool) -> None:
    """Whatever codes the solver chose, far from the weights or at the limits."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(24, 64, generator=generator)
    grid = weight_grid(weight, bits, symmetric, 32)
    low, high = grid.limits
    codes = (quantize_weight(weight, grid).int() + torch.randint(-2, 3, weight.shape, generator=generator)).clamp(
        low, high
    )
    linear = TrainedLinear(codes.to(torch.int8), grid, weight, torch.bfloat16, True)
    grouped = (codes.reshape(24, 2, 32).float() - grid.zero.unsqueeze(-1)) * grid.scale.unsqueeze(-1)
    assert torch.equal(linear.weight(), grouped.reshape(24, 64))
    before, _ = linear.settle()
    assert torch.equal(before, codes.to(torch.int8)) and torch.equal(linear.codes, before)
    with torch.no_grad():
        linear.steps.add_(1000.0)
    linear.settle()
    assert int(linear.codes.min()) == int(linear.codes.max()) == high


@pytest.mark.slow
def test_codes_follow_the_gradient() -> None:
    """A linear alone, trained towards its unquantized outputs on inputs that prefer one direction, beats rounding to
    nearest."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(16, 32, generator=generator)
    x = torch.randn(256, 4, generator=generator) @ torch.randn(4, 32, generator=generator)
    grid = weight_grid(weight, 4, True, 32)
    linear = TrainedLinear(quantize_weight(weight, grid), grid, weight, torch.bfloat16, True)

    def loss() -> torch.Tensor:
        return ((x @ (linear.weight() - weight).t()) ** 2).mean()

    before = float(loss().detach())
    optimizer = torch.optim.Adam([linear.steps], lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    linear.settle()
    assert float(loss().detach()) < 0.5 * before


def test_divergence_counts_unlikely_tokens_at_a_high_temperature() -> None:
    """Against the definition in float64, on predictions of which one token in 500 is changed."""
    generator = torch.Generator().manual_seed(7)
    head, wanted = torch.randn(50, 8, generator=generator), torch.randn(6, 8, generator=generator)
    found = wanted + 0.1 * torch.randn(6, 8, generator=generator)

    def expected(temperature: float) -> float:
        p, q = (torch.softmax((x @ head.t()).double() / temperature, -1) for x in (wanted, found))
        return temperature**2 * float((p * (p.log() - q.log())).sum())

    one, both = (float(kl_divergence(wanted, found, lambda h: h @ head.t(), given)) for given in ((1.0,), (1.0, 4.0)))
    assert one == pytest.approx(expected(1.0), rel=1e-4)
    assert both == pytest.approx(0.5 * (expected(1.0) + expected(4.0)), rel=1e-4)
    # A shift of the least likely token is nothing to the one and much to the other.
    logits, shifted = torch.zeros(1, 50), torch.zeros(1, 50)
    logits[0, 0] = shifted[0, 0] = 12.0
    shifted[0, 1] = 1.0
    plain, warm = (float(kl_divergence(logits, shifted, lambda h: h, given)) for given in ((1.0,), (1.0, 4.0)))
    assert warm > 100 * plain


@pytest.mark.slow
def test_drawn_tokens_are_what_the_model_might_say(demo_model: Path) -> None:
    checkpoint = open_checkpoint(demo_model)
    parameters = TransformedParameters(checkpoint, TransformPlan())
    recipe = Recipe(tune=TUNE, seed=3)
    tuner = Tuner(parameters, recipe, {}, {}, {})
    windows = torch.from_numpy(calibration_windows(CalibrationSpec(str(TEXT), 4, 256), checkpoint)[0])
    positions = Positions.of(checkpoint.spec, 256)
    drawn = tuner.varied(windows, positions, 0.3)
    changed = (drawn != windows)[:, 1:]
    # Some of the drawn tokens are those that stood there.
    assert 0.15 < changed.float().mean() < 0.3 and torch.equal(drawn[:, 0], windows[:, 0])
    assert torch.equal(drawn, tuner.varied(windows, positions, 0.3)) and torch.equal(
        windows, tuner.varied(windows, positions, 0.0)
    )
    shares = torch.log_softmax(tuner.teacher(windows, positions) @ tuner.head.t(), -1)[:, :-1]
    likely = shares.gather(-1, drawn[:, 1:, None]).squeeze(-1)[changed].mean()
    generator = torch.Generator().manual_seed(1)
    chance = shares.gather(
        -1, torch.randint(0, checkpoint.spec.vocab, changed.shape, generator=generator)[..., None]
    ).mean()
    assert likely > chance + 3


def test_judged_text_is_not_trained_on() -> None:
    text = np.random.default_rng(1).integers(0, 500, 4000)
    judged = np.stack([text[1000:1200], text[3000:3200]])
    windows = {
        "before": text[0:200],
        "over its end": text[1130:1330],
        "over its start": text[900:1100],
        "inside": text[3010:3190],
    }
    rows = np.stack([np.resize(row, 180) for row in windows.values()])
    kept = apart(rows, judged)
    assert len(kept) == 1 and np.array_equal(kept[0], rows[0])


def test_presets_tune_by_time(demo_model: Path, tmp_path: Path) -> None:
    """A preset's steps are found in the run; `quick` and `tune: 0` have none; a time without tuning is refused."""

    def made(run: RunOptions | None = None, **changes: object) -> Plan:
        text = {"data": str(TEXT), "samples": 16, "seq_len": 256}
        return plan(str(demo_model), tmp_path / "out", RecipeChanges(**text, **changes), run)

    chosen = made(RunOptions(device="cpu"))
    assert chosen.recipe.tune == TuneOptions(auto=True, batch=1, temperature=1.0, drawn=0.0)
    assert chosen.budget == Budget(1800, 64)
    for declined in (made(tune="0"), made(RunOptions(effort="quick")), made(tune="7")):
        assert declined.recipe.tune.steps in (0, 7) and not declined.recipe.tune.auto and declined.budget is None
    assert effective_recipe(None, RecipeChanges(method="gptq")).tune == TuneOptions()
    for run in (RunOptions(effort="best"), RunOptions(time="5m")):
        with pytest.raises(UsageError, match="says how long tuning takes"):
            made(run, tune="0")


def test_models_that_do_not_fit_are_tuned_block_by_block(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agq.quantization.plan._free", lambda device: 10**9)
    found = plan(str(demo_model), tmp_path / "out", RecipeChanges(data=str(TEXT)), RunOptions(device="cpu"))
    assert found.recipe.tune.blocks and any("block by block" in note for note in found.notes)
    monkeypatch.setattr("agq.quantization.plan._free", lambda device: 10**12)
    whole = plan(str(demo_model), tmp_path / "out", RecipeChanges(data=str(TEXT)), RunOptions(device="cpu"))
    assert not whole.recipe.tune.blocks and found.needs.working < whole.needs.working
    given = plan(str(demo_model), tmp_path / "out", RecipeChanges(data=str(TEXT), tune=9), RunOptions(device="cpu"))
    assert not given.recipe.tune.blocks
    monkeypatch.setattr("agq.quantization.plan._free", lambda device: 10**8)
    none = plan(str(demo_model), tmp_path / "out", RecipeChanges(data=str(TEXT)), RunOptions(device="cpu"))
    assert not none.recipe.tune.active and none.budget is None and any("no tuning" in note for note in none.notes)
    assert none.needs.working < found.needs.working
    given = plan(str(demo_model), tmp_path / "out", RecipeChanges(data=str(TEXT), tune=9), RunOptions(device="cpu"))
    assert given.recipe.tune.steps == 9 and given.recipe.tune.blocks


@pytest.mark.slow
def test_steps_are_found_in_the_run_and_repeat_it(short_model: Path, tmp_path: Path) -> None:
    """The record names the steps that the time allowed, and so many give the same weights."""
    run = {"scheme": "W4A8", "samples": 4, "seq_len": 64, "device": "cpu"}
    timed = quantized(short_model, tmp_path / "timed", **run, method="gptq", tune="auto", time="10m")
    assert timed.tuned["steps"] == 64 and not timed.tuned["blocks"]  # 2048 for 128 windows; it may end earlier
    recipe = json.loads((tmp_path / "timed" / "agq.json").read_text())["recipe"]
    assert recipe["tune"]["steps"] == 64 and recipe["tune"]["auto"] is False
    quantized(short_model, tmp_path / "again", **run, method="gptq", tune=64)
    names = ("timed", "again")
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in names}) == 1


BLOCKS = Recipe(
    scheme=Scheme.parse("W4A8").fit(PerGroup(128)),
    tune=TuneOptions(steps=24, batch=2, blocks=True),
)


@pytest.mark.slow
def test_block_by_block(short_model: Path, tmp_path: Path) -> None:
    """Predictions come closer; a run that ends between two blocks goes on, to the same bytes."""

    run = {"recipe": BLOCKS, "samples": 16, "seq_len": 128}
    found = quantized(short_model, tmp_path / "whole", **run).tuned
    assert found["blocks"] and found["kept"] and found["batch"] == 2
    assert found["after"] < 0.995 * found["before"]
    with pytest.raises(Stop):
        quantized(short_model, tmp_path / "stopped", progress=StopAt("block 1 of 2 tuned"), **run)
    stored = tmp_path / ".stopped.agq-work" / "tuned-00000.safetensors"
    before = stored.stat().st_mtime_ns
    seen = []

    class Watch(Progress):
        def advance(self, text: str) -> None:
            if text.startswith("block 1 of 2 tuned"):
                seen.append(stored.stat().st_mtime_ns)

    quantized(short_model, tmp_path / "stopped", progress=Watch(), **run)
    assert seen == [before]  # not done again
    assert not differences(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
def test_the_first_block_may_be_left_as_it_is(short_model: Path, tmp_path: Path) -> None:
    """Steps are timed on the first block that is quantized; those of another time are found anew."""
    recipe = replace(BLOCKS, method="rtn", tune=replace(BLOCKS.tune, auto=True, steps=0), ignore=("re:.*layers.0.*",))
    run = {"recipe": recipe, "data": str(TEXT), "samples": 12, "seq_len": 32, "device": "cpu"}

    with pytest.raises(Stop):
        quantized(short_model, tmp_path / "made", **run, time="4h", progress=StopAt("block 2 of 2 tuned"))
    work = tmp_path / ".made.agq-work"
    assert json.loads((work / "tuning.json").read_text())["steps"] == 192
    assert (work / "tuned-00001.safetensors").exists() and not (work / "tuned-00000.safetensors").exists()
    found = quantized(short_model, tmp_path / "made", **run, effort="normal").tuned
    assert found["blocks"] and found["steps"] == 48


@pytest.mark.slow
def test_a_block_that_gets_worse_is_not_kept(short_model: Path, tmp_path: Path) -> None:
    wild = replace(BLOCKS, tune=replace(BLOCKS.tune, steps=2, learning_rate=1.0, rounding_rate=1.0))
    found = quantized(short_model, tmp_path / "wild", recipe=wild, samples=8, seq_len=128)
    quantized(short_model, tmp_path / "solved", recipe=wild, samples=8, seq_len=128, tune=0)
    assert found.tuned["changed"] == 0
    weights = {(tmp_path / name / "model.safetensors").read_bytes() for name in ("wild", "solved")}
    assert len(weights) == 1


@pytest.mark.slow
def test_interrupted_descent_goes_on(short_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 steps, stopped after the look at the 8th: the last half is done, to the same bytes."""
    monkeypatch.setattr("agq.quantization.tuning.whole._LOOKED_AT", 16)
    monkeypatch.setattr("agq.quantization.tuning.whole._WORSE", 2.0)  # so little text may end it early
    steps = []

    class Watch(Progress):
        def advance(self, text: str) -> None:
            if text.startswith("weights tuned: step"):
                steps.append(text)

    run = {"recipe": replace(RECIPE, tune=TuneOptions(steps=16, drawn=0.0)), "samples": 8, "seq_len": 64}
    quantized(short_model, tmp_path / "whole", **run)
    with pytest.raises(Stop):
        quantized(short_model, tmp_path / "stopped", progress=StopAt("weights tuned: step 10 "), **run)
    quantized(short_model, tmp_path / "stopped", progress=Watch(), **run)
    assert steps[0].startswith("weights tuned: step 9 ")
    assert not differences(tmp_path / "stopped", tmp_path / "whole")


def test_a_step_of_two_windows_is_their_mean(short_model: Path) -> None:
    parameters = TransformedParameters(open_checkpoint(short_model), TransformPlan(), "cpu")
    tuner = Tuner(parameters, Recipe(), {}, {}, {})
    windows = torch.randint(0, 1000, (2, 24), generator=torch.Generator().manual_seed(5))
    wanted = torch.randn(2, 24, parameters.spec.embed_dim, generator=torch.Generator().manual_seed(6))
    found = []
    for rows in ([0, 1], [0], [1]):
        lesson = Lesson(tuner, len(rows), 24)
        lesson.fill(windows[rows], wanted[rows])
        found.append(float(lesson.loss()))
    assert found[0] == pytest.approx((found[1] + found[2]) / 2, rel=1e-5) and found[1] != pytest.approx(found[2])


def test_other_words_than_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="neither a number of steps nor `auto`"):
        effective_recipe(None, RecipeChanges(tune="often"))
    with pytest.raises(UsageError, match="not 0 or a positive number"):
        effective_recipe(None, RecipeChanges(tune="-3"))


def test_static_activations_are_not_tuned() -> None:
    """Tuning would assume other quantizers than the model has."""
    with pytest.raises(AgqError, match="dynamic activations"):
        apply_preset(Recipe(tune=TuneOptions(steps=1)), "agile")
