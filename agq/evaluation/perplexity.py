"""Perplexity of a scorer over a plan of windows, and how far one scorer is from another on the same windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from agq.errors import AgqError
from agq.evaluation.methods import Plan, Window, plan_tokens
from agq.evaluation.scorers import FunctionScorer, Scorer, Together, default_rows
from agq.runtime.scoring import token_nll

# (windows done, windows in all, perplexity so far)
Report = Callable[[int, int, float], None]


class Mean:
    """Running mean and variance of many numbers, in float64 (sums of deviations per batch, merged: no cancellation)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, values: np.ndarray) -> None:
        """Takes in an array of numbers."""
        values = np.asarray(values, dtype=np.float64).reshape(-1)
        n = values.size
        if not n:
            return
        mean = float(values.mean())
        delta = mean - self.mean
        total = self.count + n
        self._squares += float(((values - mean) ** 2).sum()) + delta * delta * self.count * n / total
        self.mean += delta * n / total
        self.count = total

    @property
    def stderr(self) -> float:
        """Standard error of the mean, taking the numbers as independent; nan for fewer than two."""
        return math.sqrt(self._squares / (self.count - 1) / self.count) if self.count > 1 else math.nan


@dataclass(frozen=True)
class PerplexityResult:
    """A perplexity with all that it depends on, text and model excepted.

    Attributes:
        ppl: as the method defines it (lm-eval: per word). ppl_stderr: its standard error, ppl x that of the mean log
            likelihood, as llama.cpp prints (tokens taken as independent).
        nll: mean negative log likelihood per scored token, nats. token_ppl: exp of it.
        tokens: tokens scored. text_tokens: tokens of the text. windows: computed. windows_total: of the whole text.
        bos: what was done about BOS. add_bos: whether a window holds one. stride: of strided.
        words, bytes, byte_ppl, bits_per_byte: of lm-eval.
    """

    ppl: float
    ppl_stderr: float
    method: str
    nll: float
    token_ppl: float
    tokens: int
    text_tokens: int
    windows: int
    windows_total: int
    seq_len: int
    stride: int | None
    add_bos: bool
    bos: str
    words: int | None = None
    bytes: int | None = None
    byte_ppl: float | None = None
    bits_per_byte: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types; what the method has no word for is left out."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Divergence:
    """A scorer against a baseline on the same windows.

    Attributes:
        ratio: perplexity over the baseline's. ratio_stderr: its standard error, from the paired differences of log
            likelihoods.
        kl: mean over scored positions of KL(baseline || scorer), nats. same_top1: share of positions with the same
            likeliest token.
        *_stderr: standard errors.
    """

    baseline_ppl: float
    ratio: float
    ratio_stderr: float
    kl: float
    kl_stderr: float
    same_top1: float
    same_top1_stderr: float

    def to_dict(self) -> dict[str, float]:
        """JSON types."""
        return dict(vars(self))


def evaluate_plan(
    scorer: Scorer, plan: Plan, method: str, rows: int | None = None, report: Report | None = None
) -> PerplexityResult:
    """Perplexity of a scorer over the windows of a plan.

    Args:
        rows: rows of logits at once; default by the vocabulary. report: called after each window.

    Raises:
        AgqError: logits that are not finite; whatever the scorer raises.
    """
    rows = rows or default_rows(scorer.vocab)
    mean = Mean()
    done = 0
    for group in _groups(scorer, plan, rows):
        if len(group) > 1 and isinstance(scorer, Together):
            several = scorer.logits_of_several([(w.inputs, w.first, len(w.targets)) for w in group])
            for window, logits in zip(group, several, strict=True):
                _add(mean, [logits], window.targets)
        else:
            for window in group:
                parts = scorer.logits(window.inputs, window.first, len(window.targets), rows)
                _add(mean, parts, window.targets)
        done += len(group)
        check_finite(mean.mean, done - 1)
        if report is not None:
            report(done, len(plan.windows), _ppl(mean, plan))
    return make_result(mean, plan, method)


def _add(mean: Mean, parts: Iterable[np.ndarray], targets: np.ndarray) -> None:
    """The log likelihoods of one window."""
    done = 0
    for logits in parts:
        mean.add(token_nll(logits, targets[done : done + len(logits)]))
        done += len(logits)


def _groups(scorer: Scorer, plan: Plan, rows: int) -> Iterator[list[Window]]:
    """Windows that are computed together: several where the scorer gains by that and `rows` of logits are enough."""
    most = 1
    if plan.windows and isinstance(scorer, Together):
        most = scorer.at_once(max(len(window.inputs) for window in plan.windows))
    group: list[Window] = []
    wanted = 0
    for window in plan.windows:
        if group and (len(group) == most or wanted + len(window.targets) > rows):
            yield group
            group, wanted = [], 0
        group.append(window)
        wanted += len(window.targets)
    if group:
        yield group


