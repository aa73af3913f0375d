"""The mixture of calibration text: shares, kinds, what is left out, and the record."""

import hashlib
import json
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.quantization.plan import plan
from agq.recipe import CalibrationSpec
from agq.recipe.changes import RecipeChanges
from agq.text import mixture
from agq.text.calibration import calibration_windows, fit_text, settled
from agq.text.mixture import conversation_windows, deal, mixture_windows, own_conversations
from agq.text.sources import Unavailable, load_text
from agq.tokenizer.files import TokenizerFiles

OWN = Path(mixture.__file__).parent / "own"
TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"


class Bytes:
    """A token a byte."""

    def encode(self, text: str, add_bos: bool | None = None) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)


def files(template: str | None = TEMPLATE) -> TokenizerFiles:
    return TokenizerFiles(b"{}", {}, {}, template)


@pytest.fixture
def articles(tmp_path: Path) -> str:
    path = tmp_path / "articles.txt"
    path.write_text("The heron stands in shallow water and waits. " * 100)
    return str(path)


def text_of(window: np.ndarray) -> bytes:
    return bytes(window.astype(np.uint8))


def test_every_beginning_has_nearly_the_shares_of_the_whole():
    order = deal(40, [40, 30, 15, 15])
    assert [order.count(index) for index in range(4)] == [16, 12, 6, 6]
    for done in range(1, 41):
        assert all(abs(order[:done].count(i) - done * share / 100) < 1 for i, share in enumerate([40, 30, 15, 15]))
    assert deal(1, [40, 30, 15, 15]) == [0] and deal(3, [2, 1]) == [0, 1, 0]


def test_windows_hold_one_kind_each(articles):
    found = mixture_windows([articles], Bytes(), files(), 20, 64, seed=3)
    talks, digest = own_conversations()
    row = "".join("".join(f"<{m['role']}>{m['content']}</s>" for m in talk) for talk in talks).encode()
    texts = [
        Path(articles).read_bytes(),
        row + row[:64],
        *((OWN / name).read_bytes() for name in ("prose.txt", "code.txt", "languages.txt")),
    ]
    order = deal(20, [40, 25, 15, 10, 10])
    assert all(text_of(window) in texts[kind] for window, kind in zip(found.tokens, order, strict=True))
    beginnings = [text_of(window) for window, kind in zip(found.tokens, order, strict=True) if kind == 1]
    assert all(window.startswith(b"<user>") for window in beginnings) and len(set(beginnings)) > 1
    assert [(part["kind"], part["share"], part["samples"]) for part in found.parts] == [
        ("encyclopaedia", 40, 8),
        ("conversations", 25, 5),
        ("prose", 15, 3),
        ("code", 10, 2),
        ("other languages", 10, 2),
    ]
    assert [part["sha256"] for part in found.parts] == [
        *(hashlib.sha256(data).hexdigest() for data in texts[:1]),
        digest,
        *(hashlib.sha256(data).hexdigest() for data in texts[2:]),
    ]
    assert digest == hashlib.sha256((OWN / "conversations.jsonl").read_bytes()).hexdigest()
    again = mixture_windows([articles], Bytes(), files(), 20, 64, seed=3)
    other = mixture_windows([articles], Bytes(), files(), 20, 64, seed=4)
    assert again.to_dict() == found.to_dict() and other.tokens_sha256 != found.tokens_sha256


def test_punctuation_is_detached_in_the_encyclopaedia_alone(articles):
    plain, apart = (mixture_windows([articles], Bytes(), files(), 20, 64, 3, detached) for detached in (False, True))
    changed = [index for index in range(20) if not np.array_equal(plain.tokens[index], apart.tokens[index])]
    order = deal(20, [40, 25, 15, 10, 10])
    assert changed and {order[index] for index in changed} == {0}
    assert sum(b" ." in text_of(window) for window in apart.tokens) == 4


def test_models_without_template_get_no_conversations(articles):
    found = mixture_windows([articles], Bytes(), files(None), 15, 64, seed=0)
    assert [(part["kind"], part["samples"]) for part in found.parts] == [
        ("encyclopaedia", 8),
        ("prose", 3),
        ("code", 2),
        ("other languages", 2),
    ]
    assert found.description == "mixture of encyclopaedia 53 %, prose 20 %, code 13 %, other languages 13 %, seed 0"


def test_what_cannot_be_had_is_left_out_and_said(articles, monkeypatch, capsys):
    refusing = files("{{ raise_exception('no talk today') }}")
    found = mixture_windows([articles], Bytes(), refusing, 14, 64, seed=0)
    assert [part["kind"] for part in found.parts] == ["encyclopaedia", "prose", "code", "other languages"]

    def unreachable(*_: object) -> None:
        raise Unavailable("the hub cannot be reached")

    monkeypatch.setattr(mixture, "load_text", unreachable)
    found = mixture_windows([], Bytes(), files(), 12, 64, seed=0)
    assert [(part["kind"], part["samples"]) for part in found.parts] == [
        ("conversations", 5),
        ("prose", 3),
        ("code", 2),
        ("other languages", 2),
    ]
    for silent in ("", "{% if false %}{{ messages }}{% endif %}"):
        found = mixture_windows([articles], Bytes(), files(silent), 14, 64, seed=0)
        assert "conversations" not in [part["kind"] for part in found.parts]
    Path(articles).write_text("The heron stands in shallow water and waits. " * 2000)
    wide = mixture_windows([articles], Bytes(), files(), 8, 50_000, seed=0)
    assert "other languages" not in [part["kind"] for part in wide.parts]
    said = capsys.readouterr().err
    assert "the chat template writes nothing for them" in said and "has 29064 tokens, a window 50000" in said
    assert "has no conversations: the chat template refuses this conversation: no talk today" in said
    assert "has no encyclopaedia: the hub cannot be reached" in said
    with pytest.raises(AgqError, match="no such text file"):
        mixture_windows(["absent.txt"], Bytes(), files(), 4, 64, seed=0)
    with pytest.raises(AgqError, match="`mixture` is calibration text alone"):
        load_text("mixture")


