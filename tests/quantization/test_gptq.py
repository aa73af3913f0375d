"""GPTQ and GPTAQ against plain numpy implementations of their definitions, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agq.numerics.quantizers import dequantize_weight, quantize_weight, weight_grid
from agq.quantization.solvers.gptaq import drift_correction
from agq.quantization.solvers.gptq import factorize, gptq, solve
from agq.quantization.solvers.hessian import Hessian, layer_loss, output_energy
from agq.quantization.solvers.rtn import round_to_nearest


def problem(rows: int = 6, columns: int = 64, tokens: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and correlated inputs [tokens, columns]."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=draw) / columns**0.5 + torch.eye(columns)
    x = (
        torch.randn(tokens, columns, generator=draw)
        @ mix
        * torch.linspace(0.2, 3, columns)[torch.randperm(columns, generator=draw)]
    )
    return torch.randn(rows, columns, generator=draw), x


def hessian_of(x: torch.Tensor, target: torch.Tensor | None = None) -> Hessian:
    hessian = Hessian(x.shape[1], cross=target is not None)
    hessian.add(x, target)
    hessian.finish()
    return hessian


def by_definition(weight, grid, hessian, damping, act_order, cross=None, alpha=0.25) -> np.ndarray:
    """Optimal Brain Quantization in a fixed order, column by column in float64, without Cholesky factors: after each
    column the remaining weights take the least-squares correction, and the inverse Hessian loses the column (Frantar et
    al. 2022, equations 2 and 3). With `cross` the residual weights also take alpha times the least-squares fit of the
    drift that column q leaves."""
    w = weight.double().numpy().copy()
    matrix = hessian.double().numpy().copy()
    order = np.argsort(-np.diag(matrix), kind="stable") if act_order else np.arange(matrix.shape[0])
    matrix += damping * np.mean(np.diag(matrix)) * np.eye(matrix.shape[0])
    inverse = np.linalg.inv(matrix)
    scales, zeros = (part.numpy() for part in grid.columns())
    low, high = grid.limits
    codes = np.zeros_like(w, dtype=np.int64)
    left = list(order)
    while left:
        q = left[0]
        codes[:, q] = np.clip(np.rint(w[:, q] / scales[q]) + zeros[q], low, high)
        error = (w[:, q] - (codes[:, q] - zeros[q]) * scales[q]) / inverse[q, q]
        rest = left[1:]
        change = np.zeros_like(w)
        change[:, rest] -= np.outer(error, inverse[q, rest])
        if cross is not None and rest:
            # argmin over corrections of the columns not yet visited of |w_q (x~_q - x_q) - c X_rest|^2
            among = np.ix_(rest, rest)
            fit = np.linalg.solve(matrix[among], cross.double().numpy()[q, rest])
            change[:, rest] += alpha * np.outer(w[:, q], fit)
        w += change
        inverse = inverse - np.outer(inverse[:, q], inverse[q]) / inverse[q, q]
        left = rest
    return codes


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize(("symmetric", "group"), [(True, 32), (False, -1)])
def test_gptq_is_its_definition(act_order: bool, symmetric: bool, group: int) -> None:
    weight, x = problem()
    hessian = hessian_of(x)
    grid = weight_grid(weight, 4, symmetric, group)
    factor = factorize(hessian.matrix, 0.01, act_order)
    expected = by_definition(weight, grid, hessian.matrix, 0.01, act_order)
    for block in (128, 48, 7):
        found = solve(weight, grid, factor, block).numpy()
        assert np.mean(found == expected) > 0.995  # float32 against float64: a tie may fall the other way
    assert np.mean(quantize_weight(weight, grid).numpy() == expected) < 0.9  # it is not plain rounding


def test_gptaq_is_its_definition() -> None:
    weight, x = problem(seed=5)
    target = x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(6)) * x.std(dim=0)
    target = target + 0.1 * x[:, torch.arange(63, -1, -1)]
    hessian = hessian_of(x, target)
    grid = weight_grid(weight, 4, True, 32)
    factor = factorize(hessian.matrix, 0.01, True)
    drift = drift_correction(factor, hessian.cross, 0.25)
    expected = by_definition(weight, grid, hessian.matrix, 0.01, True, hessian.cross)
    for block in (128, 24):
        assert np.mean(solve(weight, grid, factor, block, drift).numpy() == expected) > 0.99
    assert np.mean(solve(weight, grid, factor, 128).numpy() == expected) < 0.98


def test_gptq_beats_rounding_in_the_layers_loss() -> None:
    for seed in range(3):
        weight, x = problem(16, 128, 600, seed)
        hessian = hessian_of(x)
        grid = weight_grid(weight, 4, True, 128)
        rounded = round_to_nearest(weight, grid, hessian.matrix)
        solved = gptq(weight, grid, factorize(hessian.matrix), hessian.matrix)
        assert solved.loss < 0.75 * rounded.loss
        error = (dequantize_weight(solved.codes, grid) - weight) @ x.t()
        assert solved.loss == pytest.approx(float(error.square().sum() / x.shape[0]), rel=1e-3)
        assert layer_loss(weight, torch.zeros_like(weight), hessian.matrix) == pytest.approx(
            output_energy(weight, hessian.matrix), rel=1e-4
        )


def test_gptaq_comes_closer_to_the_float_networks_outputs() -> None:
    """The loss that counts: the quantized layer on the drifted inputs against the float layer on the float inputs."""
    better = []
    for seed in range(4):
        weight, target = problem(16, 64, 800, seed)
        draw = torch.Generator().manual_seed(100 + seed)
        x = target + 0.15 * target.roll(1, dims=1) + 0.05 * torch.randn(target.shape, generator=draw)
        hessian = hessian_of(x, target)
        grid = weight_grid(weight, 4, True, 64)
        factor = factorize(hessian.matrix)

        def loss(alpha: float) -> float:
            drift = drift_correction(factor, hessian.cross, alpha) if alpha else None
            codes = solve(weight, grid, factor, 128, drift)
            return float((dequantize_weight(codes, grid) @ x.t() - weight @ target.t()).square().mean())

        better.append(loss(0.5) / loss(0.0))
        assert loss(0.25) < loss(0.0)
    assert np.mean(better) < 0.95


def test_act_order_leaves_groups_in_place() -> None:
    """Static groups: scales are those of the original columns, whatever the order of the visit."""
    weight, x = problem()
    grid = weight_grid(weight, 4, True, 32)
    hessian = hessian_of(x)
    solved = gptq(weight, grid, factorize(hessian.matrix, act_order=True), hessian.matrix)
    other = gptq(weight, grid, factorize(hessian.matrix, act_order=False), hessian.matrix)
    assert not torch.equal(solved.codes, other.codes)
    for codes in (solved.codes, other.codes):
        assert (dequantize_weight(codes, grid) - weight).abs().mean() < weight.abs().mean()
    factor = factorize(hessian.matrix, act_order=True)
    assert torch.equal(factor.order, torch.argsort(hessian.matrix.diagonal(), descending=True, stable=True))


def test_damping_is_raised_until_the_hessian_can_be_factorized() -> None:
    matrix = torch.eye(8)
    matrix[0, 1] = matrix[1, 0] = 1.05  # an eigenvalue of -0.05
    assert factorize(matrix, 0.001).damping == pytest.approx(0.1)
    assert factorize(torch.eye(8), 0.01).damping == 0.01
    matrix[0, 1] = matrix[1, 0] = 50.0
    assert factorize(matrix, 0.001) is None
    matrix[0, 1] = float("nan")
    assert factorize(matrix, 0.01) is None


def test_dead_channels_get_zero_weights_and_change_nothing() -> None:
    weight, x = problem()
    x[:, [3, 40]] = 0
    hessian = hessian_of(x)
    grid = weight_grid(weight, 4, True, 32)
    factor = factorize(hessian.matrix)
    assert factor.dead.nonzero().flatten().tolist() == [3, 40]
    solved = gptq(weight, grid, factor, hessian.matrix)
    assert torch.all(solved.codes[:, [3, 40]] == 0) and np.isfinite(solved.loss)
    assert factorize(torch.zeros(4, 4)) is not None


@pytest.mark.parametrize("columns", [48, 1500])
def test_hessian_is_the_mean_of_outer_products(columns: int) -> None:
    """Also over more columns than one panel, and in several parts."""
    draw = torch.Generator().manual_seed(0)
    x, target = torch.randn(2, 30, columns, generator=draw).unbind(0)
    hessian = Hessian(columns, cross=True)
    hessian.add(x[:10].reshape(2, 5, columns), target[:10].reshape(2, 5, columns))
    hessian.add(x[10:], target[10:])
    matrix = hessian.finish()
    assert torch.allclose(matrix, x.t() @ x / 30, atol=1e-5)
    assert torch.allclose(hessian.cross, (target - x).t() @ x / 30, atol=1e-5)
    assert hessian.tokens == 30
