"""GPTQ step by step: damping, order, dead channels, updates within and between blocks, losses; worked by hand or in
float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agq.numerics.quantizers import Grid, weight_grid
from agq.quantization.solvers.gptaq import drift_correction
from agq.quantization.solvers.gptq import Factor, factorize, solve
from agq.quantization.solvers.hessian import Hessian, layer_loss, output_energy
from agq.quantization.solvers.rtn import round_to_nearest


def grid_of(rows: int, columns: int, size: int | None = None, scales: list[float] | None = None) -> Grid:
    size = size or columns
    scale = torch.tensor(scales or [1.0]).expand(rows, columns // size).clone()
    return Grid(scale, torch.zeros_like(scale), 4, True, size)


def test_two_columns_by_hand() -> None:
    """H = [[2, 1], [1, 1]]: its inverse is [[1, -1], [-1, 2]], whose upper factor is [[1, -1], [0, 1]]. Weight (0.4,
    1.3): 0.4 -> 0, an error of 0.4, of which 0.4 * (-1) / 1 is taken off column 1: 1.3 + 0.4 = 1.7 -> 2."""
    factor = factorize(torch.tensor([[2.0, 1.0], [1.0, 1.0]]), 0.0, act_order=False)
    assert torch.allclose(factor.upper, torch.tensor([[1.0, -1.0], [0.0, 1.0]]), atol=1e-6)
    weight = torch.tensor([[0.4, 1.3], [-0.4, -1.3], [0.6, 1.3], [9.0, 0.0]])
    # 0.6 -> 1: -0.4, so 0.9 -> 1; 9 -> 7, an error of 2, so column 1 becomes 2.
    assert solve(weight, grid_of(4, 2), factor).tolist() == [[0, 2], [0, -2], [1, 1], [7, 2]]


def test_damping_is_a_share_of_the_mean_diagonal() -> None:
    """Of the channels that live, before the dead one's diagonal is replaced."""
    hessian = torch.diag(torch.tensor([1.0, 0.0, 8.0]))
    factor = factorize(hessian, 0.5, act_order=False)
    assert factor.dead.tolist() == [False, True, False] and factor.order.tolist() == [0, 1, 2]
    added = 0.5 * 4.5
    expected = 1 / np.sqrt([1 + added, 1 + added, 8 + added])
    assert np.allclose(factor.upper.diagonal(), expected, rtol=1e-6) and factor.damping == 0.5
    assert factorize(hessian, 0.5).order.tolist() == [2, 0, 1]


@pytest.mark.parametrize(("eigenvalue", "attempts"), [(0.005, 0), (-0.005, 1), (-0.05, 2), (-0.5, 3)])
def test_damping_is_raised_tenfold(eigenvalue: float, attempts: int) -> None:
    """[[1, 1 - e], [1 - e, 1]] has the eigenvalue e and a mean diagonal of 1."""
    off = 1 - eigenvalue
    factor = factorize(torch.tensor([[1.0, off], [off, 1.0]]), 0.001)
    assert factor.damping == pytest.approx(0.001 * 10**attempts)
    assert factorize(torch.tensor([[1.0, 3.0], [3.0, 1.0]]), 0.001) is None


def test_factor_is_that_of_the_inverse_in_visiting_order() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 12)) @ draw.normal(size=(12, 12))
    hessian = x.T @ x / 200
    factor = factorize(torch.from_numpy(hessian.astype(np.float32)), 0.02)
    order = factor.order.numpy()
    assert np.array_equal(order, np.argsort(-np.diag(hessian)))
    damped = hessian[np.ix_(order, order)] + 0.02 * np.diag(hessian).mean() * np.eye(12)
    upper = factor.upper.double().numpy()
    assert np.array_equal(upper, np.triu(upper))
    assert np.allclose(upper.T @ upper @ damped, np.eye(12), atol=1e-3)


def test_equal_energies_are_visited_in_their_order() -> None:
    assert factorize(torch.diag(torch.tensor([1.0, 2.0, 2.0, 1.0, 2.0]))).order.tolist() == [1, 2, 4, 0, 3]


