"""Streaming text: the pieces together are what decoding everything at once gives, and no piece holds half a
character.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agq.errors import AgqError
from agq.runtime.tokenizer import StreamDecoder, Tokenizer
from tests.runtime.runtime_support import byte_level, metaspace, sentencepiece_like

TEXTS = [
    "hello",
    " hello  he",
    "l'été, déjà vu",
    "你好，世界。",
    "Привет, мир",
    "สวัสดีชาวโลก",
    "👩‍👩‍👧‍👦 🇩🇪 ok",
    "العربية",
    "a\nb\n\n c\t.",
    "हिन्दी",
    "ｆｕｌｌ　ｗｉｄｔｈ",
    "e\u0301 \ufeffx",
    "   ",
]
MADE = {"sentencepiece": sentencepiece_like, "metaspace": metaspace, "byte-level": byte_level}


def made(name: str) -> Tokenizer:
    return Tokenizer(MADE[name]().to_str().encode())


def streamed(tokenizer: Tokenizer, ids: list[int], prefix: list[int] | tuple[()] = ()) -> list[str]:
    decoder = StreamDecoder(tokenizer, prefix)
    return [decoder.push(token) for token in ids] + [decoder.finish()]


@pytest.fixture(scope="module", params=["demo", *MADE])
def tokenizer(request: pytest.FixtureRequest, demo_model: Path) -> Tokenizer:
    if request.param == "demo":
        return Tokenizer((demo_model / "tokenizer.json").read_bytes())
    return made(request.param)


@pytest.mark.parametrize("text", TEXTS)
def test_text_streams_to_what_decoding_at_once_gives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    if "\ufffd" not in tokenizer.decode(ids):
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_continuation_keeps_its_leading_space(tokenizer: Tokenizer, text: str) -> None:
    """What follows a prompt is the rest of the whole text, wherever the prompt ends between characters."""
    ids = tokenizer.encode("hello " + text + " he")
    whole = tokenizer.decode(ids)
    for cut in range(2, len(ids)):
        before = tokenizer.decode(ids[:cut])
        if before.endswith("\ufffd") or not whole.startswith(before) or tokenizer.is_byte(ids[cut - 1]):
            continue
        assert before + "".join(streamed(tokenizer, ids[cut:], ids[:cut])) == whole


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(MADE)), seed=st.integers(0, 1 << 32), size=st.integers(0, 40))
def test_random_ids(name: str, seed: int, size: int) -> None:
    tokenizer = made(name)
    ids = np.random.default_rng(seed).integers(0, tokenizer.size, size).tolist()
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def test_random_ids_of_the_demo_tokenizer(demo_model: Path) -> None:
    tokenizer = Tokenizer((demo_model / "tokenizer.json").read_bytes())
    random = np.random.default_rng(0)
    for _ in range(100):
        # a third of the ids are bytes, so that runs of them occur, valid and not
        ids = np.where(
            random.random(60) < 0.3, random.integers(3, 259, 60), random.integers(0, tokenizer.size, 60)
        ).tolist()
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_character_of_several_tokens_comes_whole() -> None:
    tokenizer = made("sentencepiece")
    ids = tokenizer.encode("b😀b", add_bos=False)
    assert sum(map(tokenizer.is_byte, ids)) == 4
    assert [piece for piece in streamed(tokenizer, ids) if piece] == ["b", "😀b"]


def test_special_tokens_are_added_once_and_not_shown(demo_model: Path) -> None:
    tokenizer = Tokenizer((demo_model / "tokenizer.json").read_bytes())
    assert tokenizer.encode("The red wolf")[0] == 1
    assert 1 not in tokenizer.encode("The red wolf", add_bos=False)
    assert tokenizer.decode(tokenizer.encode("The red wolf")) == "The red wolf"


@pytest.mark.slow
def test_same_ids_as_transformers(demo_model: Path) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(demo_model)
    tokenizer = Tokenizer((demo_model / "tokenizer.json").read_bytes())
    for text in TEXTS:
        assert tokenizer.encode(text) == reference(text)["input_ids"]


def test_stored_truncation_and_padding_do_not_count() -> None:
    fast = sentencepiece_like()
    fast.enable_truncation(4)
    fast.enable_padding(length=32)
    assert len(Tokenizer(fast.to_str().encode()).encode("hello hello hello")) > 4
    assert len(Tokenizer(fast.to_str().encode()).encode("he")) < 32


def test_ids_beyond_the_model_are_refused() -> None:
    with pytest.raises(AgqError, match="has only 100 tokens"):
        Tokenizer(sentencepiece_like().to_str().encode(), vocab=100).encode("hello")


def test_not_a_tokenizer() -> None:
    with pytest.raises(AgqError, match="cannot be read"):
        Tokenizer(b"{}")


@pytest.mark.parametrize(
    "special", [{}, {"add_bos_token": False}, {"add_bos_token": None, "add_eos_token": True}, {"add_bos_token": True}]
)
def test_the_post_processor_decides_on_bos(special: dict) -> None:
    """As in transformers 5: what tokenizer_config.json says of BOS and EOS does not count beside tokenizer.json."""
    fast = sentencepiece_like()
    ids = Tokenizer(fast.to_str().encode(), special=special).encode("hello")
    assert ids[0] == 1 and ids[-1] != 2
    from tokenizers import processors

    fast.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    assert 1 not in Tokenizer(fast.to_str().encode(), special=special).encode("hello")
    assert Tokenizer(fast.to_str().encode()).encode("", add_bos=False) == []


def test_nothing_of_the_prompt_comes_again_after_bytes() -> None:
    """The prompt ends in byte tokens; those that follow are no text, a character of their own, or half of one."""
    tokenizer = made("sentencepiece")
    prompt = tokenizer.encode("hello é")
    assert tokenizer.is_byte(prompt[-1]) or tokenizer.decode(prompt[-1:]) == "é"
    prompt = [*prompt[:-1], 3 + 0xC3, 3 + 0xA9]
    text = tokenizer.encode("bb", add_bos=False)[1:]
    assert streamed(tokenizer, [3 + 0xFF, *text], prompt)[:2] == ["", "\ufffdb"]
    assert "".join(streamed(tokenizer, [3 + 0xFF, *text], prompt)) == "\ufffd" + tokenizer.decode(text)
    assert "".join(streamed(tokenizer, [3 + 0xE2, 3 + 0x82], prompt)) == "\ufffd\ufffd"
    assert "".join(streamed(tokenizer, [3 + 0xE2, 3 + 0x82, 3 + 0xAC], prompt)) == "€"
    alone = [3 + 0xC3, 3 + 0xA9]
    assert "".join(streamed(tokenizer, tokenizer.encode(" b", add_bos=False)[1:], alone)).strip() == "b"


def test_text_that_is_no_unicode() -> None:
    with pytest.raises(AgqError, match="not valid UTF-8"):
        made("byte-level").encode("caf\udce9")


def test_the_least_tokens_of_a_long_text(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokenizer.least("hello " * 1000) == 0
    monkeypatch.setattr("agq.tokenizer.tokenizer._LONG", 100)
    for text in TEXTS:
        long = text * (1 + 3000 // len(text))
        assert 0 <= tokenizer.least(long) <= len(tokenizer.encode(long, add_bos=False))
    assert tokenizer.least("hello " * 1000) > 0
