"""The engine as a Python object: slots, pieces, masks, and what it refuses before C sees it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from agq.errors import AgqError, UsageError
from agq.native.library import libraries
from agq.runtime.engine import Engine
from agq.runtime.engine_inputs import CHUNK

VOCAB, CONTEXT = 8192, 1024


def ids(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, VOCAB, count)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference, relative."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def engine(demo_artifact: Path):
    with Engine(demo_artifact, threads=2, slots=3) as made:
        yield made


@pytest.fixture(autouse=True)
def _empty(engine: Engine):
    for slot in range(engine.slots):
        engine.truncate(slot, 0)


@pytest.mark.slow
def test_pieces_give_the_same_logits_as_the_whole(engine: Engine) -> None:
    """Bit for bit: a token's result does not depend on what is computed with it."""
    tokens = ids(CHUNK + 60)
    whole = engine.forward(tokens, logits="all")
    assert whole.shape == (tokens.size, VOCAB) and whole.dtype == np.float32 and np.isfinite(whole).all()
    engine.truncate(0, 10)
    assert engine.length(0) == 10
    again = np.concatenate(
        [
            engine.forward(tokens[10:11]),
            engine.forward(tokens[11:300], logits="all"),
            engine.forward(tokens[300:], logits="all"),
        ]
    )
    np.testing.assert_array_equal(again, whole[10:])


def test_threads_batch_and_context_do_not_change_a_bit(engine: Engine, demo_artifact: Path) -> None:
    tokens = ids(90)
    expected = engine.forward(tokens, logits="all")
    for options in ({"threads": 1}, {"threads": 2, "batch": 7}, {"threads": 1, "context": 90, "batch": 64}):
        with Engine(demo_artifact, **options) as other:
            np.testing.assert_array_equal(other.forward(tokens, logits="all"), expected)


def test_which_logits(engine: Engine) -> None:
    tokens = ids(20)
    everything = engine.forward(tokens, logits="all")
    for logits, rows in (
        ("last", [19]),
        ("none", []),
        (np.arange(20) % 7 == 0, [0, 7, 14]),
        ([False] * 19 + [True], [19]),
    ):
        engine.truncate(0, 0)
        np.testing.assert_array_equal(engine.forward(tokens, logits=logits), everything[rows])


def test_slots_do_not_see_each_other(engine: Engine) -> None:
    first, second = ids(30, 1), ids(12, 2)
    alone = engine.forward(first, slot=0, logits="all"), engine.forward(second, slot=1, logits="all")
    for slot in (0, 1):
        engine.truncate(slot, 0)
    engine.forward(second[:5], slot=2, logits="none")
    together = engine.forward(np.concatenate([second[5:], first]), slot=[2] * 7 + [0] * 30, logits="all")
    np.testing.assert_array_equal(together[7:], alone[0])
    np.testing.assert_array_equal(together[:7], alone[1][5:])
    assert [engine.length(slot) for slot in range(3)] == [30, 0, 12]


def test_every_level_and_the_portable_twins_agree(demo_artifact: Path) -> None:
    tokens = ids(40)
    results = {}
    for item in libraries():
        if item.usable:
            for scalar in (False, True):
                with Engine(demo_artifact, threads=2, isa=item.isa, scalar=scalar) as made:
                    results[item.isa, scalar] = made.forward(tokens, logits="all")
    expected = results["scalar", True]
    for name, found in results.items():
        # Sums of floats in another order move a code of activations or KV cache by one here and there.
        assert distance(found, expected) < 0.05, name


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([], "no tokens"),
        ([5, -1], "-1"),
        ([VOCAB], "8192"),
        ([[1, 2]], "one-dimensional"),
        ([1.5], "integers"),
        ([1] * (CONTEXT + 1), "1025 more do not fit a context of 1024"),
    ],
)
def test_bad_tokens(engine: Engine, tokens: list, words: str) -> None:
    with pytest.raises(AgqError, match=words):
        engine.forward(tokens)
    assert engine.length(0) == 0


def test_bad_slots_and_masks(engine: Engine) -> None:
    for slot in (3, -1, [0, 1], [0, 1, 0]):
        with pytest.raises(AgqError, match="slot"):
            engine.forward([5, 6, 7], slot=slot)
    with pytest.raises(AgqError, match="mask"):
        engine.forward([5, 6, 7], logits=[True])
    with pytest.raises(AgqError, match="some"):
        engine.forward([5, 6, 7], logits="some")
    with pytest.raises(AgqError, match="no slot 7"):
        engine.length(7)
    with pytest.raises(AgqError, match="cannot be cut"):
        engine.truncate(0, 1)


