"""Scores of lm-eval (the Language Model Evaluation Harness), and how much of the original's a model recovers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agq.errors import AgqError
from agq.files import read_input

_HINT = "give the file of results that lm_eval writes"
# Metrics of a task where the higher is better, the first that is there counts.
_METRICS = ("acc_norm", "acc", "exact_match", "f1", "mc2")


@dataclass(frozen=True)
class Task:
    """A task's score and its metric."""

    metric: str
    value: float


@dataclass(frozen=True)
class TaskRecovery:
    """task, metric: of lm-eval. original, value: scores of the two models. recovery: the second over the first; None
    where the original has 0."""

    task: str
    metric: str
    original: float
    value: float
    recovery: float | None


def read_tasks(path: str | os.PathLike[str]) -> dict[str, Task]:
    """Task -> score of a results file of lm-eval.

    Raises:
        AgqError: the file cannot be read, or holds no scores.
    """
    path = Path(path).expanduser()
    try:
        document: Any = json.loads(read_input(path))
    except OSError as error:
        raise AgqError(f"cannot read `{path}`: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise AgqError(f"`{path}` is not JSON", hint=_HINT) from None
    results = document.get("results") if isinstance(document, dict) else None
    found = {}
    for name, scores in results.items() if isinstance(results, dict) else ():
        task = _task(scores)
        if task is not None:
            found[str(name)] = task
    if not found:
        raise AgqError(f"`{path}` holds no scores of lm-eval", hint=_HINT)
    return found


def _task(scores: Any) -> Task | None:
    """A score is named by metric and filter, such as "acc,none"."""
    if not isinstance(scores, dict):
        return None
    for metric in _METRICS:
        for name, value in scores.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if str(name).partition(",")[0] == metric and number:
                return Task(metric, float(value))
    return None


def recovery(original: dict[str, Task], other: dict[str, Task]) -> list[TaskRecovery]:
    """The tasks that both have by the same metric, in the original's order.

    Raises:
        AgqError: they have none in common.
    """
    found = [
        TaskRecovery(name, task.metric, task.value, other[name].value, other[name].value / task.value)
        if task.value
        else TaskRecovery(name, task.metric, task.value, other[name].value, None)
        for name, task in original.items()
        if name in other and other[name].metric == task.metric
    ]
    if not found:
        raise AgqError("two results of lm-eval have no task in common", hint="run the same tasks for all models")
    return found


def mean_recovery(tasks: Sequence[TaskRecovery]) -> float | None:
    """The mean over tasks; None where there are none."""
    values = [task.recovery for task in tasks if task.recovery is not None]
    return sum(values) / len(values) if values else None
