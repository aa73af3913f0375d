"""The tokenizer's files as transformers reads them: the same ids and the same names for chat templates, over folders
that hypothesis makes up; and what stands beside tokenizer.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agq.artifact.special import special_texts
from agq.errors import AgqError
from agq.text.tokenizers import load_tokenizer
from agq.tokenizer.files import folder_texts, read_tokenizer_files
from tests.runtime.runtime_support import byte_level, sentencepiece_like

MADE = {"sentencepiece": sentencepiece_like, "byte-level": byte_level}
TEXTS = ["hello he", " a<|im_start|>b <tool>c", "<img> x</s> <s>he <pad>", "<|im_end|>\n<|im_end|> l  b", "é你<tool> "]
NEW = ["<|im_start|>", "<|im_end|>", "<tool>", "<img>", "<pad>"]
KNOWN = {"sentencepiece": ["<unk>", "<s>", "</s>"], "byte-level": ["</s>"]}

flags = st.fixed_dictionaries(
    {}, optional={name: st.booleans() for name in ("lstrip", "rstrip", "single_word", "normalized", "special")}
)


@st.composite
def folders(draw: st.DrawFn) -> dict[str, Any]:
    """File name -> JSON of a made-up tokenizer."""
    kind = draw(st.sampled_from(sorted(MADE)))
    document = json.loads(MADE[kind]().to_str())
    if draw(st.booleans()):
        document["post_processor"] = None
    first = 1 + max(document["model"]["vocab"].values())
    first = max([first, *(item["id"] + 1 for item in document["added_tokens"])])
    new = draw(st.lists(st.sampled_from(NEW), unique=True, max_size=4))
    texts = [*KNOWN[kind], *new]
    token = st.sampled_from(texts)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("bos_token", "eos_token", "pad_token", "image_token"):
        if draw(st.booleans()):
            config[name] = draw(token)
    for name in ("add_bos_token", "add_eos_token", "add_prefix_space"):
        if draw(st.booleans()):
            config[name] = draw(st.booleans())
    if draw(st.booleans()):
        config["additional_special_tokens"] = draw(st.lists(token, unique=True, max_size=2))
    files: dict[str, Any] = {"tokenizer.json": document, "tokenizer_config.json": config}
    where = draw(st.sampled_from(["decoder", "added", "nowhere"]))
    if where == "decoder":
        known = {str(item["id"]): {**item, "id": None} for item in document["added_tokens"]}
        table = {index: {key: item[key] for key in item if key != "id"} for index, item in known.items()}
        table |= {str(first + index): {"content": text, **draw(flags)} for index, text in enumerate(new)}
        config["added_tokens_decoder"] = table
    elif where == "added" and new:
        files["added_tokens.json"] = {text: first + index for index, text in enumerate(new)}
    if draw(st.booleans()):
        files["special_tokens_map.json"] = {"eos_token": draw(token), "unk_token": {"content": draw(token)}}
    return files


def write(folder: Path, files: dict[str, Any]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    return folder


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=folders())
def test_same_ids_and_names_as_transformers(files: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = write(tmp_path / "model", files)
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = load_tokenizer(folder)
    for text in TEXTS:
        assert ours.encode(text).tolist() == theirs(text)["input_ids"], text
    assert read_tokenizer_files(folder_texts(folder), "it").named == theirs.special_tokens_map
    assert ours.special_ids() == {index for index, token in theirs.added_tokens_decoder.items() if token.special}


# Classes of transformers 5 that build a tokenizer of their own from the vocabulary of tokenizer.json.
REBUILT = {
    "LlamaTokenizer": "sentencepiece",
    "GemmaTokenizer": "sentencepiece",
    "Qwen2Tokenizer": "byte-level",
    "GPT2Tokenizer": "byte-level",
    "GPTNeoXTokenizer": "byte-level",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REBUILT))
def test_the_file_counts_where_transformers_takes_the_class(name: str, tmp_path: Path) -> None:
    """The same ids where the file has its class's own steps. Where it has others, agq follows the file, as `tokenizers`
    does, and transformers the class (docs/artifact.md)."""
    import tokenizers
    from transformers import AutoTokenizer

    document = json.loads(MADE[REBUILT[name]]().to_str())
    config = {"tokenizer_class": name, "eos_token": "</s>", "bos_token": KNOWN[REBUILT[name]][-2:][0]}
    first = write(tmp_path / "first", {"tokenizer.json": document, "tokenizer_config.json": config})
    AutoTokenizer.from_pretrained(first).save_pretrained(tmp_path / "own")
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "own"), load_tokenizer(tmp_path / "own")
    for text in TEXTS:
        assert ours.encode(text).tolist() == theirs(text)["input_ids"], text
    own = json.loads((tmp_path / "own" / "tokenizer.json").read_text())
    steps = [own["normalizer"]] if own["normalizer"] else []
    other = {"type": "Replace", "pattern": {"String": "h"}, "content": "l"}
    own["normalizer"] = {"type": "Sequence", "normalizers": [*steps, other]}
    (tmp_path / "own" / "tokenizer.json").write_text(json.dumps(own))
    found = load_tokenizer(tmp_path / "own").encode("hello he").tolist()
    file = tokenizers.Tokenizer.from_file(str(tmp_path / "own" / "tokenizer.json"))
    assert found == file.encode("hello he").ids != theirs("hello he")["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path / "own")("hello he")["input_ids"] == theirs("hello he")["input_ids"]


def read(folder: Path) -> Any:
    return read_tokenizer_files(folder_texts(folder), f"`{folder.name}`")


def small(**config: Any) -> dict[str, Any]:
    return {"tokenizer.json": json.loads(sentencepiece_like().to_str()), "tokenizer_config.json": config}


def decoder(**ids: int) -> dict[str, Any]:
    return {str(index): {"content": f"<{name}>", "special": True} for name, index in ids.items()}


def size() -> int:
    return sentencepiece_like().get_vocab_size()


def test_tokens_beside_tokenizer_json_are_tokens(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", small(added_tokens_decoder=decoder(one=size(), two=size() + 1)))
    assert load_tokenizer(folder).encode("<two>", add_bos=False).tolist() == [size() + 1]
    files = small() | {"added_tokens.json": {"<one>": size()}}
    assert load_tokenizer(write(tmp_path / "n", files)).encode("<one>", add_bos=False).tolist() == [size()]


def test_a_complete_tokenizer_json_stays_as_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", small(bos_token="<s>", eos_token="</s>"))
    (folder / "tokenizer.json").write_text(sentencepiece_like().to_str(pretty=True))
    assert read(folder).document == (folder / "tokenizer.json").read_bytes()


def test_tokens_that_would_get_another_id_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", small(added_tokens_decoder=decoder(one=size() + 7)))
    with pytest.raises(AgqError, match=rf"`<one>` \({size() + 7}, not {size()}\)"):
        load_tokenizer(folder)


def test_ends_of_an_answer(tmp_path: Path) -> None:
    """What is stated, the tokenizer's EOS, and the end of a turn that the template writes."""
    table = {str(size()): {"content": "<|im_end|>", "special": True}}
    folder = write(tmp_path / "m", small(eos_token="</s>", added_tokens_decoder=table))
    assert read(folder).ends((1,)) == (1, 2)
    (folder / "chat_template.jinja").write_text("{{ messages }}<|im_end|>")
    assert read(folder).ends((1,)) == (1, 2, size())


