"""Sampling by hand: distributions of a few tokens worked out with exact fractions, and what a draw takes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agq.runtime.sampling import Sampler, min_p, repetition_penalty, softmax, top_k, top_p

HALVES = np.array([0.125, 0.5, 0.25, 0.125])


def logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(probabilities).astype(np.float32)


def test_softmax() -> None:
    found = softmax(np.array([1000.0, 1000 + math.log(3), -np.inf], np.float64))
    assert found.dtype == np.float64 and found.tolist() == pytest.approx([0.25, 0.75, 0.0])


def test_temperature_is_a_root() -> None:
    """At 0.5 probabilities are squared, at 2 their roots are taken: 1 : 16 : 4 : 1 and 1 : 2 : sqrt 2 : 1."""
    for temperature, shares in ((0.5, [1, 16, 4, 1]), (2.0, [1, 2, math.sqrt(2), 1]), (1.0, [1, 4, 2, 1])):
        ids, found = Sampler(temperature, seed=0).distribution(logits(HALVES))
        assert ids.tolist() == [0, 1, 2, 3] and found.tolist() == pytest.approx([x / sum(shares) for x in shares])


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.0, [1]), (0.4, [1]), (0.5, [1]), (0.51, [1, 2]), (0.75, [1, 2]), (0.76, [0, 1, 2]), (1.0, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_fewest_that_reach_it(p: float, kept: list[int]) -> None:
    assert np.flatnonzero(top_p(HALVES, p)).tolist() == kept
    ids, found = Sampler(1.0, top_p=p, seed=0).distribution(logits(HALVES))
    if p not in (0.5, 0.75):  # there the last bit of a logarithm decides
        assert ids.tolist() == kept
        assert found.tolist() == pytest.approx((HALVES[kept] / HALVES[kept].sum()).tolist())


def test_top_k_keeps_ties() -> None:
    values = np.array([3.0, 1.0, 2.0, 2.0, -5.0])
    assert [top_k(values, k).tolist() for k in (0, 1, 2, 3, 4, 5, 9)] == [
        [0, 1, 2, 3, 4], [0], [0, 2, 3], [0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4],
    ]  # fmt: skip


def test_min_p_is_a_share_of_the_likeliest() -> None:
    assert min_p(HALVES, 0.5).tolist() == [False, True, True, False]
    assert min_p(HALVES, 0.25).all() and min_p(HALVES, 1.0).sum() == 1 and min_p(HALVES, 0.0).all()
    ids, found = Sampler(1.0, min_p=0.3, seed=0).distribution(logits(HALVES))
    assert ids.tolist() == [1, 2] and found.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_filters_follow_one_another() -> None:
    """top-k leaves 1/2, 1/4 of 3/4: 2/3 and 1/3; top-p of 0.6 leaves the first. Of probabilities before top-k it would
    leave both."""
    values = logits(np.array([0.1, 0.5, 0.25, 0.15]))
    ids, found = Sampler(1.0, top_k=2, top_p=0.6, seed=0).distribution(values)
    assert ids.tolist() == [1] and found.tolist() == [1.0]


def test_repetition_penalty() -> None:
    """Divided where positive, multiplied where negative, once however often a token was seen; others stay."""
    values = np.array([2.0, -2.0, 3.0, 0.0], np.float32)
    assert repetition_penalty(values, np.array([0, 1, 3]), 2.0).tolist() == [1.0, -4.0, 3.0, 0.0]
    assert values.tolist() == [2.0, -2.0, 3.0, 0.0]
    seen = [0, 1, 1, 0, 0]
    _, found = Sampler(1.0, repetition_penalty=2.0, seed=0).distribution(values, seen)
    assert found.tolist() == pytest.approx(softmax(np.array([1.0, -4.0, 3.0, 0.0])).tolist())


def test_a_draw_is_where_the_number_falls() -> None:
    """Token i for numbers from the sum of those before it on, itself included; never one of probability 0."""

    class Number:
        def __init__(self, value: float) -> None:
            self.value = value

        def random(self) -> float:
            return self.value

    sampler = Sampler(1.0, seed=0)
    sampler.distribution = lambda logits, seen: (np.array([5, 6, 7, 8]), np.array([0.0, 0.25, 0.5, 0.25]))
    for number, token in ((0.0, 6), (0.2499, 6), (0.25, 7), (0.7499, 7), (0.75, 8), (0.9999999, 8), (1.0, 8)):
        sampler._random = Number(number)
        assert sampler(np.zeros(9)) == token, number
