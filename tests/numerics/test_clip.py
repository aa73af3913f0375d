"""The clip search of activations against its definition in float64."""

from __future__ import annotations

import numpy as np
import torch

from agq.formats import PER_ROW
from agq.quantization.clip import CLIP_TOKENS, search_clip
from agq.recipe import ActivationScheme

CLIPS = [round(1 - 0.02 * step, 2) for step in range(11)]


def errors(x: np.ndarray, weights: list[np.ndarray]) -> dict[float, float]:
    """Squared output error of each clip, with one asymmetric 4-bit scale per row of x."""
    found = {}
    for clip in CLIPS:
        low, high = np.minimum(x.min(axis=1), 0) * clip, np.maximum(x.max(axis=1), 0) * clip
        scale = (high - low)[:, None] / 15
        zero = np.rint(-low[:, None] / scale)
        error = (np.clip(np.rint(x / scale) + zero, 0, 15) - zero) * scale - x
        found[clip] = sum(float(np.square(error @ weight.T).sum()) for weight in weights)
    return found


def search(x: np.ndarray, weights: list[np.ndarray]) -> float:
    as_tensors = [torch.from_numpy(weight.astype(np.float32)) for weight in weights]
    return search_clip(torch.from_numpy(x.astype(np.float32)), as_tensors, ActivationScheme(4, False, PER_ROW))


def test_it_is_the_best_for_all_linears_together() -> None:
    """One linear reads the large channels, the other the rest: alone they choose differently; their errors add up."""
    draw = np.random.default_rng(4)
    x = draw.standard_t(4, (120, 64))
    large = np.abs(x).mean(axis=0) > np.quantile(np.abs(x).mean(axis=0), 0.5)
    chosen = set()
    for share in (0.0, 0.05, 0.3, 1.0, 4.0):
        weights = [draw.normal(size=(8, 64)) * ~large, share * draw.normal(size=(8, 64)) + share]
        found = errors(x, weights)
        assert search(x, weights) == min(found, key=lambda clip: (found[clip], -clip))
        chosen.add(search(x, weights))
    assert len(chosen) > 1


def one_far_out(tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs 0..0.75 beside one of 1 that the linear does not read: the smaller the range, the finer the rest."""
    x = np.random.default_rng(0).uniform(0, 0.75, (tokens, 32))
    x[:, 0] = 1.0
    weight = np.eye(32)
    weight[0] = 0
    return x, weight


def test_the_whole_grid_is_tried() -> None:
    x, weight = one_far_out(800)
    assert search(x, [weight]) == 0.8


def test_ties_go_to_the_larger_range() -> None:
    """Nothing reads the inputs, or there is nothing to read: all clips are alike."""
    x = np.random.default_rng(2).normal(size=(40, 16))
    assert search(x, [np.zeros((3, 16))]) == 1.0 and search(0 * x, [np.ones((3, 16))]) == 1.0


def test_tokens_are_evenly_spaced() -> None:
    """Twice as many as are used; only half of them ask for a clip, the first half or the last."""
    exact = np.tile(np.arange(-7.0, 9.0), (CLIP_TOKENS, 2))  # on the grid as it is
    clipped, weight = one_far_out(CLIP_TOKENS)
    assert search(exact, [weight]) == 1.0
    assert search(np.concatenate((0.01 * exact, clipped)), [weight]) == 0.8
    assert search(np.concatenate((clipped, 0.01 * exact)), [weight]) == 0.8