def test_the_date_of_a_template_stands_still():
    dated = files("{{ strftime_now('%d %B %Y') }}" + TEMPLATE)
    ids = mixture.conversation_ids(Bytes(), dated)
    assert text_of(ids[0]).startswith(datetime(2025, 1, 1).strftime("%d %B %Y").encode() + b"<user>")


def test_conversations_go_on_from_the_first_after_the_last():
    talks = [np.array([10, 11, 12]), np.array([20, 21])]
    windows = conversation_windows(talks, samples=8, seq_len=7, seed=0).tokens.tolist()
    assert {tuple(window) for window in windows} == {(10, 11, 12, 20, 21, 10, 11), (20, 21, 10, 11, 12, 20, 21)}


def test_own_texts_are_well_formed():
    for talk in own_conversations()[0]:
        assert [message["role"] for message in talk] == ["user", "assistant"] * (len(talk) // 2) and talk
        assert all(message["content"].strip() for message in talk)
    assert all(
        20_000 < len((OWN / name).read_text("utf-8")) < 100_000 for name in ("prose.txt", "code.txt", "languages.txt")
    )


def test_chat_models_get_the_mixture():
    def checkpoint(**texts: bytes) -> SimpleNamespace:
        return SimpleNamespace(
            path="model", spec=SimpleNamespace(context=4096), text=lambda name: texts.get(name.replace(".", "_"))
        )

    chat, base = checkpoint(chat_template_jinja=b"{{ messages }}"), checkpoint()
    assert settled(CalibrationSpec()).data == "wikitext2"
    assert (
        fit_text(CalibrationSpec(), chat, {}).data == "mixture"
        and fit_text(CalibrationSpec(), base, {}).data == "wikitext2"
    )
    assert fit_text(CalibrationSpec("text.txt"), chat, {}).data == "text.txt"
    # Presets detach the punctuation of text, but not of random tokens.
    for text in (CalibrationSpec(detached=True), CalibrationSpec("text.txt,mixture", detached=True)):
        assert fit_text(text, chat, {}).detached and fit_text(text, base, {}).detached
    assert not fit_text(CalibrationSpec("random-tokens", detached=True), base, {}).detached
    assert not fit_text(CalibrationSpec(), chat, {}).detached


def test_a_run_says_the_mixture_first(demo_model, tmp_path):
    folder = tmp_path / "chat"
    shutil.copytree(demo_model, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    text = (
        "calibration text is a mixture: encyclopaedia 40 %, conversations 25 %, prose 15 %, code 10 %, "
        "other languages 10 %"
    )
    made = plan(str(folder), tmp_path / "out")
    assert text in made.notes and (made.recipe.calibration.data, made.recipe.calibration.detached) == ("mixture", True)
    for planned in (
        plan(str(demo_model), tmp_path / "out"),
        plan(str(folder), tmp_path / "out", RecipeChanges(method="rtn")),
    ):
        assert not any("mixture" in note for note in planned.notes)
        assert planned.recipe.calibration.data == "wikitext2"


def test_the_record_names_every_part(demo_model, demo_text):
    spec = CalibrationSpec(f"{demo_text / 'heldout.txt'},mixture", samples=7, seq_len=32)
    tokens, record = calibration_windows(spec, open_checkpoint(demo_model))
    assert tokens.shape == (7, 32) and json.loads(json.dumps(record)) == record
    assert [(part["kind"], part["samples"]) for part in record["parts"]] == [
        ("encyclopaedia", 4),
        ("prose", 1),
        ("code", 1),
        ("other languages", 1),
    ]
    assert record["parts"][0]["sha256"] == hashlib.sha256((demo_text / "heldout.txt").read_bytes()).hexdigest()
    alone = CalibrationSpec(str(demo_text / "heldout.txt"), samples=2, seq_len=32)
    assert "parts" not in calibration_windows(alone, open_checkpoint(demo_model))[1]


@pytest.mark.parametrize(("scheme", "warned"), [("W4A16", True), ("W4A8", True), ("W8A8", False)])
def test_random_tokens_are_warned_about_at_four_bits(demo_model, tmp_path, scheme, warned):
    found = plan(str(demo_model), tmp_path / "q", RecipeChanges(scheme=scheme, data="random-tokens", seq_len=64))
    assert any("random tokens" in note for note in found.notes) == warned
    assert not found.recipe.calibration.detached
