"""Tuning's parts by hand: where codes start, what is settled, gradients, the divergence, and automatic steps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from agq.quantization.trained import TrainedLinear
from agq.quantization.tune import _divergence, apart, steps_worth, training_length

from agq.numerics.quantizers import Grid


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
        assert float(_divergence(wanted, found, lambda h: h, temperatures)) == pytest.approx(expected, rel=1e-5)
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


def test_automatic_steps_by_hand() -> None:
    """4e12 weights times tokens, 4 for a window, 512 in all, none below 48."""

    def parts(weights: int, position: str = "rope") -> SimpleNamespace:
        linear = SimpleNamespace(out_features=weights - 1000, in_features=1)
        return SimpleNamespace(
            spec=SimpleNamespace(vocab=100, embed_dim=10, position=position), block_linears=lambda: [linear]
        )

    assert steps_worth(parts(10**6), 12, 512) == 48 and steps_worth(parts(10**6), 11, 512) == 0
    assert steps_worth(parts(10**6), 1000, 512) == 512
    assert steps_worth(parts(4 * 10**7), 1000, 1000) == 195  # 4e12 / (4e7 * 512)
    assert steps_worth(parts(4 * 10**7), 1000, 256) == 390
    assert steps_worth(parts(4 * 10**7, "learned"), 1000, 1000) == 100
    assert [training_length(parts(1, kind).spec, 2048) for kind in ("rope", "alibi", "learned")] == [512, 512, 2048]
