"""Each filter against transformers' own; the draw against its distribution."""

from __future__ import annotations

import numpy as np
import pytest

from agq.errors import UsageError
from agq.runtime.sampling import Sampler

torch = pytest.importorskip("torch")

VOCAB = 211


def logits_of(seed: int, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(VOCAB) * scale).astype(np.float32)


def dense(sampler: Sampler, logits: np.ndarray, seen: list[int] = ()) -> np.ndarray:
    ids, probabilities = sampler.distribution(logits, seen)
    out = np.zeros(logits.size)
    out[ids] = probabilities
    return out


def expected(logits: np.ndarray, seen: list[int], *warpers: object) -> np.ndarray:
    scores = torch.tensor(logits, dtype=torch.float64)[None]
    for warper in warpers:
        scores = warper(torch.tensor([seen or [0]]), scores)
    return torch.softmax(scores, -1)[0].numpy()


@pytest.mark.parametrize("seed", range(4))
def test_filters_equal_those_of_transformers(seed: int) -> None:
    from transformers.generation import logits_process as reference

    logits, seen = logits_of(seed), [3, 5, 5, 200]
    temperature = reference.TemperatureLogitsWarper(0.7)
    cases = [
        ({}, [temperature]),
        ({"top_k": 17}, [temperature, reference.TopKLogitsWarper(17)]),
        ({"top_p": 0.85}, [temperature, reference.TopPLogitsWarper(0.85)]),
        ({"min_p": 0.05}, [temperature, reference.MinPLogitsWarper(0.05)]),
        ({"repetition_penalty": 1.3}, [reference.RepetitionPenaltyLogitsProcessor(1.3), temperature]),
        (
            {"repetition_penalty": 1.2, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
            [
                reference.RepetitionPenaltyLogitsProcessor(1.2),
                temperature,
                reference.TopKLogitsWarper(40),
                reference.TopPLogitsWarper(0.9),
                reference.MinPLogitsWarper(0.02),
            ],
        ),
    ]
    for options, warpers in cases:
        found = dense(Sampler(temperature=0.7, seed=0, **options), logits, seen)
        wanted = expected(logits, seen, *warpers)
        assert ((found > 0) == (wanted > 0)).all(), options
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-12)


def test_ties_at_the_edge_of_top_k_are_kept_as_transformers_keeps_them() -> None:
    logits = np.array([1.0, 2.0, 2.0, 2.0, 0.0], np.float32)
    ids, _ = Sampler(temperature=1.0, top_k=2, seed=0).distribution(logits)
    assert ids.tolist() == [1, 2, 3]


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    logits = np.array([0.0, 5.0, 5.0, 1.0], np.float32)
    assert Sampler()(logits) == 1
    assert Sampler(top_k=1, top_p=0.1)(logits) == 1
    assert Sampler(repetition_penalty=10.0)(logits, [1, 2]) == 3


def test_draws_follow_the_distribution() -> None:
    logits = logits_of(1, scale=1.0)[:8]
    sampler = Sampler(temperature=1.0, top_p=0.9, seed=3)
    wanted = dense(sampler, logits)
    counts = np.bincount([sampler(logits) for _ in range(20_000)], minlength=8)
    assert (counts[wanted == 0] == 0).all()
    deviation = np.sqrt(wanted * (1 - wanted) / 20_000)
    assert (np.abs(counts / 20_000 - wanted) <= 5 * deviation).all()


def test_a_seed_repeats_itself() -> None:
    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(temperature=1.5, seed=seed)
        return [sampler(logits_of(index)) for index in range(20)]

    assert draw(7) == draw(7) != draw(8)
    first = Sampler(temperature=1.0)
    assert first.seed != Sampler(temperature=1.0).seed
    assert draw(first.seed) == draw(first.seed)


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e3])
def test_extreme_values_stay_finite(temperature: float) -> None:
    logits = np.array([1e30, -1e30, 88.0, -np.inf, 1e30], np.float32)
    with np.errstate(over="ignore"):
        ids, probabilities = Sampler(temperature=temperature, top_k=4, top_p=0.99, min_p=1e-9, seed=0).distribution(
            logits
        )
    assert np.isfinite(probabilities).all() and probabilities.sum() == pytest.approx(1)
    assert set(ids.tolist()) <= {0, 4}


def test_some_token_is_always_left() -> None:
    logits = np.zeros(5, np.float32)
    for options in ({"top_p": 0.0}, {"min_p": 1.0}, {"top_k": 1}):
        ids, _ = Sampler(temperature=1.0, seed=0, **options).distribution(logits)
        assert ids.size >= 1


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"repetition_penalty": 0},
        {"seed": -1},
    ],
)
def test_values_out_of_range(options: dict) -> None:
    with pytest.raises(UsageError):
        Sampler(**options)
