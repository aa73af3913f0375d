"""Texts: local files as they are, the data sets, and what goes wrong."""

import gzip
import hashlib
import json

import pytest

from agq.errors import AgqError, UsageError
from agq.text import sources as texts
from agq.text.sources import load_documents, load_text


def test_a_local_file_is_read_as_it_is(tmp_path):
    data = " first\r\n\n über\t\n".encode()
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    found = load_text(path)
    assert found.text.encode() == data
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.label == "a.txt (as it is)"


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two", "body": "zwei"}\n', encoding="utf-8")
    assert load_text(path).text == "one\n\ntwo"
    assert load_documents(path).documents == ["one", "two"]
    packed = tmp_path / "b.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    assert load_text(packed).text == "one\n\ntwo"
    with pytest.raises(AgqError, match="line 1: no field `body`") as caught:
        load_text(path, text_field="body")
    assert "`text`" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{oops}\n', "line 2: not JSON"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "line 2: not a JSON object"),
        ("a.jsonl", b'{"text": 5}\n', "line 1: field `text` is not a text"),
        ("a.jsonl", b"\n\n", "holds no documents"),
        ("a.txt", b"", "holds no text"),
        ("a.txt", b" \n\n ", "holds no text"),
        ("a.txt", b"fine\nb\xe4d\n", "line 2: not UTF-8"),
        ("a.txt.gz", b"no gzip", "not a whole gzip file"),
        ("c.txt.gz", b"\x1f\x8b\x08" + bytes(30), "not a whole gzip file"),
        ("b.txt.gz", gzip.compress(b"hello hello", mtime=0)[:-9], "not a whole gzip file"),
    ],
)
def test_bad_files_name_file_and_line(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(AgqError, match=message) as caught:
        load_text(path)
    assert name in caught.value.message


def test_missing_and_folder(tmp_path):
    with pytest.raises(AgqError, match="no such text file"):
        load_text(tmp_path / "none.txt")
    with pytest.raises(AgqError, match="is a folder"):
        load_text(tmp_path)
    with pytest.raises(UsageError, match="unknown split"):
        load_text("wikitext2", "dev")


def test_offline_data_sets_become_a_hint(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("wikitext2", "c4"):
        with pytest.raises(AgqError, match="cannot be loaded") as caught:
            load_text(name)
        assert "`data: FILE`" in caught.value.hint


def test_rows_of_the_data_sets(monkeypatch):
    """The joining rules, on rows in the shape that the `datasets` library gives them."""
    import datasets

    asked = []

    def load(path, name=None, **arguments):
        asked.append((path, name, arguments))
        rows = ["", " = A = \n", "", " Text . \n"] if "wikitext" in path else ["doc one", "doc two"]
        return datasets.Dataset.from_dict({"text": rows})

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = load_text("wikitext2", "test")
    assert found.text == "\n\n = A = \n\n\n\n\n Text . \n"  # "\n\n".join of the rows, empty ones included
    assert found.sha256 == hashlib.sha256(found.text.encode()).hexdigest()
    assert load_text("wikitext2", "test", raw=True).text == " \n = A = \n \n Text . \n"
    assert load_text("c4").text == "doc one\n\ndoc two"
    assert asked[0] == ("Salesforce/wikitext", "wikitext-2-raw-v1", {"split": "test"})
    assert asked[2][2] == {"split": "train", "data_files": {"train": texts.C4_FILES["train"]}}


def test_a_file_named_like_a_data_set_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c4").write_text("mine")
    assert load_text("c4").text == "mine"


def test_documents_of_a_text(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    assert load_documents(tmp_path / "a.txt").documents == ["one\n\ntwo"]
    (tmp_path / "a.ndjson").write_text(json.dumps({"text": "x"}))
    assert load_documents(tmp_path / "a.ndjson").joined().text == "x"
