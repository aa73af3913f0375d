"""`agq.load`: texts, batches, scores and hidden states from Python, from several threads, and what is refused."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agq
from agq.errors import AgqError, UsageError
from agq.runtime.engine import Engine
from agq.runtime.generation import Generation, load_tokenizer
from agq.runtime.sampling import Sampler
from tests.support import clean_environment

PROMPT = "The red wolf is"
PROMPTS = [PROMPT, "In 1964", "The river flows to the north and", "A"]
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def model(demo_artifact: Path) -> Any:
    with agq.load(demo_artifact, threads=1, context=128, slots=3) as model:
        yield model


def expected(artifact: Path, prompt: str | list[int], count: int, **settings: Any) -> str:
    """What a generation on an engine of its own says."""
    with Engine(artifact, threads=1, context=128) as engine:
        made = Generation(engine, load_tokenizer(engine.artifact), prompt, Sampler(**settings), count)
        return "".join(piece.text for piece in made)


# ---- texts


def test_three_lines(call: Any, demo_artifact: Path) -> None:
    """They say what the command says, with nothing that is heavy."""
    program = (
        "import sys, agq\nassert not {'numpy', 'torch', '_cffi_backend'} & set(sys.modules)\n"
        f"model = agq.load({str(demo_artifact)!r})\nprint(model.generate({PROMPT!r}, max_tokens=8))\n"
        "assert not {'torch', 'transformers', 'typer', 'rich', 'jinja2'} & set(sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=clean_environment(), check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == call("run", demo_artifact, PROMPT, "-n", 8).out


def test_it_takes_what_the_command_takes(demo_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed file as text, path or opened; a name that is none is explained."""
    texts = set()
    for name in (str(demo_artifact), demo_artifact, agq.load(demo_artifact, threads=1).artifact):
        with agq.load(name, threads=1) as model:
            texts.add(model.generate(PROMPT, max_tokens=3))
    assert len(texts) == 1
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AgqError, match="no such file or folder") as refused:
        agq.load("nothing.safetensors")
    assert refused.value.hint and refused.value.hint.startswith("MODEL is")


def test_pieces_are_the_text(model: Any, demo_artifact: Path) -> None:
    text = expected(demo_artifact, PROMPT, 20)
    with model.stream(PROMPT, max_tokens=20) as stream:
        pieces = list(stream)
    assert "".join(pieces) == text == model.generate(PROMPT, max_tokens=20) and all(pieces) and len(pieces) > 10
    found = stream.statistics
    assert (found.text, found.tokens, found.finish_reason, len(stream.tokens)) == (text, 20, "length", 20)
    assert model.generate(model.tokenizer.encode(PROMPT), max_tokens=20) == text
    assert model.generate(np.array(model.tokenizer.encode(PROMPT)), max_tokens=20) == text


def test_settings_reach_the_sampler(model: Any, demo_artifact: Path) -> None:
    settings = {"temperature": 1.1, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3, "seed": 5}
    for names in (settings, *({**settings, name: value} for name, value in (("top_k", 2), ("top_p", 0.3)))):
        assert model.generate(PROMPT, max_tokens=12, **names) == expected(demo_artifact, PROMPT, 12, **names)
    for name, value in (("temperature", 0.5), ("min_p", 0.5), ("repetition_penalty", 1.0), ("seed", 6)):
        assert model.generate(PROMPT, 12, **{**settings, name: value}) != model.generate(PROMPT, 12, **settings), name
    text = model.generate(PROMPT, max_tokens=20)
    word = text.split()[2]
    for stop in (word, [word], ("no such", word)):
        assert model.generate(PROMPT, max_tokens=20, stop=stop) == text[: text.index(word)]
    assert model.recommended_sampling == {"temperature": 0.0, "repetition_penalty": 1.0}
    assert model.generate(PROMPT, 12, **model.recommended_sampling) == expected(demo_artifact, PROMPT, 12)


def test_batches(model: Any, demo_artifact: Path) -> None:
    """Each answer is that of its prompt alone, and further seeds count up."""
    answers = model.generate_many(PROMPTS, max_tokens=10)
    assert [answer.text for answer in answers] == [expected(demo_artifact, prompt, 10) for prompt in PROMPTS]
    hot = model.generate_many(PROMPTS, max_tokens=10, temperature=1.0, seed=3)
    alone = [expected(demo_artifact, prompt, 10, temperature=1.0, seed=3 + i) for i, prompt in enumerate(PROMPTS)]
    assert [answer.text for answer in hot] == alone
    assert model.generate_many([]) == []
    with pytest.raises(AgqError, match=r"^prompt 2 of 2: the prompt has 128 tokens"):
        model.generate_many([PROMPT, [5] * 128])
    with pytest.raises(AgqError, match=r"^prompt 1 of 1: the prompt is empty"):
        model.generate_many([""])
    with pytest.raises(AgqError, match="0 tokens cannot be generated"):
        model.generate_many([PROMPT], max_tokens=0)


