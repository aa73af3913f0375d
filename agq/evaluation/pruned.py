"""Perplexity with token pruning, as three numbers that are always given together.

A pruned token has no logits of its own in Agile-Quant; its published perplexities are means over the survivors. Those
are chosen by the model and easier to predict than the rest: such a number must not be compared with a perplexity of all
tokens. So next to it stand the unpruned model's on the same positions, and that of all tokens, where a removed token
leaves early through the final norm and the head. In all of them position p is scored against token p + 1 of the text,
removed or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from agq.errors import UsageError
from agq.evaluation.methods import Plan
from agq.evaluation.perplexity import Mean, PerplexityResult, Report, check_finite, make_result, token_nll
from agq.evaluation.scorers import Scorer, default_rows
from agq.recipe.pruning import PruningOptions

METHOD = "gptq"  # windows of one length that are whole prompts


class PrunedScorer(Scorer, Protocol):
    """A scorer that can prune."""

    layers: int

    def pruned_logits(
        self, tokens: np.ndarray, first: int, count: int, rows: int, options: PruningOptions
    ) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        """(survivors bool [n], logits as Scorer.logits gives them) of a new sequence, evaluation mode: every position
        has logits, those of removed tokens leave early."""
        ...


@dataclass(frozen=True)
class PruningResult:
    """Perplexities of a pruned model.

    Attributes:
        ppl_survivors: of the scored positions that survive all layers (the paper's figure).
        ppl_unpruned_same_positions: of the same positions, computed without pruning.
        ppl_all: of all positions, removed tokens leaving early. ppl_unpruned: of all positions without pruning.
        *_stderr: standard errors, tokens taken as independent.
        survivors: positions that the first two are means over; tokens: positions of the other two.
        sparsity: share of (token, layer) pairs that are not computed.
    """

    options: PruningOptions
    ppl_survivors: float
    ppl_survivors_stderr: float
    ppl_unpruned_same_positions: float
    ppl_unpruned_same_positions_stderr: float
    ppl_all: float
    ppl_all_stderr: float
    ppl_unpruned: float
    ppl_unpruned_stderr: float
    survivors: int
    tokens: int
    sparsity: float

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `pruning` holds the options."""
        values = dict(vars(self))
        del values["options"], values["tokens"]
        return {"pruning": self.options.to_dict(), **values}


def check_pruned(method: str, baseline: object) -> None:
    """UsageError for what pruning is not measured with."""
    if method != METHOD:
        raise UsageError(f"pruned perplexities are defined for method {METHOD}", hint=f"use `method: {METHOD}`")
    if baseline is not None:
        raise UsageError("`pruning:` and `baseline:` exclude each other", hint="the unpruned model is measured anyway")


def evaluate_pruned(
    scorer: PrunedScorer,
    plan: Plan,
    options: PruningOptions,
    rows: int | None = None,
    report: Report | None = None,
) -> tuple[PerplexityResult, PruningResult]:
    """(perplexity of all tokens, the three numbers) over the windows of a plan of method gptq.

    Args:
        rows: rows of logits at once; default by the vocabulary. report: called after each window.

    Raises AgqError for layers that the model lacks, and for logits that are not finite.
    """
    options.check(scorer.layers)
    rows = rows or default_rows(scorer.vocab)
    survivors, same, everything, plain = Mean(), Mean(), Mean(), Mean()
    for index, window in enumerate(plan.windows):
        count = len(window.targets)
        kept, logits = scorer.pruned_logits(window.inputs, window.first, count, rows, options)
        pruned = window_nll(logits, window.targets)
        unpruned = window_nll(scorer.logits(window.inputs, window.first, count, rows), window.targets)
        mask = kept[window.first : window.first + count]
        survivors.add(pruned[mask])
        same.add(unpruned[mask])
        everything.add(pruned)
        plain.add(unpruned)
        check_finite(everything.mean + plain.mean, index)
        if report is not None:
            report(index + 1, len(plan.windows), _ppl(everything)[0])
    figures = {
        "ppl_survivors": survivors,
        "ppl_unpruned_same_positions": same,
        "ppl_all": everything,
        "ppl_unpruned": plain,
    }
    values: dict[str, float] = {}
    for name, mean in figures.items():
        values[name], values[f"{name}_stderr"] = _ppl(mean)
    sparsity = options.sparsity(len(plan.windows[0].inputs), scorer.layers)
    result = PruningResult(options, **values, survivors=survivors.count, tokens=everything.count, sparsity=sparsity)
    return make_result(everything, plan, METHOD), result


def window_nll(logits: Iterator[np.ndarray], targets: np.ndarray) -> np.ndarray:
    """Negative log likelihoods float64 [n] of a window's targets, from its logits some rows at a time."""
    parts, done = [], 0
    for part in logits:
        parts.append(token_nll(part, targets[done : done + len(part)]))
        done += len(part)
    return np.concatenate(parts)


def _ppl(mean: Mean) -> tuple[float, float]:
    """Perplexity and its standard error."""
    ppl = math.exp(mean.mean) if mean.mean < 700 else math.inf
    return ppl, ppl * mean.stderr
