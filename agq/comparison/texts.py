"""Predictions over texts that are given token by token (teacher forcing): KL divergence, same likeliest token, ratio of
perplexities.

The original's log probabilities lie in a temporary file of the cache folder while the other models are computed, so
that one model is in memory at a time.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from agq.comparison.prompts import own_text
from agq.errors import AgqError
from agq.evaluation.evaluate import make_plan
from agq.evaluation.methods import Plan, plan_tokens
from agq.evaluation.perplexity import Mean, check_finite, divergence, log_softmax
from agq.evaluation.scorers import Scorer, default_rows
from agq.files import cache_dir, ensure_free_space
from agq.text.sources import Text, is_named
from agq.text.tokenizers import TextTokenizer

RESAMPLES = 2000  # of the bootstrap
PROMPTS = "prompts"  # the own prompts as a text; a file of this name wins
_METHOD = "gptq"  # windows that do not overlap


@dataclass(frozen=True)
class WindowedText:
    """A text cut into windows. text: its label and hash."""

    text: Text
    plan: Plan


@dataclass(frozen=True)
class TextDistance:
    """A model against the original over one text.

    Attributes:
        data, data_sha256: the text. tokens, windows: scored. seq_len: tokens of a window.
        ppl: perplexity. original_ppl: the original's. ratio: of the two. ratio_stderr: its standard error, by paired
            bootstrap over windows; None for one window.
        kl: mean of KL(original || model) over scored positions, nats. same_top1: share of positions with the same
            likeliest token. *_stderr: standard errors, positions taken as independent.
        identical: every log probability is the original's, bit for bit.
    """

    data: str
    data_sha256: str
    tokens: int
    windows: int
    seq_len: int
    ppl: float
    original_ppl: float
    ratio: float
    ratio_stderr: float | None
    kl: float
    kl_stderr: float
    same_top1: float
    same_top1_stderr: float
    identical: bool


@dataclass
class Reference:
    """The original's predictions over texts: log probabilities in a file, in the order of the windows."""

    file: IO[bytes]
    nll: list[list[float]] = field(default_factory=list)  # [texts][windows], sums in nats

    def close(self) -> None:
        """Removes the file."""
        self.file.close()


def cut(source: str, tokenizer: TextTokenizer, seq_len: int, max_windows: int | None) -> WindowedText:
    """Windows of a source of text (`agq.evaluate_perplexity`), or of PROMPTS.

    Raises:
        AgqError: a text that cannot be read, or is shorter than one window.
    """
    if not is_named(source, PROMPTS):
        plan, found = make_plan(source, tokenizer, _METHOD, seq_len, max_windows=max_windows)
        return WindowedText(found, plan)
    text = own_text()
    return WindowedText(text, plan_tokens(_METHOD, tokenizer.encode(text.text), seq_len, max_windows=max_windows))


def refer(scorer: Scorer, texts: Sequence[WindowedText], report: Callable[[], None] | None = None) -> Reference:
    """Computes the original's predictions. report: called after each window.

    Raises:
        AgqError: no room for the file; logits that are not finite.
    """
    folder = _folder(4 * scorer.vocab * sum(text.plan.scored for text in texts))
    reference = Reference(tempfile.TemporaryFile(dir=folder))  # until close()
    try:
        for text in texts:
            reference.nll.append(_nlls(scorer, text.plan, lambda log_p: reference.file.write(log_p.tobytes()), report))
    except BaseException:
        reference.close()
        raise
    return reference


def measure(
    scorer: Scorer,
    texts: Sequence[WindowedText],
    reference: Reference,
    seed: int = 0,
    report: Callable[[], None] | None = None,
) -> list[TextDistance]:
    """A model against the original, text by text.

    Args:
        scorer: of the original's vocabulary. seed: of the bootstrap. report: called after each window.

    Raises:
        AgqError: logits that are not finite.
    """
    reference.file.seek(0)
    return [
        _measure(scorer, text, sums, reference.file, seed, report)
        for text, sums in zip(texts, reference.nll, strict=True)
    ]


def _measure(
    scorer: Scorer,
    text: WindowedText,
    theirs: Sequence[float],
    file: IO[bytes],
    seed: int,
    report: Callable[[], None] | None,
) -> TextDistance:
    kl, same = Mean(), Mean()
    identical = True

    def look(log_q: np.ndarray) -> None:
        nonlocal identical
        log_p = np.frombuffer(file.read(log_q.nbytes), np.float32).reshape(log_q.shape)
        identical = identical and np.array_equal(log_p, log_q)
        same.add(log_p.argmax(axis=1) == log_q.argmax(axis=1))
        kl.add(divergence(log_p, log_q))

    ours = _nlls(scorer, text.plan, look, report)
    counts = [len(window.targets) for window in text.plan.windows]
    ratio, error = perplexity_ratio(ours, theirs, counts, seed)
    return TextDistance(
        data=text.text.label,
        data_sha256=text.text.sha256,
        tokens=text.plan.scored,
        windows=len(counts),
        seq_len=text.plan.seq_len,
        ppl=math.exp(sum(ours) / sum(counts)),
        original_ppl=math.exp(sum(theirs) / sum(counts)),
        ratio=ratio,
        ratio_stderr=error,
        kl=kl.mean,
        kl_stderr=kl.stderr,
        same_top1=same.mean,
        same_top1_stderr=same.stderr,
        identical=identical,
    )


def perplexity_ratio(
    ours: Sequence[float], theirs: Sequence[float], counts: Sequence[int], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float | None]:
    """(ratio of two models' perplexities on the same windows, its standard error).

    The error is that of a paired bootstrap (Efron 1979; Koehn 2004): windows are drawn with replacement, the same for
    both models, and the ratio's standard deviation over `resamples` such draws is taken. None for one window.

    Args:
        ours, theirs: sums of negative log likelihoods of each window, nats. counts: tokens of each window.
    """
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    tokens = np.asarray(counts, np.float64)
    ratio = math.exp(difference.sum() / tokens.sum())
    if len(tokens) < 2:
        return ratio, None
    drawn = np.random.default_rng(seed).integers(0, len(tokens), size=(resamples, len(tokens)))
    ratios = np.exp(difference[drawn].sum(axis=1) / tokens[drawn].sum(axis=1))
    return ratio, float(ratios.std(ddof=1))


def _nlls(
    scorer: Scorer, plan: Plan, look: Callable[[np.ndarray], object], report: Callable[[], None] | None
) -> list[float]:
    """The sum of negative log likelihoods of each window, nats. look: gets the log probabilities float32 [n, vocab], a
    part after the other, and may overwrite them. AgqError: logits that are not finite."""
    rows = default_rows(scorer.vocab)
    sums = []
    for index, window in enumerate(plan.windows):
        total, done = 0.0, 0
        for part in scorer.logits(window.inputs, window.first, len(window.targets), rows):
            log_p, targets = log_softmax(part), window.targets[done : done + len(part)]
            total += -log_p[np.arange(len(targets)), targets].astype(np.float64).sum()
            look(log_p)
            done += len(part)
        check_finite(total, index)
        sums.append(total)
        if report is not None:
            report()
    return sums


def _folder(nbytes: int) -> Path:
    """Where the file lies, with room for so many bytes."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AgqError(
            f"cannot make the cache folder `{folder}`: {error.strerror}", hint="AGQ_CACHE_DIR names another one"
        ) from error
    ensure_free_space(folder, nbytes)
    return folder