def test_full_context_is_an_error_and_nothing_is_appended(engine: Engine) -> None:
    engine.forward(ids(CONTEXT - 2), logits="none")
    with pytest.raises(AgqError, match="1022 tokens and 3 more"):
        engine.forward([5, 6, 7])
    assert engine.length(0) == CONTEXT - 2
    assert engine.forward([5, 6]).shape == (1, VOCAB)


def test_interruption_between_pieces_takes_all_of_them_back(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.forward(ids(40), logits="last")
    calls = []

    class Interrupting:
        def __getattr__(self, name: str):
            return getattr(engine.library.c, name)

        def agq_engine_forward(self, *arguments):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return engine.library.c.agq_engine_forward(*arguments)

    engine.truncate(0, 30)
    monkeypatch.setattr(engine, "_c", Interrupting())
    with pytest.raises(KeyboardInterrupt):
        engine.forward(ids(4 * CHUNK - 200))
    monkeypatch.undo()
    assert len(calls) == 3 and engine.length(0) == 30
    np.testing.assert_array_equal(engine.forward(ids(40)[30:]), expected)


def test_calls_from_several_threads(engine: Engine) -> None:
    tokens = ids(50)
    expected = engine.forward(tokens, logits="all")
    found: dict[int, np.ndarray] = {}

    def work(slot: int) -> None:
        engine.truncate(slot, 0)
        found[slot] = np.concatenate(
            [engine.forward(tokens[start : start + 10], slot=slot, logits="all") for start in range(0, 50, 10)]
        )

    workers = [threading.Thread(target=work, args=(slot,)) for slot in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for slot in range(3):
        np.testing.assert_array_equal(found[slot], expected)


def test_closed_engine(demo_artifact: Path) -> None:
    made = Engine(demo_artifact, threads=1, context=16)
    made.close()
    made.close()
    for call in (lambda: made.forward([1]), lambda: made.length(), lambda: made.kv_bytes, lambda: made.profile()):
        with pytest.raises(AgqError, match="closed"):
            call()


@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"context": 0}, {"slots": 0}, {"batch": 0}, {"kv_bits": 5}, {"isa": "magic"}]
)
def test_bad_options(demo_artifact: Path, options: dict) -> None:
    with pytest.raises(UsageError):
        Engine(demo_artifact, **options)


def test_memory_that_cannot_be_had(demo_artifact: Path) -> None:
    with pytest.raises(AgqError, match="cannot be made"):
        Engine(demo_artifact, threads=1, context=1 << 30, slots=1 << 20)


def test_kv_bits_can_be_chosen(demo_artifact: Path) -> None:
    tokens = ids(40)
    sizes, results = {}, {}
    for bits in (8, 32):
        with Engine(demo_artifact, threads=1, context=64, kv_bits=bits) as made:
            sizes[bits], results[bits] = made.kv_bytes, made.forward(tokens, logits="all")
    assert 3.5 < sizes[32] / sizes[8] < 4
    assert 0 < distance(results[8], results[32]) < 0.05


def test_plan_names_what_computes_each_linear(engine: Engine) -> None:
    plans = {plan.name: plan for plan in engine.plan()}
    assert set(plans) == set(engine.artifact.linears)
    down = plans["blocks.3.down"]
    assert (down.weights, down.activations) == ("4 g128", "8 per token")
    assert "int" in down.accumulator and down.decode_kernel and down.prefill_kernel
    assert plans["head"].weights == "8 per row"


def test_profile(engine: Engine) -> None:
    engine.profile()
    engine.forward(ids(30))
    found = engine.profile()
    assert (
        {"attention", "head"} <= set(found)
        and all(seconds >= 0 for seconds in found.values())
        and sum(found.values()) > 0
    )
    assert sum(engine.profile().values()) == 0


def test_generation_on_the_real_engine_reuses_the_cache(engine: Engine) -> None:
    from agq.runtime.generation import Generation, load_tokenizer

    tokenizer = load_tokenizer(engine.artifact)
    first = Generation(engine, tokenizer, "The red wolf is", max_tokens=12, eos_ids=[])
    text = "".join(piece.text for piece in first)
    assert text.startswith(" ") and first.statistics.decode_tokens_per_s > 0
    longer = Generation(
        engine, tokenizer, first.prompt + first.tokens, max_tokens=6, eos_ids=[], cached=first.history()
    )
    list(longer)
    assert longer.statistics.cached_tokens == len(first.prompt) + 11
    engine.truncate(0, 0)
    whole = Generation(engine, tokenizer, "The red wolf is", max_tokens=18, eos_ids=[])
    list(whole)
    assert whole.tokens == first.tokens + longer.tokens
