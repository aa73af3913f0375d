"""Tuning's parts by hand: where codes start, what is settled, gradients, the divergence, how long, and
when it ends."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agq.errors import UsageError
from agq.numerics.quantizers import Grid
from agq.quantization.numbers import Numbers
from agq.quantization.tuning.blocks import _relative
from agq.quantization.tuning.descent import Descent
from agq.quantization.tuning.effort import Budget, budget, seconds
from agq.quantization.tuning.linear import TrainedLinear
from agq.quantization.tuning.stage import judged
from agq.quantization.tuning.student import kl_divergence
from agq.quantization.tuning.text import apart, training_length
from agq.quantization.tuning.whole import TuneReport, _Course
from agq.recipe import TuneOptions
from agq.reporting.progress import Progress


def tuned(rounding: bool = True) -> TrainedLinear:
    """Two groups of two columns: scales 0.5 and 2, zero points -3 and 0."""
    grid = Grid(torch.tensor([[0.5, 2.0]]), torch.tensor([[-3.0, 0.0]]), 4, False, 2)
    weight = torch.tensor([[2.1, 0.9, 2.0, -40.0]])
    return TrainedLinear(torch.tensor([[1, -2, 0, -8]], dtype=torch.int8), grid, weight, torch.bfloat16, rounding)


def test_values_start_inside_the_solver_s_codes() -> None:
    """Steps are codes less zero points, 4, 1, 0, -8; weights lie at 4.2, 1.8, 1 and -20: at most 0.45 nearer."""
    linear = tuned()
    assert linear.steps.flatten().tolist() == pytest.approx([4.2, 1.45, 0.45, -8.45])
    assert linear.weight().tolist() == [[2.0, 0.5, 0.0, -16.0]]
    assert tuned(False).steps.flatten().tolist() == [4.0, 1.0, 0.0, -8.0]


def test_settled_codes_and_scales() -> None:
    """Values are rounded within the codes -8..7, zero points stay, scales times exp t as bf16 holds them."""
    linear = tuned()
    with torch.no_grad():
        linear.steps.copy_(torch.tensor([[[4.6, -20.0], [9.0, -8.45]]]))
        linear.log.copy_(torch.log(torch.tensor([[1.5, 1.001]])))
    assert linear.weight().detach().tolist() == [pytest.approx([3.75, -3.75, 14 * 1.001, -16 * 1.001])]
    codes, grid = linear.settle()
    assert codes.tolist() == [[1, -2, 0, -8]] and grid.scale.tolist() == [[0.5, 2.0]]
    # 5 - 3 = 2; the lowest step is -8 + 3 = -5, code -8; 7; -8
    assert linear.codes.dtype == torch.int8 and linear.codes.tolist() == [[2, -8, 7, -8]]
    assert linear.grid.scale.tolist() == [[0.75, 2.0]] and linear.grid.zero.tolist() == [[-3.0, 0.0]]
    assert linear.weight().tolist() == [[3.75, -3.75, 14.0, -16.0]]
    assert not linear.log.any()


def test_gradients_pass_the_rounding() -> None:
    """d weight / d steps is the scale, d weight / d t the weight itself."""
    linear = tuned()
    linear.weight().sum().backward()
    assert linear.steps.grad.flatten().tolist() == [0.5, 0.5, 2.0, 2.0]
    assert linear.log.grad.tolist() == [[2.5, -16.0]]


def test_divergence_is_of_the_tuned_from_the_float_model() -> None:
    """KL(wanted || found) in float64, not the same as the other way."""
    wanted, found = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])

    def kl(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
        log_p, log_q = (torch.log_softmax(x.double() / temperature, -1) for x in (first, second))
        return float((log_p.exp() * (log_p - log_q)).sum())

    for temperatures in ((1.0,), (3.0,), (1.0, 2.0, 4.0)):
        expected = np.mean([t * t * kl(wanted, found, t) for t in temperatures])
        assert float(kl_divergence(wanted, found, lambda h: h, temperatures)) == pytest.approx(expected, rel=1e-5)
    assert kl(wanted, found, 1.0) != pytest.approx(kl(found, wanted, 1.0), rel=0.1)


def test_passages_are_found_wherever_they_begin() -> None:
    text = np.arange(1000)
    judged = text[None, 300:400]
    windows = np.stack([text[start : start + 80] for start in (0, 220, 229, 253, 300, 369, 380, 400)])
    kept = apart(windows, judged)
    # A window's passages begin at its 1st and 33rd token: shared if one of them lies wholly in 300..399.
    expected = [row[0] for row in windows if not any(300 <= row[0] + k and row[0] + k + 32 <= 400 for k in (0, 32))]
    assert kept[:, 0].tolist() == expected and 0 < len(expected) < len(windows)
    assert len(apart(windows[:, :63], judged)) == len(windows)  # too short to have two passages


def test_training_lengths() -> None:
    lengths = [training_length(SimpleNamespace(position=kind), 2048) for kind in ("rope", "alibi", "learned")]
    assert lengths == [512, 512, 2048]


def test_times_by_hand() -> None:
    assert [seconds(text) for text in ("90", "90s", "20m", "1h30m", "0.5h", " 2M ")] == [90, 90, 1200, 5400, 1800, 120]
    for text in ("", "soon", "20 minutes", "m", "1h30", "-5", "0", "9999h"):
        with pytest.raises(UsageError, match="time"):
            seconds(text)


def test_budgets_by_hand() -> None:
    """The efforts' times; fewer steps for fewer windows than 128; a time has the most steps."""
    assert budget(None, None, "cpu", 128) == Budget(1800, 512) == budget("normal", None, "cpu", 500)
    assert budget(None, None, "cuda", 128) == Budget(300, 1024)
    assert budget("normal", None, "cpu", 16) == Budget(1800, 64)
    assert budget("quick", None, "cpu", 128) == Budget(0, 0)
    assert budget(None, "20m", "cpu", 64) == Budget(1200, 1024)
    for effort, time, message in (("hard", None, "not known"), ("best", "1h", "both say how long")):
        with pytest.raises(UsageError, match=message):
            budget(effort, time, "cpu", 128)


