"""Token windows: GPTQ's crops, fingerprints, limits; the tokenizers behind them."""

import json
import random
import shutil

import numpy as np
import pytest

from agq.errors import AgqError, UsageError
from agq.text import windows as calibration
from agq.text.detached import detach
from agq.text.windows import load_tokenizer, random_crops, token_windows


@pytest.fixture(scope="module")
def tokenizer(demo_model):
    return load_tokenizer(demo_model)


@pytest.mark.slow
def test_crops_are_those_of_gptq(tokenizer, demo_text):
    path = demo_text / "calibration.txt"
    windows = token_windows(path, tokenizer, samples=5, seq_len=64, seed=3)
    ids = tokenizer.encode(path.read_text(encoding="utf-8"))
    random.seed(3)  # GPTQ's get_wikitext2: random.seed(seed); i = random.randint(0, n - seqlen - 1) for each sample
    expected = []
    for _ in range(5):
        start = random.randint(0, len(ids) - 64 - 1)
        expected.append(ids[start : start + 64])
    assert windows.tokens.dtype == np.int64 and np.array_equal(windows.tokens, np.stack(expected))
    again = token_windows(path, tokenizer, samples=5, seq_len=64, seed=3)
    assert again.to_dict() == windows.to_dict()
    other = token_windows(path, tokenizer, samples=5, seq_len=64, seed=4)
    assert other.sha256 == windows.sha256 and other.tokens_sha256 != windows.tokens_sha256
    assert str(path.parent) not in windows.description  # records move between machines


@pytest.mark.slow
def test_several_texts_give_windows_in_turn(tokenizer, demo_text, tmp_path):
    first, second = demo_text / "calibration.txt", demo_text / "heldout.txt"
    mixed = token_windows(f"{first}, {second}", tokenizer, samples=5, seq_len=16, seed=3)
    alone = [
        token_windows(text, tokenizer, samples=count, seq_len=16, seed=3) for text, count in ((first, 3), (second, 2))
    ]
    assert np.array_equal(mixed.tokens[0::2], alone[0].tokens) and np.array_equal(mixed.tokens[1::2], alone[1].tokens)
    assert mixed.sha256 not in (alone[0].sha256, alone[1].sha256)
    assert "calibration.txt" in mixed.description and "heldout.txt" in mixed.description
    with pytest.raises(UsageError, match="1 windows cannot be cut out of 2 texts"):
        token_windows(f"{first},{second}", tokenizer, samples=1, seq_len=16)
    with pytest.raises(AgqError, match=r"missing\.txt"):
        token_windows(f"{first},{tmp_path / 'missing.txt'}", tokenizer, samples=4, seq_len=16)
    comma = tmp_path / "a,b.txt"
    comma.write_bytes(first.read_bytes())
    assert np.array_equal(token_windows(comma, tokenizer, samples=3, seq_len=16, seed=3).tokens, alone[0].tokens)


@pytest.mark.slow
def test_every_second_window_is_detached(tokenizer, demo_text, tmp_path):
    path = demo_text / "calibration.txt"
    apart = tmp_path / "apart.txt"
    apart.write_text(detach(path.read_text(encoding="utf-8")), encoding="utf-8")
    mixed = token_windows(path, tokenizer, samples=5, seq_len=16, seed=3, detached=True)
    assert np.array_equal(mixed.tokens[0::2], token_windows(path, tokenizer, 3, 16, seed=3).tokens)
    assert np.array_equal(mixed.tokens[1::2], token_windows(apart, tokenizer, 2, 16, seed=3).tokens)
    assert "punctuation detached" in mixed.description
    # A text of that form stays as it is; one window has no second.
    assert np.array_equal(
        token_windows(apart, tokenizer, 5, 16, detached=True).tokens, token_windows(apart, tokenizer, 5, 16).tokens
    )
    assert np.array_equal(
        token_windows(path, tokenizer, 1, 16, detached=True).tokens, token_windows(path, tokenizer, 1, 16).tokens
    )
    with pytest.raises(AgqError, match="no punctuation to detach"):
        token_windows("random-tokens", tokenizer, 4, 16, detached=True)


def test_crops_of_documents_can_be_detached(tokenizer, monkeypatch):
    documents = ["The well-known lobster, H. americanus (of 1,000), is large. " * 20]
    found = calibration.Documents(documents, "0" * 64, "c4")
    monkeypatch.setattr(calibration, "load_documents", lambda name, split: found)
    mixed = token_windows("c4", tokenizer, 4, 16, detached=True)
    assert np.array_equal(mixed.tokens[0::2], random_crops(documents, tokenizer, 2, 16, 0))
    assert np.array_equal(mixed.tokens[1::2], random_crops([detach(documents[0])], tokenizer, 2, 16, 0))


