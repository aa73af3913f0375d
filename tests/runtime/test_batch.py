"""Many prompts at once: each gets the answer that it gets alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from agq.runtime.batch import Answer, generate_many
from agq.runtime.engine import Engine
from agq.runtime.generation import Generation, load_tokenizer
from agq.runtime.sampling import Sampler

PROMPTS = [
    "The red wolf is",
    "In 1964",
    "The river flows to the north and",
    "",
    "A",
    "The steam engine was " * 4,
    "The",
]


def sampler(index: int) -> Sampler:
    """Greedy or not, with a penalty or not, by the prompt's place."""
    return Sampler(
        0.0 if index % 2 else 0.9,
        top_k=20,
        repetition_penalty=1.0 if index % 3 else 1.3,
        seed=None if index % 2 else index,
    )


def alone(engine: Engine, index: int, limit: int | None, stop: tuple[str, ...]) -> Answer:
    """What a Generation of its own says."""
    tokenizer = load_tokenizer(engine.artifact)
    generation = Generation(engine, tokenizer, PROMPTS[index], sampler(index), limit, stop)
    for _ in generation:
        pass
    engine.truncate(0, 0)
    values = generation.statistics
    ids = tuple(generation.tokens)
    return Answer(index, values.text, values.tokens, values.prompt_tokens, values.finish_reason, ids=ids)


@pytest.mark.parametrize("slots", [1, 3, 16])
@pytest.mark.parametrize(("limit", "stop"), [(9, ()), (None, (" the",))], ids=str)
def test_answers_are_those_of_the_prompts_alone(
    demo_artifact: Path, slots: int, limit: int | None, stop: tuple[str, ...]
) -> None:
    with Engine(demo_artifact, context=40, threads=1) as engine:
        expected = [alone(engine, index, limit, stop) for index in range(len(PROMPTS))]
    reasons = {answer.finish_reason for answer in expected}
    assert reasons == ({"length"} if limit else {"stop", "context"})
    with Engine(demo_artifact, context=40, threads=1, slots=slots) as engine:
        tokenizer = load_tokenizer(engine.artifact)
        ids = [tokenizer.encode(prompt) for prompt in PROMPTS]
        found = list(generate_many(engine, tokenizer, ids, sampler, limit, stop))
        assert [engine.length(slot) for slot in range(slots)] == [0] * slots
    assert sorted(found, key=lambda answer: answer.index) == expected


def test_weights_are_read_once_for_all(demo_artifact: Path) -> None:
    """Prompts are computed together, and then a token of each text by one pass."""
    passes: list[int] = []
    with Engine(demo_artifact, context=64, threads=1, slots=4) as engine:
        tokenizer = load_tokenizer(engine.artifact)
        ids = [tokenizer.encode(prompt) for prompt in PROMPTS[:3] + PROMPTS[4:5]]
        list(generate_many(engine, tokenizer, ids, lambda index: Sampler(), 5, step=passes.append))
    assert passes == [sum(map(len, ids)), 4, 4, 4, 4]


def test_prompts_that_cannot_be_answered(demo_artifact: Path) -> None:
    with Engine(demo_artifact, context=16, threads=1, slots=2) as engine:
        tokenizer = load_tokenizer(engine.artifact)
        ids = [[], tokenizer.encode("In 1964"), [5] * 16, tokenizer.encode("The")]
        found = {answer.index: answer for answer in generate_many(engine, tokenizer, ids, lambda index: Sampler(), 2)}
    assert found[0].error == "the prompt is empty" and "has 16 tokens" in found[2].error
    assert [found[index].tokens for index in (1, 3)] == [2, 2] and not found[1].error + found[3].error
