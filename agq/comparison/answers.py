"""Greedy answers of a model to prompts, and how far two answers to the same prompt are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agq.artifact import Artifact
from agq.comparison.rouge import Rouge
from agq.comparison.sentences import SentenceModel
from agq.errors import AgqError
from agq.runtime.batch import Answer, seeded
from agq.runtime.loaded import LoadedModel
from agq.runtime.sampling import Sampler

_SLOTS = 8  # texts in the making at once


@dataclass(frozen=True)
class AnswerDistance:
    """An answer against the original's to the same prompt.

    Attributes:
        same: the same tokens. prefix: leading tokens that are equal. tokens: of the original's answer.
        rouge1, rouge_l: F measures of ROUGE-1 and ROUGE-L (Lin 2004). bert_score: F1 of BERTScore (Zhang et al. 2020).
            sts: cosine of the two sentence vectors (Reimers and Gurevych 2019). None: not computed.
    """

    same: bool
    prefix: int
    tokens: int
    rouge1: float | None = None
    rouge_l: float | None = None
    bert_score: float | None = None
    sts: float | None = None


@dataclass(frozen=True)
class Summary:
    """Answers against the original's, means over prompts; fields as of AnswerDistance.

    Attributes:
        prompts: how many. same: share of equal answers. prefix, prefix_median, tokens: in tokens.
    """

    prompts: int
    same: float
    prefix: float
    prefix_median: float
    tokens: float
    rouge1: float | None
    rouge_l: float | None
    bert_score: float | None
    sts: float | None


def greedy_answers(
    artifact: Artifact,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    threads: int | None = None,
    report: Callable[[], None] | None = None,
) -> tuple[list[Answer], int]:
    """(greedy answers to token ids, in their order; threads that computed them). report: called after each.

    Raises:
        AgqError: a prompt that does not fit the model's context; whatever the engine raises.
    """
    context = min(max(map(len, prompts)) + max_tokens, artifact.spec.context)
    slots = min(_SLOTS, len(prompts))
    with LoadedModel(artifact, threads=threads, context=context, slots=slots) as model:
        found: list[Answer] = []
        for answer in model.start_many(prompts, seeded(Sampler(temperature=0.0)), max_tokens):
            if answer.error:
                raise AgqError(f"prompt {answer.index + 1} of {len(prompts)}: {answer.error}")
            found.append(answer)
            if report is not None:
                report()
        return sorted(found, key=lambda answer: answer.index), model.engine.threads


def common_prefix(one: Sequence[int], two: Sequence[int]) -> int:
    """How many leading tokens are equal."""
    for place, (left, right) in enumerate(zip(one, two, strict=False)):
        if left != right:
            return place
    return min(len(one), len(two))


def distances(
    originals: Sequence[Answer], answers: Sequence[Answer], rouge: Rouge | None, sentences: SentenceModel | None
) -> list[AnswerDistance]:
    """Each answer against the original's. rouge, sentences: None leaves their measures out."""
    pairs = [(original.text, answer.text) for original, answer in zip(originals, answers, strict=True)]
    overlaps = [rouge.score(*pair) for pair in pairs] if rouge is not None else [(None, None)] * len(pairs)
    closeness = sentences.score(pairs) if sentences is not None else [(None, None)] * len(pairs)
    return [
        AnswerDistance(
            original.ids == answer.ids, common_prefix(original.ids, answer.ids), original.tokens, *overlap, *close
        )
        for original, answer, overlap, close in zip(originals, answers, overlaps, closeness, strict=True)
    ]


def summary(found: Sequence[AnswerDistance]) -> Summary:
    """The means of one model's answers, of at least one prompt."""

    def mean(name: str) -> float | None:
        values = [getattr(item, name) for item in found]
        return None if any(value is None for value in values) else float(np.mean(values))

    prefixes = [item.prefix for item in found]
    return Summary(
        prompts=len(found),
        same=float(np.mean([item.same for item in found])),
        prefix=float(np.mean(prefixes)),
        prefix_median=float(np.median(prefixes)),
        tokens=float(np.mean([item.tokens for item in found])),
        rouge1=mean("rouge1"),
        rouge_l=mean("rouge_l"),
        bert_score=mean("bert_score"),
        sts=mean("sts"),
    )
