"""The tokenizer of a GGUF file: metadata that the tests make, against other ways to compute the same ids."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agq.errors import AgqError
from agq.gguf.pretokenizers import PRE_TOKENIZERS
from agq.gguf.tokenizer import read_tokenizer
from tests.runtime.runtime_support import byte_level

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def tokenizer_of(metadata: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(read_tokenizer(metadata).tokenizer)


def byte_metadata(pre: str | None, **more: Any) -> dict[str, Any]:
    """A byte-level vocabulary with a few merges and two control tokens."""
    model = json.loads(byte_level().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    specials = ["<|endoftext|>", "<|im_end|>", "<tool>"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens + specials,
        "tokenizer.ggml.token_type": [NORMAL] * len(tokens) + [CONTROL, CONTROL, USER_DEFINED],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens),
    }
    metadata |= {} if pre is None else {"tokenizer.ggml.pre": pre}
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def pieces_metadata(pieces: list[str], **more: Any) -> dict[str, Any]:
    """A SentencePiece vocabulary: the special three, all bytes, then pieces, the likeliest first."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), *pieces]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in range(len(pieces))],
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


# The cuts of the models' own tokenizers, by hand.
CUTS = [
    ("gpt-2", "It's 2024,  ok\n\n x", ["It", "'s", " 2024", ",", " ", " ok", "\n\n", " x"]),
    ("smollm", "a 2024 ½", ["a", " ", "2", "0", "2", "4", " ", "½"]),
    ("llama-bpe", "It'S 12345!\n\nab", ["It", "'S", " ", "123", "45", "!\n\n", "ab"]),
    ("qwen2", "It'S 123!\n(ab", ["It", "'S", " ", "1", "2", "3", "!\n", "(ab"]),
    ("tekken", "XMLFile don't a/b 12", ["XMLFile", " don", "'t", " a", "/b", " ", "1", "2"]),
    ("gpt-4o", "aFile DON'T 1234 //x", ["a", "File", " DON'T", " ", "123", "4", " //", "x"]),
    ("default", "a$b 12345", ["a", "$", "b", " ", "123", "45"]),
    ("deepseek-v3", "漢字12345 (ab", ["漢字", "123", "45", " (", "ab"]),
    ("deepseek-coder", "a 12\n.b", ["a", " ", "1", "2", "\n", ".", "b"]),
    ("falcon", "ab 1234.", ["ab", " ", "123", "4", "."]),
    ("bloom", "ab, cd", ["ab", ",", " cd"]),
    ("viking", "ab 12", ["ab", " ", "1", "2"]),
    ("seed-coder", "ab!\n12", ["ab", "!", "\n", "1", "2"]),
    ("qwen35", "नि 12", ["नि", " ", "1", "2"]),
]


@pytest.mark.parametrize(("pre", "text", "pieces"), CUTS)
def test_texts_are_cut_as_the_word_says(pre: str, text: str, pieces: list[str]) -> None:
    found = tokenizer_of(byte_metadata(pre)).pre_tokenizer.pre_tokenize_str(text)
    raw = text.encode()
    assert sum(len(piece) for piece, _ in found) == len(raw)  # one letter a byte
    assert [text[start:stop] for _, (start, stop) in found] == pieces


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_word_keeps_the_text(pre: str) -> None:
    tokenizer = tokenizer_of(byte_metadata(pre))
    text = "It's  2024!\n\n\tnaïve 你好 😀 XMLFile a/b $x ½ हिन्दी  "
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


@pytest.mark.parametrize("pre", ["gpt-2", "smollm"])
@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet=" \n\thelL12½é你'sd.,<|_\u00a0", max_size=30))
def test_same_ids_as_the_parts_that_these_models_name(pre: str, text: str) -> None:
    """GPT-2's tokenizer.json has ByteLevel with its own pattern, SmolLM's Digits before it."""
    from tokenizers import Tokenizer, pre_tokenizers

    ours = tokenizer_of(byte_metadata(pre))
    theirs = Tokenizer.from_str(ours.to_str())
    steps = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
    theirs.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert ours.encode(text).ids == theirs.encode(text).ids


def test_whole_pieces_are_not_merged_where_the_word_says_so() -> None:
    """`hel` is no result of merges; Llama 3 takes it as it stands."""
    metadata = byte_metadata("gpt-2")
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "hel"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], NORMAL]
    metadata["tokenizer.ggml.add_bos_token"] = False
    assert tokenizer_of(metadata).encode("hel").tokens == ["he", "l"]
    assert tokenizer_of(metadata | {"tokenizer.ggml.pre": "llama-bpe"}).encode("hel").tokens == ["hel"]


def by_scores(text: str, pieces: list[str]) -> list[str]:
    """SentencePiece's BPE as its paper has it: the best neighbours are joined, the leftmost of equals."""
    rank = {piece: index for index, piece in enumerate(pieces)}
    symbols = list(text.replace(" ", "▁"))
    while True:
        joined = [left + right for left, right in pairwise(symbols)]
        known = [(rank[piece], index) for index, piece in enumerate(joined) if piece in rank]
        if not known:
            break
        index = min(known)[1]
        symbols[index : index + 2] = [joined[index]]
    found = [[piece] if piece in rank else [f"<0x{byte:02X}>" for byte in piece.encode()] for piece in symbols]
    return [token for tokens in found for token in tokens]


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(st.text(alphabet="abc▁", min_size=2, max_size=4), unique=True, max_size=30),
    text=st.text(alphabet="abcé ", max_size=16),
)
def test_pieces_are_joined_by_their_scores(pieces: list[str], text: str) -> None:
    """Every letter of a piece is a piece, as in all vocabularies that were trained."""
    pieces = [*pieces, *"abc▁"]
    tokenizer = tokenizer_of(pieces_metadata(pieces, add_space_prefix=False, add_bos_token=False))
    assert tokenizer.encode(text).tokens == by_scores(text, pieces)


