"""Prompt look-up: the same tokens as without, on models of all three families; what it proposes; what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

import agq
from agq.errors import UsageError
from agq.runtime.engine import Engine
from agq.runtime.generation import Generation, load_tokenizer
from agq.runtime.lookup import Lookup
from agq.runtime.sampling import Sampler

# Text that repeats itself, so that something is proposed and right.
PROMPT = (
    "The river flows to the north and the river flows to the south. The river flows to the east and the river flows to"
)


def generate(engine: Engine, prompt: str | list[int], count: int | None, **options) -> Generation:
    engine.truncate(0, 0)
    generation = Generation(
        engine, load_tokenizer(engine.artifact), prompt, max_tokens=count, eos_ids=[], **options
    )  # fmt: skip
    for _ in generation:
        pass
    return generation


@pytest.fixture(scope="module")
def artifact_of(shared_model, demo_artifact: Path, tmp_path_factory: pytest.TempPathFactory):
    """Name of a demo model -> it as a W4A8 artifact."""

    def build(name: str) -> Path:
        if name == "llama-demo":
            return demo_artifact
        folder = tmp_path_factory.mktemp(name)
        agq.quantize(shared_model(name), scheme="W4A8", method="rtn", output=folder / "quantized")
        agq.pack(folder / "quantized", folder / "model.agq.safetensors")
        return folder / "model.agq.safetensors"

    return build


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-demo", "opt-demo", "bloom-demo"])
def test_same_tokens_as_plain_greedy(name: str, artifact_of) -> None:
    with Engine(artifact_of(name), threads=1, context=256) as engine:
        plain = generate(engine, PROMPT, 48)
        held = plain.history()
        found = generate(engine, PROMPT, 48, speculate=6)
        assert found.tokens == plain.tokens and found.statistics.text == plain.statistics.text
        assert found.history() == held  # nothing that the model did not choose stays in the cache
        assert 0 < found.statistics.accepted <= found.statistics.drafted
        assert found.statistics.finish_reason == "length" and plain.statistics.drafted == 0


def test_same_tokens_with_penalty_stop_end_and_context(demo_artifact: Path) -> None:
    with Engine(demo_artifact, threads=1, context=72) as engine:
        penalty = {"sampler": Sampler(repetition_penalty=1.1)}
        plain, found = generate(engine, PROMPT, 20, **penalty), generate(engine, PROMPT, 20, speculate=8, **penalty)
        assert found.tokens == plain.tokens
        plain, found = generate(engine, PROMPT, None), generate(engine, PROMPT, None, speculate=8)
        assert found.tokens == plain.tokens
        assert found.statistics.finish_reason == plain.statistics.finish_reason == "context"
        stop = plain.statistics.text[10:16]
        plain, found = generate(engine, PROMPT, 30, stop=[stop]), generate(engine, PROMPT, 30, stop=[stop], speculate=8)
        assert found.statistics.text == plain.statistics.text and found.statistics.finish_reason == "stop"


def test_a_second_text_after_look_up_uses_the_cache(demo_artifact: Path) -> None:
    """The record of the cache stays right when a text ends in the middle of an accepted proposal."""
    with Engine(demo_artifact, threads=1, context=256) as engine:
        tokenizer = load_tokenizer(engine.artifact)
        first = generate(engine, PROMPT, 31, speculate=8)
        longer = first.prompt + first.tokens + tokenizer.encode(" and the", add_bos=False)
        second = Generation(engine, tokenizer, longer, max_tokens=8, eos_ids=[], cached=first.history())
        assert len(list(second)) >= 8 and second.statistics.cached_tokens >= len(first.prompt) + 30
        assert second.tokens == generate(engine, longer, 8).tokens


def test_proposals() -> None:
    lookup = Lookup(3)
    lookup.append([1, 2, 3, 4, 5, 6, 1, 2])
    assert lookup.propose(9) == [3, 4, 5] and lookup.propose(2) == [3, 4] and lookup.propose(0) == []
    lookup.learn(3, 0)
    assert lookup.propose(9) == [3]
    lookup.learn(1, 1)
    assert lookup.propose(9) == [3, 4]
    lookup.append([9])
    assert lookup.propose(9) == []
    lookup.append([7, 3, 1, 2])  # the last occurrence counts, and the longer agreement before it
    assert lookup.propose(1) == [9]
    assert Lookup(4).propose(4) == []


def test_refusals(demo_artifact: Path) -> None:
    with Engine(demo_artifact, threads=1, context=64) as engine:
        tokenizer = load_tokenizer(engine.artifact)
        with pytest.raises(UsageError, match="greedy"):
            Generation(engine, tokenizer, "Once", sampler=Sampler(temperature=1.0), speculate=4)
        with pytest.raises(UsageError, match="cannot be proposed"):
            Generation(engine, tokenizer, "Once", speculate=-1)