def test_ids_take_no_system_message(chat_artifact: Path) -> None:
    with agq.load(chat_artifact, threads=1, context=64) as model:
        with pytest.raises(AgqError, match="token ids take no system message"):
            model.generate([5, 6], system="Be brief")


def test_chats(chat_artifact: Path) -> None:
    """A text is a message; a chat that goes on is computed from where it ended."""
    with agq.load(chat_artifact, threads=1, context=128, slots=3) as model:
        rendered = model.tokenizer.encode("user: Hello\nassistant:", add_bos=True)
        answer = expected(chat_artifact, rendered, 8)
        assert model.generate("Hello", max_tokens=8) == model.generate(HELLO, max_tokens=8) == answer
        assert model.generate("Hello", max_tokens=8, chat=False) == expected(chat_artifact, "Hello", 8)
        noted = expected(chat_artifact, model.tokenizer.encode("Note: Be brief\nuser: Hello\nassistant:"), 8)
        assert model.generate("Hello", max_tokens=8, system="Be brief") == noted
        assert model.generate([{"role": "system", "content": "Be brief"}, *HELLO], max_tokens=8, system="x") == noted
        going_on = [*HELLO, {"role": "assistant", "content": answer.strip()}, {"role": "user", "content": "More"}]
        stream = model.stream(going_on, max_tokens=8)
        text = "".join(stream)
        assert stream.statistics.cached_tokens >= len(rendered)
        ids = model.tokenizer.encode(f"user: Hello\nassistant: {answer.strip()}\nuser: More\nassistant:")
        assert text == expected(chat_artifact, ids, 8)
        with pytest.raises(AgqError, match="the messages do not end with the user's"):
            model.generate(going_on[:2])


# ---- numbers


def test_logits_and_hidden_states(model: Any, demo_artifact: Path) -> None:
    ids = model.tokenizer.encode(PROMPT)
    with Engine(demo_artifact, threads=1, context=128) as engine:
        logits = engine.forward(ids, logits="all")
    assert np.array_equal(model.logits(PROMPT), logits) and np.array_equal(model.logits(ids), logits)
    states = model.hidden_states(PROMPT)
    assert states.shape == (len(ids), 256) and states.dtype == np.float32
    pooled = model.embed([PROMPT, ids[:2]])
    assert np.array_equal(pooled[0], states.mean(axis=0)) and np.array_equal(pooled[1], states[:2].mean(axis=0))
    assert np.array_equal(model.embed([PROMPT], pooling="last")[0], states[-1])
    assert model.embed([]).shape == (0, 256)


def test_loglikelihoods(model: Any) -> None:
    """Those of the logits of each text alone, in float64; contexts in common, long and short ones in any order."""
    random = np.random.default_rng(3)
    draw = lambda n: random.integers(5, 8000, n).tolist()  # noqa: E731
    one, two = draw(30), draw(1)
    pairs = [(one, draw(1)), (two, draw(70)), (one, draw(9)), (one[:-1], one[-1:]), (draw(90), draw(38)), (two, [7])]
    likeliest = model.logits(one)[-1].argmax()
    pairs += [(one, [int(likeliest)]), (one, [int(likeliest), 9])]
    found = model.loglikelihoods(pairs)
    for (context, continuation), likelihood in zip(pairs, found, strict=True):
        logits = model.logits([*context, *continuation])[len(context) - 1 : -1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(continuation)), continuation] - np.log(np.exp(logits).sum(axis=1))
        assert likelihood.logprob == pytest.approx(chosen.sum(), rel=1e-6)
        assert likelihood.greedy == (logits.argmax(axis=1) == continuation).all()
        assert likelihood.tokens == len(continuation)
    texts = [("The red wolf", " is large"), ("The red wolf ", "is large")]
    both, first = (model.tokenizer.encode(text) for text in ("The red wolf is large", "The red wolf"))
    ids = (first, both[len(first) :])
    assert len({item.logprob for item in model.loglikelihoods([*texts, ids])}) == 1
    assert [item.greedy for item in found[-2:]] == [True, False] and model.loglikelihoods([]) == []