def test_space_in_front() -> None:
    pieces = ["▁a", "▁", "a", "b"]
    with_space = tokenizer_of(pieces_metadata(pieces))
    assert with_space.encode("a a").tokens == ["<s>", "▁a", "▁a"]  # the format's default
    assert with_space.decode(with_space.encode("a a").ids) == "a a"
    without = tokenizer_of(pieces_metadata(pieces, add_space_prefix=False))
    assert without.encode("a a").tokens == ["<s>", "a", "▁a"]
    assert without.decode([259, 259]) == " a a"


def test_control_and_user_defined_tokens_come_before_pieces() -> None:
    metadata = pieces_metadata(["▁", "a", "<", "s", ">", "\n", "\n\n", "  "], add_space_prefix=False)
    types = metadata["tokenizer.ggml.token_type"]
    metadata["tokenizer.ggml.token_type"] = [*types[:-3], USER_DEFINED, USER_DEFINED, USER_DEFINED]
    tokenizer = tokenizer_of(metadata)
    assert tokenizer.encode("a\n\n\na  <s>").tokens == ["<s>", "a", "\n\n", "\n", "a", "  ", "<s>"]
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    assert special == {"<unk>", "<s>", "</s>"}


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({}, ["<s>", "a"]),
        ({"add_bos_token": False}, ["a"]),
        ({"add_eos_token": True}, ["<s>", "a", "</s>"]),
        ({"add_bos_token": False, "add_eos_token": True}, ["a", "</s>"]),
    ],
)
def test_bos_and_eos(more: dict[str, bool], tokens: list[str]) -> None:
    found = read_tokenizer(pieces_metadata(["a"], add_space_prefix=False, **more))
    assert tokenizer_of(pieces_metadata(["a"], add_space_prefix=False, **more)).encode("a").tokens == tokens
    assert found.config["add_bos_token"] == ("<s>" in tokens)
    assert found.config["add_eos_token"] == ("</s>" in tokens)


def test_llama_3_has_bos_where_the_file_is_silent_and_gpt_2_has_none() -> None:
    assert read_tokenizer(byte_metadata("llama-bpe")).config["add_bos_token"] is True
    assert read_tokenizer(byte_metadata("gpt-2")).config["add_bos_token"] is False


def test_facts_of_the_configuration() -> None:
    metadata = byte_metadata("qwen2", unknown_token_id=3) | {"tokenizer.chat_template": "{{ messages }}"}
    found = read_tokenizer(metadata)
    assert found.config["bos_token"] == found.config["eos_token"] == "<|endoftext|>"
    assert found.config["unk_token"] == metadata["tokenizer.ggml.tokens"][3]
    assert found.config["chat_template"] == "{{ messages }}"
    assert "pad_token" not in found.config and found.notes == ()


def test_ends_of_an_answer() -> None:
    """EOS, what the file names as the end of a turn, and the usual texts of one."""
    tokens = byte_metadata("gpt-2")["tokenizer.ggml.tokens"]
    ids = {text: index for index, text in enumerate(tokens)}
    found = read_tokenizer(byte_metadata("gpt-2"))
    assert found.eos_ids == (ids["<|endoftext|>"], ids["<|im_end|>"])
    found = read_tokenizer(byte_metadata("gpt-2", eot_token_id=ids["<tool>"]))
    assert set(found.eos_ids) == {ids["<|endoftext|>"], ids["<tool>"], ids["<|im_end|>"]}


def test_a_turn_end_stored_as_text_is_a_control_token() -> None:
    metadata = byte_metadata("gpt-2")
    metadata["tokenizer.ggml.token_type"] = [NORMAL] * len(metadata["tokenizer.ggml.tokens"])
    assert tokenizer_of(metadata).encode("he<|im_end|>").tokens == ["he", "<|im_end|>"]


def test_phi_3_takes_the_spaces_behind_its_control_tokens() -> None:
    metadata = byte_metadata("gpt-2")
    assert tokenizer_of(metadata).encode("<|im_end|> h").tokens[1:] == ["Ġh"]
    named = metadata | {"general.name": "Phi-3 Mini"}
    assert tokenizer_of(named).encode("<|im_end|> h").tokens[1:] == ["h"]
    assert tokenizer_of(named).encode("<|endoftext|> h").tokens[1:] == ["Ġh"]


def test_what_the_file_says_wrongly_is_said() -> None:
    found = read_tokenizer(byte_metadata(None, padding_token_id=100000))
    assert "pad_token" not in found.config
    assert [note.split("`")[1] for note in found.notes] == ["tokenizer.ggml.pre", "tokenizer.ggml.padding_token_id"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer.ggml.model": "t5"}, "`t5`"),
        ({"tokenizer.ggml.model": None}, "no tokenizer"),
        ({"tokenizer.ggml.pre": "kimi-k2"}, "`kimi-k2`"),
        ({"tokenizer.ggml.tokens": []}, "no vocabulary"),
        ({"tokenizer.ggml.tokens": ["a", "b", "a"], "tokenizer.ggml.token_type": [1, 1, 1]}, "'a' twice"),
        ({"tokenizer.ggml.token_type": [1]}, "types of 1"),
        ({"tokenizer.ggml.merges": []}, "no merges"),
    ],
)
def test_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(AgqError, match=words):
        read_tokenizer(byte_metadata("gpt-2") | change)


def test_pieces_without_scores_are_refused() -> None:
    with pytest.raises(AgqError, match="scores of 0"):
        read_tokenizer(pieces_metadata(["a"]) | {"tokenizer.ggml.scores": []})
