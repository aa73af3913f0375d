"""Attention of the reference against numpy in float64, row by row: grouped queries, rotary positions, ALiBi, sliding
windows, soft caps, shares."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agq.reference.attention import (
    Positions,
    Scoring,
    attend,
    attend_through,
    attention_to_first,
    rotate,
    share_of_first,
)
from agq.reference.pruning import choose_victims

HEADS, KV_HEADS, TOKENS, WIDTH, SCALE = 4, 2, 300, 6, 0.37  # more tokens than are scored at once


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, heads, TOKENS, WIDTH, generator=draw) for heads in (HEADS, KV_HEADS, KV_HEADS))


def probabilities(
    q: np.ndarray, k: np.ndarray, slopes: list[float] | None, places: np.ndarray, window: int, cap: float
) -> np.ndarray:
    """[batch, heads, n, n] in float64, zero for keys after the query, and for those before its window."""
    found = np.zeros((2, HEADS, TOKENS, TOKENS))
    for head in range(HEADS):
        scores = q[:, head].astype(np.float64) @ k[:, head // 2].astype(np.float64).transpose(0, 2, 1) * SCALE
        if cap:
            scores = cap * np.tanh(scores / cap)
        if slopes is not None:
            scores -= slopes[head] * (places[:, None] - places[None, :])
        scores[:, np.triu(np.ones((TOKENS, TOKENS), bool), 1)] = -np.inf
        if window:
            scores[:, places[:, None] - places[None, :] >= window] = -np.inf
        found[:, head] = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return found / found.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("window", "cap"), [(0, 0.0), (33, 0.0), (0, 1.5), (33, 1.5), (1, 0.0), (200, 0.0), (400, 0.0)]
)
@pytest.mark.parametrize("bias", ["none", "none, tokens left out", "alibi", "alibi, tokens left out"])
def test_against_float64(bias: str, window: int, cap: float) -> None:
    q, k, v = inputs()
    slopes = [0.5, 0.25, 0.03, 0.01] if "alibi" in bias else None
    places = np.arange(TOKENS) * 2 + (np.arange(TOKENS) > 99) if "left out" in bias else np.arange(TOKENS)
    expected = probabilities(q.numpy(), k.numpy(), slopes, places, window, cap)
    out = np.einsum("bhij,bhjd->bhid", expected, np.repeat(v.numpy(), 2, axis=1))
    scoring = Scoring(
        SCALE,
        None if slopes is None else torch.tensor(slopes),
        torch.from_numpy(places).float() if "left out" in bias else None,
        window,
        cap,
    )
    assert np.allclose(attend(q, k, v, scoring), out, atol=1e-5)
    assert np.allclose(share_of_first(q, k, scoring), expected[..., 0], atol=1e-5)
    shares: list[torch.Tensor] = []
    halved = attend_through(q, k, v, scoring, lambda p: p / 2, shares)
    assert np.allclose(halved, out / 2, atol=1e-5) and np.allclose(shares[0], expected[..., 0] / 2, atol=1e-5)
    first = attention_to_first(q, k, scoring)
    assert first.dtype == torch.float64 and np.allclose(first, expected[..., 0].sum(axis=(0, 2)), rtol=1e-4)


def test_rotation_turns_channel_i_with_channel_i_plus_half() -> None:
    """By the angle of the position, against each other: (1, 0) at 90 degrees becomes (0, 1)."""
    x = torch.tensor([[1.0, 2.0, 0.0, 0.0], [1.0, 2.0, 5.0, 7.0]])
    angles = torch.tensor([[math.pi / 2, 0.0], [math.pi, math.pi / 2]])
    found = rotate(x, angles.cos(), angles.sin())
    assert torch.allclose(found, torch.tensor([[0.0, 2.0, 1.0, 0.0], [-1.0, -7.0, -5.0, 2.0]]), atol=1e-5)
    wider = torch.cat((x, torch.tensor([[8.0], [9.0]])), dim=-1)
    assert torch.equal(rotate(wider, angles.cos(), angles.sin())[:, 4], wider[:, 4])  # beyond the channels that turn


def test_positions_of_some_tokens() -> None:
    table = torch.arange(12.0).reshape(6, 2)
    index = torch.tensor([0, 3, 4])
    own, anew = (Positions(cos=table, sin=-table).of_tokens(index, renumber) for renumber in (False, True))
    assert torch.equal(own.cos, table[index]) and torch.equal(own.sin, -table[index])
    assert torch.equal(anew.cos, table[:3]) and torch.equal(anew.sin, -table[:3])
    assert own.places.tolist() == [0.0, 3.0, 4.0] and anew.places is None
    slopes = torch.tensor([0.5, 0.25])
    assert Positions(slopes=slopes).of_tokens(index, False).places.tolist() == [0.0, 3.0, 4.0]
    assert Positions(slopes=slopes).of_tokens(index, True).places is None


def test_victims_are_the_least_important_that_may_go() -> None:
    importance = torch.tensor([0.1, 0.5, 0.2, 0.2, 0.9, 0.3, 0.0])
    pinned = torch.tensor([True, False, False, False, False, False, True])
    assert choose_victims(importance, pinned, 0.3).nonzero().flatten().tolist() == [2, 3]  # floor(2.1)
    assert choose_victims(importance, pinned, 0.15).nonzero().flatten().tolist() == [2]  # of equals the first
    assert choose_victims(importance, pinned, 0.3, tokens=4).nonzero().flatten().tolist() == [2]  # floor(1.2)
    assert choose_victims(importance, pinned, 0.99).nonzero().flatten().tolist() == [1, 2, 3, 4, 5]