def compare_plan(
    scorer: Scorer, baseline: Scorer, plan: Plan, method: str, rows: int | None = None, report: Report | None = None
) -> tuple[PerplexityResult, PerplexityResult, Divergence]:
    """(scorer's perplexity, baseline's, divergence) over the windows of a plan, both models in step.

    Raises:
        AgqError: vocabularies of different size; logits that are not finite.
    """
    check_same_vocabulary(scorer.vocab, baseline.vocab)
    rows = rows or default_rows(scorer.vocab)
    ours, theirs, difference, kl, same = Mean(), Mean(), Mean(), Mean(), Mean()
    for index, window in enumerate(plan.windows):
        count, done = len(window.targets), 0
        pairs = zip(
            scorer.logits(window.inputs, window.first, count, rows),
            baseline.logits(window.inputs, window.first, count, rows),
            strict=True,
        )
        for logits, reference in pairs:
            targets = window.targets[done : done + len(logits)]
            done += len(logits)
            same.add(logits.argmax(axis=1) == reference.argmax(axis=1))
            log_q, log_p = log_softmax(logits), log_softmax(reference)
            row = np.arange(len(targets))
            nll_q, nll_p = -log_q[row, targets].astype(np.float64), -log_p[row, targets].astype(np.float64)
            kl.add(divergence(log_p, log_q))
            ours.add(nll_q)
            theirs.add(nll_p)
            difference.add(nll_q - nll_p)
        check_finite(ours.mean + theirs.mean, index)
        if report is not None:
            report(index + 1, len(plan.windows), _ppl(ours, plan))
    result, base = make_result(ours, plan, method), make_result(theirs, plan, method)
    per_unit = ours.count / plan.words if plan.words else 1.0
    ratio = result.ppl / base.ppl
    return (
        result,
        base,
        Divergence(base.ppl, ratio, ratio * difference.stderr * per_unit, kl.mean, kl.stderr, same.mean, same.stderr),
    )


def perplexity(
    scorer: Scorer | Callable[[np.ndarray], np.ndarray],
    tokens: np.ndarray,
    method: str = "gptq",
    seq_len: int = 2048,
    stride: int | None = None,
    bos_id: int | None = None,
    replace_bos: bool = False,
    max_windows: int | None = None,
    report: Report | None = None,
) -> PerplexityResult:
    """Perplexity over token ids that are there already (gptq, llama.cpp, strided; see `agq.evaluation.methods`).

    Args:
        scorer: a Scorer, or a function from ids int64 [n] to logits [n, vocab]. tokens: int64 [n], with BOS at its
            start or not.
        bos_id, replace_bos: see `plan_tokens`.
    """
    model: Scorer = cast("Scorer", scorer) if hasattr(scorer, "logits") else FunctionScorer(scorer)
    plan = plan_tokens(method, np.asarray(tokens, dtype=np.int64), seq_len, stride, bos_id, replace_bos, max_windows)
    return evaluate_plan(model, plan, method, report=report)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log softmax of float32 [n, vocab] rows, in place, sums in float64."""
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=logits)
    total = np.log(np.exp(logits).sum(axis=1, dtype=np.float64))
    np.subtract(logits, total[:, None].astype(np.float32), out=logits)
    return logits


def divergence(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL(p || q) float64 [n] of rows of log probabilities; log_q is overwritten."""
    np.subtract(log_p, log_q, out=log_q)
    np.multiply(log_q, np.exp(log_p), out=log_q)
    return log_q.sum(axis=1, dtype=np.float64)


def check_same_vocabulary(ours: int, theirs: int) -> None:
    """AgqError where two models have vocabularies of different size."""
    if ours != theirs:
        raise AgqError(
            f"the models' vocabularies differ: {ours} and {theirs} entries",
            hint="only forms of one model can be compared with each other",
        )


def check_finite(value: float, index: int) -> None:
    """AgqError where the mean log likelihood up to window `index` (from 0) is not a number."""
    if not math.isfinite(value):
        raise AgqError(
            f"window {index + 1}: the model's logits are not finite numbers",
            hint="the model is damaged or was quantized badly; `agq verify` tells more",
        )


def _ppl(mean: Mean, plan: Plan) -> float:
    """The perplexity so far; per word by the tokens per word of the whole text."""
    return _exp(mean.mean * plan.scored / plan.words if plan.words else mean.mean)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def make_result(mean: Mean, plan: Plan, method: str) -> PerplexityResult:
    """The result of a plan from the mean negative log likelihood of its tokens."""
    nll = mean.mean
    units = plan.words if plan.words else mean.count
    ppl = _exp(nll * mean.count / units)
    extra: dict[str, Any] = {}
    if plan.bytes and plan.words:
        per_byte = nll * mean.count / plan.bytes
        extra = {
            "words": plan.words,
            "bytes": plan.bytes,
            "byte_ppl": _exp(per_byte),
            "bits_per_byte": per_byte / math.log(2),
        }
    return PerplexityResult(
        ppl=ppl,
        ppl_stderr=ppl * mean.stderr * mean.count / units,
        method=method,
        nll=nll,
        token_ppl=_exp(nll),
        tokens=mean.count,
        text_tokens=plan.tokens,
        windows=len(plan.windows),
        windows_total=plan.total,
        seq_len=plan.seq_len,
        stride=plan.stride,
        add_bos=plan.add_bos,
        bos=plan.bos,
        **extra,
    )