# ---- threads and slots


def test_threads_get_slots_of_their_own(model: Any, demo_artifact: Path) -> None:
    """More threads than slots; batches and scores among them."""
    want = {prompt: expected(demo_artifact, prompt, 12) for prompt in PROMPTS}
    logits = model.logits("In 1964")
    wrong: list[Any] = []

    def work(number: int) -> None:
        try:
            for prompt in PROMPTS[number % 4 :] + PROMPTS[: number % 4]:
                if model.generate(prompt, max_tokens=12) != want[prompt]:
                    wrong.append(prompt)
            if not np.array_equal(model.logits("In 1964"), logits):
                wrong.append("logits")
            if [one.text for one in model.generate_many(PROMPTS, max_tokens=12)] != list(want.values()):
                wrong.append("batch")
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_streams_share_the_slots(model: Any, demo_artifact: Path) -> None:
    """As many at once as there are slots; one more would wait for ever, and says so. A stream that nobody holds any
    more gives its slot back."""
    streams = [model.stream(prompt, max_tokens=6) for prompt in PROMPTS[:3]]
    next(streams[0])
    with pytest.raises(AgqError, match="3 texts are being made already"):
        model.generate("A", max_tokens=1)
    streams.pop()
    gc.collect()
    assert model.generate("A", max_tokens=6) == expected(demo_artifact, "A", 6)
    streams[0].close()
    assert streams[0].statistics.finish_reason == "interrupted" and list(streams[0]) == []
    assert "".join(streams[1]) == expected(demo_artifact, PROMPTS[1], 6)


def test_hints_are_followed(model: Any) -> None:
    """More slots, a larger context, a shorter one of the pair."""
    with agq.load(model.artifact, threads=1, context=130, slots=4) as larger:
        streams = [larger.stream(prompt, max_tokens=2) for prompt in PROMPTS]
        assert all(list(stream) for stream in streams)
        assert larger.loglikelihoods([([5] * 100, [6] * 30)])[0].tokens == 30
    assert model.loglikelihoods([([5] * 98, [6] * 30)])[0].tokens == 30