@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True}, {"add_prefix_space": True, "add_eos_token": True}])
def test_vocabulary_and_merges_as_transformers_converts_them(settings: dict[str, bool], tmp_path: Path) -> None:
    """As OPT's folder on the hub."""
    from transformers import AutoTokenizer

    byte_level().model.save(str(tmp_path))
    named = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"}
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps({**vocab, "</s>": len(vocab)}))
    config = {"tokenizer_class": "GPT2Tokenizer", **named, **settings}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert load_tokenizer(tmp_path).encode(text).tolist() == theirs(text)["input_ids"]


def test_sentence_piece_model(demo_model: Path, demo_text: Path, tmp_path: Path) -> None:
    """tokenizer.model alone gives the ids of the tokenizer.json that was made of it."""
    shutil.copy(demo_model / "tokenizer.model", tmp_path)
    shutil.copy(demo_model / "tokenizer_config.json", tmp_path)
    text = (demo_text / "heldout.txt").read_text(encoding="utf-8")[:20000] + " naïve 你好  two\n\n x"
    assert load_tokenizer(tmp_path).encode(text).tolist() == load_tokenizer(demo_model).encode(text).tolist()


@pytest.mark.parametrize("content", [b"\xff\xff", b"", b"\x0a\x05abc"])
def test_no_sentence_piece_model(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(AgqError, match=r"`tokenizer\.model` of .* is no") as caught:
        read(tmp_path)
    assert "pip install sentencepiece" in str(caught.value.hint)


def test_named_tokens_reach_chat_templates(tmp_path: Path) -> None:
    """Those that every tokenizer may have, and a model's own; not the settings that end in _token as well."""
    table = {str(size()): {"content": "<img>", "special": True}}
    folder = write(
        tmp_path / "m", small(bos_token="<s>", image_token="<img>", add_bos_token=True, added_tokens_decoder=table)
    )
    named = read(folder).named
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token")) | {"bos_token": "<s>"}
    assert named == {"bos_token": "<s>", "image_token": "<img>"}
    assert special_texts(special | {"others": {"image_token": "<img>"}}) == named


@pytest.mark.parametrize(
    "change",
    [
        {"model": None},
        {"model": "x"},
        {"model": {"type": "Unigram", "vocab": [5]}},
        {"model": {"type": "BPE", "vocab": 5}},
        {"added_tokens": 5},
        {"added_tokens": [5]},
        {"added_tokens": [{"id": "x", "content": "a"}]},
        {"added_tokens": [{"id": 1}]},
    ],
)
def test_parts_of_a_wrong_kind(change: dict[str, Any], demo_model: Path, tmp_path: Path) -> None:
    stored = json.loads((demo_model / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored | change))
    with pytest.raises(AgqError, match="is not a tokenizer"):
        read_tokenizer_files(folder_texts(tmp_path), "`model`")