def test_an_error_travels_through_all_columns() -> None:
    """Each column hands its whole error to the next one: weights of 0.3 sum up, and codes are where the sums round up,
    whatever strips and blocks they cross."""
    columns = 70
    upper = torch.eye(columns) - torch.diag(torch.ones(columns - 1), 1)
    factor = Factor(upper, torch.arange(columns), torch.zeros(columns, dtype=torch.bool), 0.0)
    weight = torch.full((2, columns), 0.3)
    weight[1] = -0.7
    expected = []
    for row, value in enumerate((0.3, -0.7)):
        carried, codes = np.float32(0), []
        for _ in range(columns):
            carried = np.float32(carried + np.float32(value))
            codes.append(int(np.rint(carried)))
            carried = np.float32(carried - codes[-1])
        expected.append(codes)
        assert sum(codes) == pytest.approx(columns * value, abs=1), row
    for block in (1, 5, 16, 17, 32, 64, 128):
        found = solve(weight, grid_of(2, columns), factor, block).tolist()
        assert found == expected, block


def test_an_error_travels_far() -> None:
    """Only column 0 has an error, 0.25, and hands all of it to one column far behind: in its strip, in its block, in a
    later one. 0.25 + 0.3 rounds up."""
    for target in (1, 15, 16, 47, 48, 69):
        upper = torch.eye(70)
        upper[0, target] = -1.0
        factor = Factor(upper, torch.arange(70), torch.zeros(70, dtype=torch.bool), 0.0)
        weight = torch.zeros(1, 70)
        weight[0, 0], weight[0, target] = 0.25, 0.3
        codes = solve(weight, grid_of(1, 70), factor, 48)
        assert codes.nonzero().tolist() == [[0, target]] and codes[0, target] == 1


def test_the_drift_travels_far() -> None:
    """A weight of 2 in column 0 adds 2 times its drift, here 0.25, to one column: 0.5 + 0.1 rounds up."""
    for target in (1, 15, 16, 47, 48, 69):
        factor = Factor(torch.eye(70), torch.arange(70), torch.zeros(70, dtype=torch.bool), 0.0)
        drift = torch.zeros(70, 70)
        drift[0, target] = 0.25
        weight = torch.zeros(1, 70)
        weight[0, 0], weight[0, target] = 2.0, 0.1
        codes = solve(weight, grid_of(1, 70), factor, 48, drift)
        assert codes[0].nonzero().flatten().tolist() == [0, target] and codes[0, target] == 1


def test_visiting_order_moves_nothing_but_the_errors() -> None:
    """Groups with scales of their own, a zero point for each, a dead channel: codes come back in original places."""
    scale, zero = torch.tensor([[1.0, 4.0, 0.5]]), torch.tensor([[-3.0, 2.0, 0.0]])
    grid = Grid(scale, zero, 4, False, 2)
    weight = torch.tensor([[2.0, 5.0, -8.0, 16.0, 1.5, 0.5]])
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    dead = torch.tensor([False, False, False, False, False, True])
    factor = Factor(torch.eye(6), order, dead, 0.0)
    # 2 / 1 - 3, 5 / 1 - 3; -8 / 4 + 2, 16 / 4 + 2; 1.5 / 0.5; dead: 0
    assert solve(weight, grid, factor).tolist() == [[-1, 2, 0, 6, 3, 0]]


def test_codes_are_cut_off_before_the_error_is_taken() -> None:
    """20 in steps of 1 becomes 7; the other 13 go on, with the zero point of the next column."""
    upper = torch.tensor([[2.0, -2.0], [0.0, 1.0]])
    factor = Factor(upper, torch.arange(2), torch.zeros(2, dtype=torch.bool), 0.0)
    grid = Grid(torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, -1.0]]), 4, False, 1)
    # (20 - 7) / 2 * 2 = 13 on column 1: 13 + 3 = 16 = 4 steps, less 1.
    assert solve(torch.tensor([[20.0, 3.0]]), grid, factor).tolist() == [[7, 3]]


