"""The clip search of weight scales: the C library's choice is the definition's, and that of float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from agq.formats.clips import NORM, SHARES
from agq.native.clip_search import Grids, clip_errors, clip_search, least_error, library, torch_lanes
from agq.numerics import quantizers
from agq.numerics.quantizers import Grid, weight_grid


def weights(rows: int, columns: int, seed: int) -> Tensor:
    """Normal values with some far out, a row of zeros, a row of one value."""
    draw = torch.Generator().manual_seed(seed)
    made = torch.randn(rows, columns, generator=draw) * torch.rand(rows, 1, generator=draw)
    made[torch.rand(rows, columns, generator=draw) < 0.01] *= 6
    made[0], made[1] = 0, -0.25
    return made


def defined(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Grid:
    """weight_grid without the library."""
    with monkeypatch.context() as patch:
        patch.setattr(quantizers, "library", lambda: None)
        return weight_grid(*arguments)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "size"), [(4, 32), (4, 64), (4, -1), (8, -1)])
@pytest.mark.parametrize("important", [False, True])
def test_the_library_chooses_as_the_definition(
    monkeypatch: pytest.MonkeyPatch, bits: int, size: int, symmetric: bool, important: bool
) -> None:
    assert library() is not None
    weight = weights(300, 576, bits)
    importance = torch.rand(576, generator=torch.Generator().manual_seed(2)) ** 4 if important else None
    arguments = (weight, bits, symmetric, size, True, importance)
    found, wanted = weight_grid(*arguments), defined(monkeypatch, *arguments)
    assert torch.equal(found.scale, wanted.scale)
    assert torch.equal(found.zero, wanted.zero)


def test_what_the_library_is_sure_of_is_the_least_error() -> None:
    """Against all shares in float64; it is sure of most groups, and never of equal grids."""
    assert SHARES[0] == 1 and SHARES[-1] == pytest.approx(0.4) and len(SHARES) == 61
    values = weights(500, 64, 5).numpy()
    amax = np.abs(values).max(axis=1, keepdims=True)
    scale = np.where(amax > 0, amax * np.array(SHARES, np.float32) / np.float32(7.5), np.float32(1)).astype(np.float32)
    best, sure = clip_search(library(), Grids(values, scale, (-8, 7)))
    codes = np.clip(np.rint(values[:, None] / scale[:, :, None]), -8, 7)
    error = (np.abs(codes * scale[:, :, None].astype(float) - values[:, None]) ** 2.4).sum(axis=2)
    assert sure.mean() > 0.97 and not sure[0]
    assert (best[sure] == error.argmin(axis=1)[sure]).all()


def test_not_a_number_is_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = weights(4, 64, 3)
    weight[2, 5], weight[3, 5] = float("nan"), float("inf")
    found, wanted = weight_grid(weight, 4, True, 64, True), defined(monkeypatch, weight, 4, True, 64, True)
    assert torch.equal(found.scale, wanted.scale)


def test_threads_do_not_matter() -> None:
    values = weights(1000, 32, 4).numpy()
    scale = np.abs(values).max(axis=1, keepdims=True) * np.array(SHARES, np.float32) / np.float32(7.5) + 1e-9
    one, three = (clip_search(library(), Grids(values, scale.astype(np.float32), (-8, 7)), n) for n in (1, 3))
    assert (one[0] == three[0]).all() and (one[1] == three[1]).all()


def test_what_it_is_not_sure_of_is_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it proposes there."""

    def unsure(found: object, grids: Grids, threads: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(grids.values), np.int32), np.arange(len(grids.values)) % 2 == 7

    weight = weights(40, 64, 6)
    wanted = weight_grid(weight, 4, True, 32, True)
    monkeypatch.setattr(quantizers, "clip_search", unsure)
    assert torch.equal(weight_grid(weight, 4, True, 32, True).scale, wanted.scale)
    assert not torch.equal(weight_grid(weight, 4, True, 32).scale, wanted.scale)


