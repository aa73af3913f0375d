"""Prompts, the order of schemes, results of lm-eval, the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agq.comparison.choice import Candidate, choose
from agq.comparison.order import find_order, main_scheme
from agq.comparison.page import word_diff
from agq.comparison.prompts import Prompt, own_prompts, own_text, read_prompts
from agq.comparison.results import Computed
from agq.comparison.runner import other_threads, short_names
from agq.comparison.tasks import Task, mean_recovery, read_tasks, recovery
from agq.errors import AgqError, UsageError

KINDS = ["chat", "code", "summary", "reasoning"]


def test_own_prompts() -> None:
    found = own_prompts()
    assert found.kinds == KINDS and len(found.prompts) >= 40
    assert len({prompt.text for prompt in found.prompts}) == len(found.prompts)
    for kind in KINDS:
        assert sum(prompt.kind == kind for prompt in found.prompts) >= 10
    assert found.prompts[-1].text in own_text().text and len(own_text().sha256) == 64


def test_some_prompts_of_all_kinds() -> None:
    found = own_prompts().first(6)
    assert [prompt.kind for prompt in found.prompts] == ["chat", "chat", "code", "code", "summary", "reasoning"]
    assert found.label == "agq's own prompts, 6 of 48"
    assert own_prompts().first(None) == own_prompts().first(1000) == own_prompts()
    with pytest.raises(UsageError):
        own_prompts().first(0)


def test_prompts_of_files(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("\ufeff one \n\ntwo\n", encoding="utf-8")
    assert list(read_prompts(lines).prompts) == [Prompt("1", "one"), Prompt("3", "two")]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a\\nb", "id": 7, "kind": "chat"}\n\n{"prompt": "c"}\n')
    assert list(read_prompts(rows).prompts) == [Prompt("7", "a\nb", "chat"), Prompt("3", "c")]
    assert read_prompts(rows).kinds == ["chat"]


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": 3}\n', "line 2: no text `prompt`"),
        ("a.jsonl", b'{"prompt": " "}\n', "line 1: no text `prompt`"),
        ("a.jsonl", b"[1]\n", "line 1: no text `prompt`"),
        ("a.jsonl", b"{\n", "line 1: not JSON"),
        ("a.jsonl", b'{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 1}\n', "two prompts have the id `1`"),
        ("a.txt", b"\n  \n", "holds no prompts"),
        ("a.txt", b"caf\xe9\n", "not UTF-8"),
    ],
)
def test_files_without_prompts(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(AgqError, match=re.escape(problem)):
        read_prompts(tmp_path / name)
    with pytest.raises(AgqError, match="cannot read"):
        read_prompts(tmp_path / "absent.txt")


def test_order_holds() -> None:
    found = find_order([("W4A4 (20), W8A8 (10)", 0.3), ("W8A8", 0.001), ("W4A16_ASYM", 0.02), ("W4A8", 0.5)])
    assert found is not None and found.holds
    assert (list(found.schemes), list(found.kl)) == (["W8A8", "W4A16", "W4A4"], [0.001, 0.02, 0.3])
    assert found.sentence().endswith("holds here: KL divergence W8A8 0.001, W4A16 0.02, W4A4 0.3.")


def test_order_does_not_hold() -> None:
    """Every model of a scheme counts, and equal is not closer."""
    assert not find_order([("W8A8", 0.01), ("W8A8", 0.04), ("W4A16", 0.02)]).holds
    assert not find_order([("W8A8", 0.02), ("W4A16", 0.02)]).holds
    assert "does not hold here" in find_order([("W8A8", 0.4), ("W4A4", 0.02)]).sentence()
    assert find_order([("W8A8", 0.4), ("W8A8", 0.2), ("W4A8", 0.1), ("BF16", 0.0)]) is None
    assert main_scheme("BF16") == "BF16"


def test_the_form_of_a_model() -> None:
    def form(scheme: str, recipe: str | None) -> str:
        return Computed("a", "a", scheme, recipe, None, 1, "", 1, "", ()).form

    assert form("W8A8", "W4A8_ASYM") == "W4A8 in W8A8" and form("W4A8_ASYM", "W4A8_ASYM") == "W4A8"
    assert form("W4A4 (92), W4A8 (28)", "W4A4") == "W4A4 mixed" and form("BF16", None) == "BF16"
    assert form("F32 (3), BF16 (2)", None) == "F32 mixed"


def results(path: Path, **scores: dict) -> Path:
    path.write_text(json.dumps({"results": scores}))
    return path


def test_recovery_of_tasks(tmp_path: Path) -> None:
    scores = {"alias": "arc", "acc,none": 0.3, "acc_norm,none": 0.4, "acc_norm_stderr,none": 0.01}
    one = read_tasks(results(tmp_path / "a.json", arc=scores, gsm={"exact_match,strict": 0.0}, only={"acc,none": 1}))
    scores = {"acc_norm,none": 0.3, "acc,none": 0.9}
    two = read_tasks(results(tmp_path / "b.json", arc=scores, gsm={"exact_match,strict": 0.2}, other={"acc,none": 0.5}))
    assert one["arc"] == Task("acc_norm", 0.4) and one["only"] == Task("acc", 1.0)
    arc, gsm = recovery(one, two)
    assert (arc.task, arc.metric, arc.recovery) == ("arc", "acc_norm", pytest.approx(0.75))
    assert gsm.recovery is None and mean_recovery([arc, gsm]) == pytest.approx(0.75)
    assert mean_recovery([]) is None
    with pytest.raises(AgqError, match="no task in common"):
        recovery(one, {"arc": Task("acc", 0.4)})


@pytest.mark.parametrize("document", ["{", "[]", "{}", '{"results": {"a": {"alias": "a", "acc,none": true}}}'])
def test_files_without_scores(tmp_path: Path, document: str) -> None:
    (tmp_path / "a.json").write_text(document)
    with pytest.raises(AgqError, match=r"not JSON|no scores"):
        read_tasks(tmp_path / "a.json")


def test_words_that_differ_are_marked_and_escaped() -> None:
    left, right = word_diff("a <b> c d", "a <i> c")
    assert left == "a &lt;<del>b</del>&gt; c<del> d</del>"
    assert right == "a &lt;<ins>i</ins>&gt; c"
    assert word_diff("", "x & y") == ("", "<ins>x &amp; y</ins>")
    assert word_diff("same\n", "same\n") == ("same\n", "same\n")


def test_short_names() -> None:
    names = ["a/model.gguf", "b/q.agq.safetensors", "org/name", "c/q.agq.safetensors", "."]
    assert short_names(names) == ["model", "b/q.agq.safetensors", "name", "c/q.agq.safetensors", "."]


def test_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agq.comparison.runner.most_threads", lambda: 4)
    assert (other_threads(1), other_threads(2)) == (2, 1)
    monkeypatch.setattr("agq.comparison.runner.most_threads", lambda: 1)
    assert other_threads(1) is None


def test_choice() -> None:
    """Sizes within one percent are the same, and distances within two standard errors of their difference."""
    models = [
        Candidate("W8", 1368, 0.016, 0.0002),
        Candidate("a", 880, 0.160, 0.003),
        Candidate("b", 878, 0.168, 0.003),
        Candidate("c", 885, 0.2, 0.004),
        Candidate("W8b", 1400, 0.4, 0.006),
    ]
    found = choose(models)
    assert (found.nearest.name, found.smallest.name, found.beaten) == ("W8", "a", {"c": "a", "W8b": "W8"})
    assert found.sentence() == (
        "Nearest: W8 (KL 0.016, 1.4 kB). Smallest: a (KL 0.16, 880 bytes). "
        "No larger, and nearer: a than c, W8 than W8b."
    )
    assert choose(models[:1]).sentence() == "Nearest and smallest: W8 (KL 0.016, 1.4 kB)."


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.wrong += [f"{tag} {name}" for name, _ in attributes if name in ("src", "href", "onload", "style")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")