def test_steps_of_a_budget_by_hand() -> None:
    """What is left but a quarter at least; three significant bits, the most exactly, none below 48."""
    found = Budget(1000, 512)
    assert found.left(300) == 700 and found.left(900) == 250
    assert found.steps(700, 1) == 512
    assert found.steps(700, 2) == 320  # 350 = 0b101011110
    assert found.steps(700, 10) == 64 and found.steps(700, 14) == 48 and found.steps(700, 15) == 0
    assert Budget(1000, 40).steps(1000, 1) == 0 and Budget(1000, 50).steps(1000, 1) == 50


def test_error_of_a_token_is_relative_to_it() -> None:
    wanted = torch.tensor([[3.0, 4.0], [0.0, 100.0], [0.0, 0.0]])
    found = wanted + torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    assert _relative(found, wanted).tolist() == pytest.approx([1 / 25, 1e-4, 0.0])


def descent(steps: int) -> tuple[TrainedLinear, Descent]:
    """Of the linear's weights towards 0."""
    linear = tuned()
    return linear, Descent([linear], TuneOptions(), steps, lambda: linear.weight().square().sum(), torch.device("cpu"))


def test_rates_fall_as_a_half_cosine() -> None:
    """From the rate itself to a tenth of it, half way in the middle."""
    _, found = descent(4)
    rates = []
    for _ in range(4):
        found.step()
        rates.append([group["lr"] for group in found.optimizer.param_groups])
    shares = [0.1 + 0.9 * (1 + np.cos(np.pi * step / 4)) / 2 for step in range(4)]
    assert rates == [pytest.approx([1e-3 * share, 2e-3 * share]) for share in shares]


def test_stored_descent_goes_on(tmp_path: Path) -> None:
    """Six steps at once, and three, stored, and three of another descent: the same bits."""
    whole, course = descent(6)
    for _ in range(6):
        course.step()
    _, first = descent(6)
    for _ in range(3):
        first.step()
    first.save(tmp_path / "state", {"best": 0.5})
    linear, second = descent(6)
    assert second.load(tmp_path / "state")["best"] == 0.5 and second.done == 3
    for _ in range(3):
        second.step()
    assert torch.equal(linear.steps, whole.steps) and torch.equal(linear.log, whole.log)


def course(judgements: list[float], before: float) -> tuple[TrainedLinear, _Course]:
    """Of a descent of 100 steps whose held-out divergences are given."""
    linear, found = descent(100)
    judged = iter(judgements)
    tuner = SimpleNamespace(linears={"a": linear})
    return linear, _Course(tuner, found, TuneOptions(steps=100), before, lambda: next(judged), None)


def test_tuning_ends_where_held_out_text_gets_worse() -> None:
    """Looked at after 25, 50 and 75 of 100 steps; more than 2 % above the best ends it, and so does what is no number;
    short descents are not looked at."""
    _, found = course([0.9, 0.91, 0.95], 1.0)
    assert found.at == {25, 50, 75}
    for done, stopped in ((25, None), (50, None), (75, 75)):
        found.descent.done = done
        found.look(Progress())
        assert found.stopped == stopped and found.best == 0.9
    assert found.seen == [(25, 0.9), (50, 0.91), (75, 0.95)]
    _, broken = course([float("nan")], 1.0)
    broken.look(Progress())
    assert broken.stopped is not None
    _, short = descent(63)
    assert not _Course(SimpleNamespace(linears={}), short, TuneOptions(steps=63), 1.0, lambda: 1.0, None).at


def test_looks_are_told_where_there_were_some() -> None:
    report = asdict(TuneReport(steps=3, before=1.0, after=0.5, kept=True, changed=0.0))
    assert "looks" not in judged(report, Numbers())
    assert judged({**report, "looks": ((25, 0.75), (50, float("nan")))}, Numbers())["looks"] == [[25, 0.75], [50, None]]


def test_best_weights_are_restored() -> None:
    """The last ones are worse than those of a look: the linear has the look's codes and scales."""
    linear, found = course([0.5, 0.5], 1.0)
    with torch.no_grad():
        linear.log.fill_(0.25)
    found.look(Progress())
    with torch.no_grad():
        linear.log.fill_(0.5)
    linear.settle()
    assert found.judged_best(0.8) == 0.5
    expected = torch.tensor([[0.5, 2.0]]) * np.exp(0.25)
    torch.testing.assert_close(linear.grid.scale, expected.to(torch.bfloat16).float())
    linear, found = course([0.5], 1.0)
    found.look(Progress())
    assert found.judged_best(0.4) == 0.4  # the last ones are better
    _, found = course([0.5, 0.5], 1.0)
    found.look(Progress())
    assert found.judged_best(float("nan")) == 0.5