@pytest.mark.parametrize(("size", "groups"), [(32, 1), (32, 7), (64, 12), (160, 5), (576, 3), (48, 4), (1536, 40)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_shares_tried_together_have_the_errors_of_shares_tried_alone(
    monkeypatch: pytest.MonkeyPatch, size: int, groups: int, symmetric: bool
) -> None:
    """Bit for bit: which share is chosen must not depend on how many groups are left open."""

    def errors(at_once: int | None) -> Tensor:
        found: list[Tensor] = []
        with monkeypatch.context() as patch:
            if at_once is not None:
                patch.setattr(quantizers, "_shares_at_once", lambda grouped: at_once)
            patch.setattr(Tensor, "isnan", lambda error: found.append(error.clone()) or torch.isnan(error))
            low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
            chosen = quantizers._clip_search(weight, low, high, 4, symmetric, importance, torch.bfloat16)
        return torch.cat([*found, *(part.unsqueeze(1) for part in chosen)], dim=1)

    draw = torch.Generator().manual_seed(size)
    weight, importance = torch.randn(groups, size, generator=draw), torch.rand(groups, size, generator=draw)
    assert torch.equal(errors(None), errors(1))
    together = quantizers._shares_at_once(weight)
    assert (together > 1) == (size % 32 == 0 and groups * size < 1 << 14) and together <= len(SHARES)


@pytest.mark.parametrize("size", [32, 64, 96, 576, 2048, 16416])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("important", [False, True])
def test_the_librarys_errors_are_torchs(size: int, symmetric: bool, important: bool) -> None:
    """Bit for bit, from errors that float32 holds only as subnormal numbers to those that overflow."""
    groups = max(2, 4096 // size)
    draw = torch.Generator().manual_seed(size)
    values = torch.randn(groups, size, generator=draw) * 10 ** (50 * torch.rand(groups, 1, generator=draw) - 30)
    scale = values.abs().amax(1, keepdim=True) * torch.tensor(SHARES) / 7.5
    zero = None if symmetric else torch.randint(-8, 8, scale.shape, generator=draw).float()
    importance = torch.rand(3, size, generator=draw) if important else None
    arrays = [None if array is None else array.numpy() for array in (values, scale, zero, importance)]
    found = clip_errors(library(), Grids(*arrays[:2], (-8, 7), *arrays[2:]))
    grid = scale[:, :, None]
    shift = torch.zeros_like(grid) if zero is None else zero[:, :, None]
    error = torch.round(values[:, None] / grid).add_(shift).clamp_(-8, 7).sub_(shift).mul_(grid).sub_(values[:, None])
    error = error.abs_().contiguous().pow_(NORM)
    if importance is not None:
        error.mul_(importance[torch.arange(groups) % 3][:, None])
    assert np.array_equal(found, error.sum(dim=-1).numpy(), equal_nan=True)


def test_the_first_of_equal_errors_and_none_that_is_no_number() -> None:
    values = np.array([[1.0], [3e38], [3e38]], np.float32).repeat(32, axis=1)
    scale = np.array([[3, 0.5, 0.25], [3, 0.5, 0.25], [3, 5e37, 0.25]], np.float32)
    assert least_error(library(), Grids(values, scale, (-8, 7))).tolist() == [1, 0, 1]
    zeros = np.zeros((1, 32), np.float32)  # times an infinite error
    assert least_error(library(), Grids(values, scale, (-8, 7), importance=zeros)).tolist() == [0, 0, 1]


def test_a_wide_vector_adds_in_another_order() -> None:
    """What PyTorch adds with is told by the processor's features."""
    values = weights(40, 576, 1).numpy()[2:]
    scale = np.abs(values).max(axis=1, keepdims=True) * np.array(SHARES, np.float32) / np.float32(7.5)
    four, eight, sixteen = (clip_errors(library(), Grids(values, scale, (-8, 7)), lanes) for lanes in (4, 8, 16))
    for one, other in ((four, eight), (eight, sixteen), (four, sixteen)):
        assert not np.array_equal(one, other)
        np.testing.assert_allclose(one, other, rtol=3e-6)
    assert torch_lanes(library()) in (4, 8)