def test_losses_by_hand() -> None:
    """x = (1, 2) and (3, 0): means of squares 5 and 2, of products 1."""
    hessian = Hessian(2)
    hessian.add(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    matrix = hessian.finish()
    assert matrix.tolist() == [[5.0, 1.0], [1.0, 2.0]]
    weight, other = torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 2.0], [2.0, 3.0]])
    # W x: (3, 2), (3, 6): squares 13 and 45; differences (-1, 1): 1, -3; (0, 3): 6, 0.
    assert output_energy(weight, matrix) == pytest.approx((13 + 45) / 2)
    assert layer_loss(weight, other, matrix) == pytest.approx((1 + 9 + 36) / 2)


def test_rounding_has_a_loss_where_there_are_inputs() -> None:
    """0.4 and 1.3 become 0 and 1: (0.4, 0.3) with squares of 5 and 2 and a product of 1."""
    weight, grid = torch.tensor([[0.4, 1.3]]), grid_of(1, 2)
    found = round_to_nearest(weight, grid, torch.tensor([[5.0, 1.0], [1.0, 2.0]]))
    assert found.codes.tolist() == [[0, 1]]
    assert found.loss == pytest.approx(5 * 0.16 + 2 * 0.12 + 2 * 0.09, rel=1e-5)
    assert np.isnan(round_to_nearest(weight, grid, None).loss)


def test_cross_by_hand() -> None:
    """Mean of (x~ - x) x^T: rows are the drift's channels."""
    hessian = Hessian(2, cross=True)
    hessian.add(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 2.0]]))
    hessian.add(torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    hessian.finish()
    assert hessian.cross.tolist() == [[0.5, 1.0], [6.0, 0.0]] and hessian.tokens == 2
    assert Hessian(2).cross is None


def test_one_token_is_a_mean() -> None:
    hessian = Hessian(2, cross=True)
    hessian.add(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0]))
    assert hessian.finish().tolist() == [[1.0, 3.0], [3.0, 9.0]] and hessian.cross.tolist() == [[1.0, 3.0], [0.0, 0.0]]


def test_defaults_are_those_of_the_papers() -> None:
    """1 % of the mean diagonal and descending energy; a quarter of the drift."""
    hessian = torch.diag(torch.tensor([1.0, 3.0]))
    factor = factorize(hessian)
    assert factor.damping == 0.01 and factor.order.tolist() == [1, 0]
    cross = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert torch.equal(drift_correction(factor, cross), drift_correction(factor, cross, 0.25))


def test_no_tokens_are_a_hessian_of_zeros() -> None:
    hessian = Hessian(3, cross=True)
    assert not hessian.finish().any() and not hessian.cross.any()


def test_drift_is_the_fit_of_the_columns_that_follow() -> None:
    """In visiting order row j is alpha times cross[j, after] times the inverse of the damped Hessian of those after j
    (Li et al. 2025); nothing in or below the diagonal."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(300, 10)) * np.linspace(0.5, 3, 10)
    target = x + 0.3 * draw.normal(size=x.shape) + 0.2 * np.roll(x, 1, axis=1)
    hessian, cross = x.T @ x / 300, (target - x).T @ x / 300
    factor = factorize(torch.from_numpy(hessian.astype(np.float32)), 0.01)
    found = drift_correction(factor, torch.from_numpy(cross.astype(np.float32)), 0.7).numpy()
    order = factor.order.numpy()
    damped = hessian[np.ix_(order, order)] + 0.01 * np.diag(hessian).mean() * np.eye(10)
    cross = cross[np.ix_(order, order)]
    expected = np.zeros((10, 10))
    for j in range(9):
        expected[j, j + 1 :] = 0.7 * np.linalg.solve(damped[j + 1 :, j + 1 :], cross[j, j + 1 :])
    assert np.allclose(found, expected, atol=1e-4) and np.abs(expected).max() > 0.02


def test_weights_that_the_grid_holds_stay(seed: int = 0) -> None:
    weight = torch.from_numpy(np.random.default_rng(seed).integers(-7, 8, (5, 64)).astype(np.float32))
    weight[:, ::32] = -7.5  # scale 1 in each group
    weight[:, 1::32] = 7.0
    grid = weight_grid(weight, 4, True, 32)
    assert torch.all(grid.scale == 1)
    weight[:, ::32] = -8.0
    factor = factorize(torch.eye(64) + 0.3, 0.01)
    assert torch.equal(solve(weight, grid, factor).float(), weight)
