"""Predictions over texts: the ratio of perplexities and its bootstrap, divergence from what lies in the file."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agq.comparison.texts import Reference, WindowedText, measure, perplexity_ratio, refer
from agq.errors import AgqError
from agq.evaluation.methods import plan_tokens
from agq.evaluation.perplexity import FunctionScorer
from agq.text.sources import Text

P = np.array([[0.5, 0.25, 0.125, 0.125], [0.125, 0.5, 0.25, 0.125], [0.25] * 4, [0.7, 0.1, 0.1, 0.1]])
Q = np.array([[0.25, 0.5, 0.125, 0.125], [0.25, 0.125, 0.25, 0.375], [0.25] * 4, [0.7, 0.1, 0.1, 0.1]])


def scorer(table: np.ndarray) -> FunctionScorer:
    return FunctionScorer(lambda ids: np.log(table)[ids] + 3.0, table.shape[1])


def text(ids: list[int], seq_len: int) -> WindowedText:
    return WindowedText(Text("", "00", "words"), plan_tokens("gptq", np.array(ids), seq_len))


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("AGQ_CACHE_DIR", str(tmp_path / "cache"))


def test_ratio_by_hand() -> None:
    ratio, error = perplexity_ratio([3.0, 5.0], [2.0, 4.0], [2, 3])
    assert ratio == pytest.approx(math.exp(2 / 5))
    # Draws: both windows (half of them), twice the first, twice the second.
    values = np.exp([1 / 2, 2 / 5, 2 / 5, 1 / 3])
    assert error == pytest.approx(values.std(), rel=0.05)


def test_bootstrap_is_paired_and_seeded() -> None:
    rng = np.random.default_rng(3)
    theirs = rng.normal(1000.0, 100.0, 40)  # windows differ much more from each other than the models do
    ours = theirs + rng.normal(5.0, 2.0, 40)
    counts = [255] * 40
    ratio, error = perplexity_ratio(ours, theirs, counts)
    expected = ratio * (ours - theirs).std(ddof=1) / math.sqrt(40) / 255
    assert error == pytest.approx(expected, rel=0.1)
    assert perplexity_ratio(ours, theirs, counts) == (ratio, error)
    assert perplexity_ratio(ours, theirs, counts, seed=1) != (ratio, error)


def test_one_window_has_no_error() -> None:
    assert perplexity_ratio([2.0], [1.0], [1]) == (pytest.approx(math.e), None)


def test_distance_by_hand() -> None:
    """Two texts, windows of 3 tokens, of which two are scored: what lies in the file is found again in its order."""
    texts = [text([0, 1, 0, 3, 2, 2], 3), text([1, 1, 3], 3)]
    reference = refer(scorer(P), texts)
    first, second = measure(scorer(Q), texts, reference)
    # Contexts that are scored: 0 1 | 3 2, and 1 1.
    kl = [float((P[i] * np.log(P[i] / Q[i])).sum()) for i in range(4)]
    assert first.kl == pytest.approx((kl[0] + kl[1] + kl[3] + kl[2]) / 4, abs=1e-6)
    assert second.kl == pytest.approx(kl[1], abs=1e-6)
    assert first.same_top1 == 0.5 and second.same_top1 == 0.0  # 0 and 1 have another likeliest token
    nll = -np.log([Q[0, 1], Q[1, 0], Q[3, 2], Q[2, 2]]).mean()
    base = -np.log([P[0, 1], P[1, 0], P[3, 2], P[2, 2]]).mean()
    assert first.ppl == pytest.approx(math.exp(nll)) and first.original_ppl == pytest.approx(math.exp(base))
    assert first.ratio == pytest.approx(math.exp(nll - base)) and not first.identical
    assert (first.tokens, first.windows, first.seq_len, first.data) == (4, 2, 3, "words")
    again = measure(scorer(Q), texts, reference)
    assert again == [first, second]  # the next model reads from the beginning
    reference.close()


def test_the_same_model_has_no_distance() -> None:
    texts = [text([0, 1, 2, 3, 1, 0, 2, 2], 4)]
    reference = refer(scorer(P), texts)
    (found,) = measure(scorer(P), texts, reference)
    assert found.identical and found.kl == 0.0 and found.kl_stderr == 0.0 and found.same_top1 == 1.0
    assert found.ratio == 1.0 and found.ratio_stderr == 0.0
    reference.close()


def test_steps_are_told() -> None:
    steps: list[int] = []
    texts = [text([0, 1, 2, 3, 1, 0], 2)]
    reference = refer(scorer(P), texts, lambda: steps.append(1))
    measure(scorer(Q), texts, reference, report=lambda: steps.append(2))
    assert steps == [1] * 3 + [2] * 3
    reference.close()


def test_the_file_is_gone_and_room_is_checked(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text([0, 1, 2, 3], 4)]
    reference = refer(scorer(P), texts)
    assert isinstance(reference, Reference) and list((tmp_path / "cache").iterdir()) == []  # it has no name
    reference.close()
    monkeypatch.setattr("agq.files.shutil.disk_usage", lambda path: type("Usage", (), {"free": 47})())
    with pytest.raises(AgqError, match="not enough room"):
        refer(scorer(P), texts)  # 3 positions of 4 log probabilities


def test_logits_that_are_not_finite() -> None:
    broken = np.where(P > 0.6, np.nan, P)
    with pytest.raises(AgqError, match="window 2"):
        refer(scorer(broken), [text([0, 1, 3, 0], 2)])