def test_an_engine_that_fails_frees_the_slot(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AgqError("the engine failed: test")

    for use in (lambda: model.generate(PROMPT), lambda: model.logits(PROMPT), lambda: model.generate_many(PROMPTS)):
        with monkeypatch.context() as patch, pytest.raises(AgqError, match="the engine failed"):
            patch.setattr(model.engine, "forward", fail)
            use()
    assert len([model.stream(PROMPT) for _ in range(3)]) == 3


def test_after_its_end(demo_artifact: Path) -> None:
    with agq.load(demo_artifact, threads=1, context=64) as model:
        stream = model.stream(PROMPT)
        next(stream)
    for use in (
        lambda: model.generate(PROMPT),
        lambda: model.generate_many([PROMPT]),
        lambda: model.logits(PROMPT),
        lambda: model.embed([PROMPT]),
        lambda: model.loglikelihoods([([5], [6])]),
    ):
        with pytest.raises(AgqError, match="the model is closed") as refused:
            use()
        assert refused.value.hint
    with pytest.raises(AgqError, match="closed"):
        next(stream)
    model.close()


def test_the_end_wakes_those_who_wait(demo_artifact: Path) -> None:
    model = agq.load(demo_artifact, threads=1, context=64)
    held = model.stream(PROMPT)
    errors: list[str] = []

    def wait() -> None:
        try:
            model.generate(PROMPT)
        except AgqError as error:
            errors.append(error.message)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive() and held.statistics.tokens == 0
    model.close()
    thread.join(10)
    assert errors == ["the model is closed"]


# ---- what is refused


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda model: model.generate(5), "a prompt is a text, a list of messages or a list of token ids, not int"),
        (lambda model: model.generate(None), "not NoneType"),
        (lambda model: model.generate(PROMPTS), "not list of str .*`generate_many`"),
        (lambda model: model.generate([5, "a"]), "token ids are a one-dimensional list of integers"),
        (lambda model: model.generate([[5]]), "not list of list"),
        (lambda model: model.generate([5, [6]]), "token ids are a one-dimensional list of integers"),
        (lambda model: model.generate(b"bytes"), "not bytes"),
        (lambda model: model.generate_many(PROMPT), "prompts are a list, not str"),
        (lambda model: model.generate(PROMPT, temperature="hot"), "temperature must be a number, not str"),
        (lambda model: model.generate(PROMPT, max_tokens=2.0), "max_tokens must be a whole number, not float"),
        (lambda model: model.generate(PROMPT, seed=True), "seed must be a whole number, not bool"),
        (lambda model: model.generate(PROMPT, stop=[1]), "stop must be texts, not int"),
        (lambda model: model.generate(PROMPT, stop=3), "stop must be texts, not int"),
        (lambda model: model.generate(PROMPT, chat="yes"), "chat must be true or false, not str"),
        (lambda model: model.generate(PROMPT, system=1), "system must be a text, not int"),
        (lambda model: model.logits(3.5), "a text or token ids are needed, not float"),
        (lambda model: model.embed("one"), "texts are a list, not str"),
        (lambda model: model.loglikelihoods([("The", [5])]), "two texts or token ids of both"),
        (lambda model: agq.load(5), "a model is a path or a name, not int"),
        (lambda model: agq.load(model.artifact, slots="two"), "slots must be a whole number, not str"),
    ],
)
def test_wrong_types(model: Any, use: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        use(model)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda model: model.generate(""), "the prompt is empty"),
        (lambda model: model.generate([]), "the prompt is empty"),
        (lambda model: model.generate(PROMPT, max_tokens=0), "0 tokens cannot be generated"),
        (lambda model: model.generate(PROMPT, temperature=-1), "temperature is -1"),
        (lambda model: model.generate([5] * 128), "the prompt has 128 tokens"),
        (lambda model: model.generate([9000]), "token id 9000 is outside"),
        (lambda model: model.generate([-1]), "-1 is no token id"),
        (lambda model: model.generate([1 << 33]), "8589934592 is no token id"),
        (lambda model: model.generate(HELLO), "messages need a chat template"),
        (lambda model: model.generate(PROMPT, chat=True), "no chat template"),
        (lambda model: model.generate(PROMPT, system="Be brief"), "a system message needs a chat template"),
        (lambda model: model.stream(PROMPT, temperature=1, speculate=4), "prompt look-up needs greedy sampling"),
        (lambda model: model.logits([5] * 129), "context overflow"),
        (lambda model: model.logits([]), "there are no tokens"),
        (lambda model: model.embed([PROMPT], pooling="max"), "pooling is `max`"),
        (lambda model: model.loglikelihoods([([5], [])]), "there are no tokens"),
        (lambda model: model.loglikelihoods([("The", "")]), "there are no tokens"),
        (lambda model: model.loglikelihoods([([5] * 100, [6] * 30)]), "pair 1 has 130 tokens"),
        (lambda model: agq.load(model.artifact, slots=0), "must be at least 1"),
        (lambda model: agq.load(model.artifact, kv_bits=3), "3"),
    ],
)
def test_wrong_values(model: Any, use: Any, words: str) -> None:
    with pytest.raises(AgqError, match=words):
        use(model)
    assert isinstance(UsageError("x"), AgqError) and model.generate(PROMPT, max_tokens=1)


def test_a_stream_that_another_thread_reads_is_not_closed(model: Any) -> None:
    """The slot stays taken, and comes back when the reader is done."""
    inside, go = threading.Event(), threading.Event()
    stream = model.stream(PROMPT, max_tokens=3)
    made = stream.generation

    class Slow:
        def __iter__(self) -> Slow:
            return self

        def __next__(self) -> Any:
            inside.set()
            assert go.wait(60)
            return next(made)

        def __getattr__(self, name: str) -> Any:
            return getattr(made, name)

        def close(self) -> None:
            if not go.is_set():
                raise ValueError("generator already executing")
            made.close()

    stream.generation = Slow()
    reader = threading.Thread(target=lambda: list(stream))
    reader.start()
    assert inside.wait(60)
    with pytest.raises(ValueError, match="already executing"):
        stream.close()
    go.set()
    reader.join(60)
    with model.stream(PROMPT), model.stream(PROMPT), model.stream(PROMPT):  # all three slots
        pass


def test_threads_that_would_wait_for_each_other(demo_artifact: Path) -> None:
    """Each holds a slot and wants another one: the second to ask is refused, and the first goes on."""
    errors: list[str] = []
    both = threading.Barrier(2)
    with agq.load(demo_artifact, threads=1, context=64, slots=2) as model:

        def greedy() -> None:
            with model.stream(PROMPT, max_tokens=2):
                both.wait(60)
                try:
                    model.generate(PROMPT, max_tokens=1)
                except AgqError as error:
                    errors.append(error.message)

        threads = [threading.Thread(target=greedy, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    assert len(errors) == 1 and "no further slot" in errors[0]