def test_text_too_short_says_the_numbers(tokenizer, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("Just a few words here")
    count = len(tokenizer.encode(path.read_text()))
    with pytest.raises(AgqError, match=f"has {count} tokens; windows of {count} need at least {count + 1}") as caught:
        token_windows(path, tokenizer, 1, count)
    assert f"`seq_len: {count - 1}`" in caught.value.hint
    assert token_windows(path, tokenizer, 1, count - 1).tokens.shape == (1, count - 1)
    for samples, seq_len in ((0, 8), (1, 0)):
        with pytest.raises(UsageError):
            token_windows(path, tokenizer, samples, seq_len)


def test_random_tokens(tokenizer):
    windows = token_windows("random-tokens", tokenizer, 3, 50)
    assert windows.tokens.shape == (3, 50) and windows.tokens.max() < tokenizer.vocab
    assert (windows.tokens[:, 0] == tokenizer.bos_id).all()
    assert not set(windows.tokens[:, 1:].reshape(-1).tolist()) & tokenizer.special_ids()


def test_crops_of_documents(tokenizer):
    documents = ["too short", "word " * 200, "other " * 150]
    crops = random_crops(documents, tokenizer, 6, 32, seed=0)
    assert crops.shape == (6, 32)
    with pytest.raises(AgqError, match="no document has more than 5000 tokens"):
        random_crops(documents, tokenizer, 1, 5000, seed=0)


def test_c4_windows(tokenizer, monkeypatch):
    monkeypatch.setattr(
        calibration,
        "load_documents",
        lambda *_: calibration.Documents(["word " * 300, "other " * 300], "ab" * 32, "c4 (shard)"),
    )
    windows = token_windows("c4", tokenizer, 4, 16)
    assert windows.tokens.shape == (4, 16) and windows.sha256 == "ab" * 32


@pytest.mark.parametrize("name", ["llama-demo", "opt-demo", "bloom-demo"])
def test_ids_are_those_of_transformers(name, shared_model, demo_model):
    transformers = pytest.importorskip("transformers")
    folder = demo_model if name == "llama-demo" else shared_model(name)
    tokenizer, theirs = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(str(folder))
    for text in ("Hello world", " leading", "a\n\nb  c\t", "12345 über 你好 \U0001f600", "", "x </s> y"):
        assert tokenizer.encode(text).tolist() == theirs(text).input_ids, text
    assert tokenizer.adds_bos == (name != "bloom-demo")


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("add_eos", [True, False])
def test_the_template_decides_whatever_the_config_says(demo_model, tmp_path, add_bos, add_eos):
    transformers = pytest.importorskip("transformers")
    shutil.copy(demo_model / "tokenizer.json", tmp_path)
    shutil.copy(demo_model / "config.json", tmp_path)
    config = json.loads((demo_model / "tokenizer_config.json").read_text())
    config.update(add_bos_token=add_bos, add_eos_token=add_eos)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert tokenizer.encode("some text").tolist() == theirs("some text").input_ids


def test_bos_on_demand(tokenizer):
    plain = tokenizer.encode("a text", add_bos=False)
    assert plain[0] != tokenizer.bos_id
    assert tokenizer.encode("a text", add_bos=True).tolist() == [tokenizer.bos_id, *plain]
    assert tokenizer.encode("a text").tolist() == [tokenizer.bos_id, *plain]


def test_folders_without_a_good_tokenizer(tmp_path):
    with pytest.raises(AgqError, match="has no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(AgqError, match=r"tokenizer of .* cannot be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(AgqError, match="not a JSON object"):
        load_tokenizer(tmp_path)


def test_tokenizer_files_of_older_models(demo_model, shared_model, tmp_path):
    """vocab.json and merges.txt only, as OPT's on the hub: transformers converts them."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer

    folder = shared_model("opt-demo")
    Tokenizer.from_file(str(folder / "tokenizer.json")).model.save(str(tmp_path))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "GPT2Tokenizer"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    shutil.copy(folder / "config.json", tmp_path)
    text = "The history of steam, in 1712."
    assert (
        load_tokenizer(tmp_path).encode(text, add_bos=True).tolist()
        == load_tokenizer(folder).encode(text, add_bos=True).tolist()
    )
