"""Aggregation, numerics, and the distance between two scorers."""

import math

import numpy as np
import pytest

from agq.errors import AgqError
from agq.evaluation.methods import plan_tokens
from agq.evaluation.perplexity import FunctionScorer, Mean, compare_plan, evaluate_plan, perplexity, token_nll

VOCAB = 4
P = np.array([[0.5, 0.25, 0.125, 0.125], [0.125, 0.5, 0.25, 0.125], [0.25] * 4, [0.7, 0.1, 0.1, 0.1]])
Q = np.array([[0.25, 0.5, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25], [0.25] * 4, [0.7, 0.1, 0.1, 0.1]])


def scorer(table: np.ndarray) -> FunctionScorer:
    return FunctionScorer(lambda ids: np.log(table)[ids], VOCAB)


def test_mean_merges_batches():
    rng = np.random.default_rng(0)
    values = rng.normal(loc=1e6, size=1000)
    mean = Mean()
    for part in np.array_split(values, 7):
        mean.add(part)
    mean.add(np.empty(0))
    assert mean.count == 1000
    assert mean.mean == pytest.approx(values.mean(), rel=1e-14)
    assert mean.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(1000), rel=1e-9)
    assert math.isnan(Mean().stderr)


def test_token_nll_equals_float64_also_for_large_logits():
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=30, size=(50, 1000)) + 500
    targets = rng.integers(0, 1000, 50)
    exact = np.logaddexp.reduce(logits.astype(np.float32).astype(np.float64), axis=1)
    exact -= logits.astype(np.float32)[np.arange(50), targets]
    assert np.allclose(token_nll(logits.astype(np.float32), targets), exact, rtol=0, atol=2e-4)
    flat = token_nll(np.zeros((3, 128), np.float32), np.array([0, 5, 127]))
    assert np.allclose(flat, math.log(128), rtol=1e-7)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_how_many_rows_come_at_once_changes_nothing(rows):
    rng = np.random.default_rng(2)
    tokens = rng.integers(0, VOCAB, 40)
    plan = plan_tokens("gptq", tokens, 10)
    assert evaluate_plan(scorer(P), plan, "gptq", rows).nll == pytest.approx(
        evaluate_plan(scorer(P), plan, "gptq").nll, rel=1e-12
    )


def test_divergence_by_hand():
    # Tokens 0 1 0 1: contexts 0 1 0 are scored. KL(P0||Q0) = .5 ln 2 - .25 ln 2, and the same for context 1.
    plan = plan_tokens("gptq", np.array([0, 1, 0, 1]), 4)
    ours, base, distance = compare_plan(scorer(Q), scorer(P), plan, "gptq")
    kl = [float((P[i] * np.log(P[i] / Q[i])).sum()) for i in (0, 1, 0)]
    assert kl[0] == pytest.approx(0.25 * math.log(2)) and kl[1] == pytest.approx(0.25 * math.log(2))
    assert distance.kl == pytest.approx(np.mean(kl), rel=1e-6)
    # Context 0: likeliest 0 and 1; context 1: 1 against a tie, which goes to 0.
    assert distance.same_top1 == 0
    # P: 1/4, 1/8, 1/4 -> 128^(1/3); Q: 1/2, 1/4, 1/2 -> 16^(1/3).
    assert base.ppl == pytest.approx(128 ** (1 / 3), rel=1e-6)
    assert ours.ppl == pytest.approx(16 ** (1 / 3), rel=1e-6)
    assert distance.ratio == pytest.approx(0.5, rel=1e-6) and distance.ratio_stderr == pytest.approx(0, abs=1e-6)
    assert ours.ppl == pytest.approx(evaluate_plan(scorer(Q), plan, "gptq").ppl, rel=1e-7)


def test_divergence_is_of_the_scorer_from_the_baseline():
    """KL(baseline || scorer): the baseline's probabilities weigh. Standard errors of what differs by token."""
    skewed = np.array([[0.97, 0.01, 0.01, 0.01], [0.25] * 4, [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    tokens = np.array([0, 2, 1, 3, 3, 0, 1, 2])
    ours, base, distance = compare_plan(scorer(P), scorer(skewed), plan_tokens("gptq", tokens, 8), "gptq")
    contexts, targets = tokens[:-1], tokens[1:]
    kl = (skewed * np.log(skewed / P)).sum(axis=1)[contexts]
    assert distance.kl == pytest.approx(kl.mean(), rel=1e-5)
    assert distance.kl_stderr == pytest.approx(kl.std(ddof=1) / math.sqrt(7), rel=1e-5)
    same = (P.argmax(axis=1) == skewed.argmax(axis=1))[contexts]
    assert distance.same_top1 == pytest.approx(same.mean())
    assert distance.same_top1_stderr == pytest.approx(same.std(ddof=1) / math.sqrt(7))
    ratios = np.log(skewed[contexts, targets] / P[contexts, targets])
    assert distance.ratio == pytest.approx(math.exp(ratios.mean()), rel=1e-5) == pytest.approx(ours.ppl / base.ppl)
    assert distance.ratio_stderr == pytest.approx(distance.ratio * ratios.std(ddof=1) / math.sqrt(7), rel=1e-5)
    assert distance.baseline_ppl == base.ppl


def test_a_scorer_against_itself():
    tokens = np.random.default_rng(3).integers(0, VOCAB, 64)
    plan = plan_tokens("strided", tokens, 16, 4)
    _, _, distance = compare_plan(scorer(P), scorer(P), plan, "strided")
    assert (distance.ratio, distance.kl, distance.same_top1) == (1.0, 0.0, 1.0)


def test_models_that_do_not_belong_together():
    with pytest.raises(AgqError, match="vocabularies differ"):
        compare_plan(
            FunctionScorer(lambda ids: ids, 4),
            FunctionScorer(lambda ids: ids, 5),
            plan_tokens("gptq", np.arange(4), 4),
            "gptq",
        )


def test_logits_that_are_no_numbers():
    with pytest.raises(AgqError, match=r"window 1: .*not finite"):
        perplexity(lambda ids: np.full((len(ids), VOCAB), np.nan), np.zeros(8, int), "gptq", 4)


def test_progress_and_running_value():
    seen = []
    result = perplexity(
        lambda ids: np.log(P)[ids], np.zeros(20, int), "gptq", 5, report=lambda *item: seen.append(item)
    )
    assert [item[:2] for item in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert seen[-1][2] == result.ppl == pytest.approx(2.0)
    assert result.to_dict()["windows"] == 4 and "words" not in result.to_dict()
