"""Generation over a scripted engine (its logits are prescribed, everything else is real), stop strings, and the
context's end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agq.errors import AgqError
from agq.runtime.generation import Generation
from agq.runtime.output import StopStrings
from agq.runtime.sampling import Sampler
from agq.runtime.tokenizer import Tokenizer
from tests.runtime.runtime_support import sentencepiece_like

TOKENIZER = Tokenizer(sentencepiece_like().to_str().encode())


@dataclass
class Scripted:
    """Continues any prompt with `script`, one id after the other, then with id 2; keeps a cache as the real engine
    does.
    """

    script: list[int]
    context: int = 64
    vocab: int = 300
    steady_context: int | None = None

    def __post_init__(self) -> None:
        self.held: list[int] = []
        self.fed = 0
        self.start: int | None = None
        self.spec: Any = self

    def length(self, slot: int = 0) -> int:
        return len(self.held)

    def truncate(self, slot: int = 0, length: int = 0) -> None:
        del self.held[length:]

    def least_cut(self, slot: int = 0) -> int:
        return 1

    def forward(
        self, tokens: list[int], slot: int = 0, logits: str = "last", progress: Callable | None = None
    ) -> np.ndarray:
        assert len(self.held) + len(tokens) <= self.context
        self.held += tokens
        self.fed += len(tokens)
        self.start = len(self.held) if self.start is None else self.start
        logits = np.zeros((1, self.vocab), np.float32)
        place = len(self.held) - self.start
        logits[0, self.script[place] if place < len(self.script) else 2] = 1
        return logits


def run(script: list[int], prompt: str = "h", **options: Any) -> tuple[list[str], Generation, Scripted]:
    engine = Scripted(script, context=options.pop("context", 64))
    generation = Generation(engine, TOKENIZER, prompt, eos_ids=options.pop("eos_ids", [2]), **options)
    return [piece.text for piece in generation], generation, engine


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_bos=False)


def test_ends_with_the_models_own_end() -> None:
    pieces, generation, _ = run(ids("hello he"))
    statistics = generation.statistics
    assert "".join(pieces) == statistics.text == " hello he"
    assert statistics.finish_reason == "eos"
    assert statistics.tokens == len(generation.tokens) == len(ids("hello he"))
    assert statistics.prompt_tokens == len(TOKENIZER.encode("h"))
    assert statistics.peak_rss_bytes > 1_000_000 and statistics.seed is None


def test_length() -> None:
    _, generation, engine = run(ids("hello he"), max_tokens=2)
    assert generation.statistics.finish_reason == "length" and generation.statistics.tokens == 2
    assert (
        engine.fed == generation.statistics.prompt_tokens + 1
    )  # the last token is not computed: nobody asks what follows


def test_incomplete_character_at_the_end_is_given_out() -> None:
    half = ids("😀")[1:3]
    pieces, generation, _ = run(half, max_tokens=2)
    assert "".join(pieces) == "\ufffd\ufffd" == generation.statistics.text


def test_stop_string_over_several_tokens() -> None:
    pieces, generation, _ = run(ids("bell hello bb."), stop=["lo b"])
    assert "".join(pieces) == generation.statistics.text == " bell hel"
    assert generation.statistics.finish_reason == "stop"


def test_text_that_only_looks_like_a_stop_string_is_given_out() -> None:
    pieces, generation, _ = run(ids("bell hel."), stop=["hello", ".b"])
    assert "".join(pieces) == " bell hel." and generation.statistics.finish_reason == "eos"


def test_stop_string_that_completes_with_the_text_held_back() -> None:
    pieces, generation, _ = run(ids("b😀"), stop=["😀"], max_tokens=len(ids("b😀")))
    assert "".join(pieces) == " b" and generation.statistics.finish_reason == "stop"


def test_empty_prompt() -> None:
    with pytest.raises(AgqError, match="prompt is empty"):
        Generation(Scripted([]), TOKENIZER, [], eos_ids=[])


def test_prompt_longer_than_the_context_names_both_numbers() -> None:
    engine = Scripted([], context=8)
    count = len(TOKENIZER.encode("hello " * 20))
    with pytest.raises(AgqError, match=rf"{count} tokens.* 8") as caught:
        Generation(engine, TOKENIZER, "hello " * 20, eos_ids=[])
    assert caught.value.hint and engine.fed == 0


def test_full_context() -> None:
    _, generation, engine = run(ids("hello " * 20), context=8)
    assert generation.statistics.finish_reason == "context"
    assert len(engine.held) == 8
    assert generation.statistics.tokens == 8 - generation.statistics.prompt_tokens + 1


@pytest.mark.parametrize(("steady", "cached"), [(None, 3), (6, 3), (5, 0)])
def test_a_shorter_text_after_a_longer_one(steady: int | None, cached: int) -> None:
    """Where the longer one's keys have other rotary frequencies, nothing of them is used."""
    held = [1, 5, 6, 7, 8, 9]
    engine = Scripted(ids("h"), steady_context=steady)
    engine.held = list(held)
    made = Generation(engine, TOKENIZER, [1, 5, 6, 20], eos_ids=[2], max_tokens=1, cached=held)
    list(made)
    assert made.statistics.cached_tokens == cached and engine.fed == 4 - cached


def test_what_the_cache_holds_is_not_computed_again() -> None:
    engine = Scripted(ids("hello he."))
    first = Generation(engine, TOKENIZER, "hell", eos_ids=[2], max_tokens=4)
    list(first)
    history = first.history()
    assert history == engine.held == TOKENIZER.encode("hell") + first.tokens[:3]
    engine.fed, engine.start = 0, None
    prompt = first.prompt + first.tokens + ids(".b")
    second = Generation(engine, TOKENIZER, prompt, eos_ids=[2], max_tokens=1, cached=history)
    list(second)
    assert second.statistics.cached_tokens == len(history)
    assert engine.fed == len(prompt) - len(history) and engine.held == prompt
    engine.start = None
    other = Generation(engine, TOKENIZER, [1, 7], eos_ids=[2], max_tokens=1, cached=second.history())
    list(other)
    assert other.statistics.cached_tokens == 1 and engine.held == [1, 7]


def test_same_prompt_again_still_computes_its_last_token() -> None:
    engine = Scripted([5, 6])
    prompt = TOKENIZER.encode("hell")
    list(Generation(engine, TOKENIZER, prompt, eos_ids=[2], max_tokens=1))
    again = Generation(engine, TOKENIZER, prompt, eos_ids=[2], max_tokens=1, cached=prompt)
    list(again)
    assert again.statistics.cached_tokens == len(prompt) - 1


def test_closing_early_completes_the_statistics() -> None:
    generation = Generation(Scripted(ids("hello hello hello")), TOKENIZER, "h", eos_ids=[2])
    first = [next(generation).text for _ in range(4)]
    generation.close()
    assert generation.statistics.finish_reason == "interrupted"
    assert generation.statistics.tokens == 4 and generation.statistics.text == "".join(first)
    assert list(generation) == []


def test_not_a_number_is_an_error() -> None:
    engine = Scripted([5])
    engine.forward = lambda tokens, slot=0, logits="last", progress=None: np.full((1, 300), np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(AgqError, match="not a number"):
        list(Generation(engine, TOKENIZER, "h", eos_ids=[2]))


def test_penalty_sees_prompt_and_text() -> None:
    _, generation, _ = run([7] * 9, sampler=Sampler(repetition_penalty=1e3), max_tokens=3, eos_ids=[])
    assert generation.tokens[0] == 7
    assert generation.tokens == [7, 7, 7]  # a penalty divides: 1 is still more than 0


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet="ab.", max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=12),
    stops=st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_cut_where_the_earliest_one_is_first_complete(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    stopper, shown, stopped = StopStrings(stops), "", False
    for start, end in pairwise(edges):
        piece, stopped = stopper.push(text[start:end])
        shown += piece
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
        if stopped:
            break
    if not stopped:
        shown += stopper.finish()
    assert stopped == any(stop in text for stop in stops)
    assert shown == text if not stopped else any(text.startswith(shown + stop) for stop in stops)
