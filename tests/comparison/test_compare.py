"""Whole comparisons, on a tiny model that was packed in three ways."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import agq
from agq.cli.compare import _show
from agq.comparison import compare, read_prompts, to_html
from agq.errors import AgqError, UsageError
from agq.formats.effective import ActivationBits, Kind
from agq.runtime.chat import ChatTemplate
from agq.runtime.opening import opened
from agq.system.threads import most_threads
from tests.checkpoint.folders import config, write_folder
from tests.comparison.test_parts import Tags
from tests.conftest import TEMPLATE
from tests.runtime.runtime_support import byte_level, sentencepiece_like


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m: floats; int8, int4: rounded; chat: with a template; other: another tokenizer; prompts and a text."""
    folder = tmp_path_factory.mktemp("compare")
    for name, tokenizer in (("m", sentencepiece_like()), ("chat", sentencepiece_like()), ("other", byte_level())):
        write_folder(folder / name, config("llama", vocab_size=300))
        tokenizer.save(str(folder / name / "tokenizer.json"))
    write_folder(folder / "wide", config("llama", vocab_size=310))
    sentencepiece_like().save(str(folder / "wide" / "tokenizer.json"))
    (folder / "chat" / "chat_template.jinja").write_text(TEMPLATE)
    for weights in ("int8", "int4"):
        agq.pack(folder / "m", folder / f"{weights}.agq.safetensors", weights=weights)
    (folder / "text.txt").write_text("hello b. " * 60)
    (folder / "prompts.jsonl").write_text(
        '{"prompt": "hello <b>", "kind": "chat"}\n{"prompt": "b. hello", "kind": "code"}\n{"prompt": "lo"}\n'
    )
    return folder


@pytest.fixture(autouse=True)
def _here(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("AGQ_CACHE_DIR", str(world / "cache"))
    monkeypatch.setattr("agq.comparison.sentences.packaged", lambda: None)
    for module in ("rouge_score", "rouge_score.rouge_scorer"):
        monkeypatch.setitem(sys.modules, module, None)


COMMON = ("--prompts", "prompts.jsonl", "-n", 12, "--data", "text.txt", "--seq-len", 16, "--max-windows", 3)


def test_numbers_are_those_of_other_commands(call) -> None:
    found = json.loads(call("compare", "m", "int8.agq.safetensors", "int4.agq.safetensors", *COMMON, "--json").out)
    assert [row["name"] for row in found["models"]] == ["int8", "int4"] and found["original"]["name"] == "m"
    assert found["prompts"] == 3 and list(found["models"][0]["kinds"]) == ["chat", "code"]
    for row in found["models"]:
        packed = f"{row['name']}.agq.safetensors"
        (text,) = row["texts"]
        evaluated = agq.evaluate_perplexity(packed, "text.txt", 16, baseline=opened("m").path, max_windows=3)
        assert text["ppl"] == pytest.approx(evaluated.ppl, rel=1e-6) and text["tokens"] == 45
        assert text["kl"] == pytest.approx(evaluated.divergence.kl, rel=1e-4)
        assert text["ratio"] == pytest.approx(evaluated.divergence.ratio, rel=1e-6)
        assert text["same_top1"] == evaluated.divergence.same_top1
        with agq.load("m") as one, agq.load(packed) as two:
            for output in found["outputs"]:
                assert output["original"] == one.generate(output["prompt"], max_tokens=12)
                assert output["others"][row["name"]] == two.generate(output["prompt"], max_tokens=12)
                assert output["distances"][row["name"]]["same"] == (output["original"] == output["others"][row["name"]])
        assert row["answers"]["same"] == np.mean(
            [output["original"] == output["others"][row["name"]] for output in found["outputs"]]
        )
        assert row["activation_bits"] == 8 and found["original"]["activation_bits"] is None
        assert row["identical"] is False and text["kl"] > 0
    assert found["models"][0]["texts"][0]["kl"] < found["models"][1]["texts"][0]["kl"]


@pytest.mark.skipif(most_threads() == 1, reason="one processor: no other number of threads")
def test_the_floor_is_zero(call) -> None:
    result = call("compare", "int4.agq.safetensors", "int8.agq.safetensors", *COMMON, "--json", "-t", 1)
    floor = json.loads(result.out)["floor"]
    assert floor["threads"] == 2 and floor["identical"] is True and floor["answers"]["same"] == 1
    assert floor["texts"][0]["kl"] == 0 and floor["texts"][0]["ratio"] == 1 and floor["name"] == "int4"
    result = call("compare", "int4.agq.safetensors", "int8.agq.safetensors", *COMMON, "--json", "--no-floor")
    assert json.loads(result.out)["floor"] is None
    said = call("compare", "int4.agq.safetensors", "int8.agq.safetensors", *COMMON, "-t", 1).out
    assert "floor: the original against itself with 2 threads" in said


def test_what_is_not_run_is_said_and_is_not_zero(call) -> None:
    result = call("compare", "m", "int4.agq.safetensors", *COMMON, "--no-floor")
    assert "not run: ROUGE needs the package rouge-score (pip install rouge-score)" in result.err
    assert "not run: BERTScore and STS need a sentence model" in result.out and "ROUGE-L" not in result.out
    found = json.loads(call("compare", "m", "int4.agq.safetensors", *COMMON, "--no-floor", "--json").out)
    assert found["models"][0]["answers"]["rouge_l"] is None and len(found["not_run"]) == 2
    assert found["sentence_model"] is None


def test_the_page(call, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = call("compare", "m", "int4.agq.safetensors", *COMMON, "--html", page)
    assert result.code == 0 and f"answers side by side: {page}" in result.out
    text = page.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert not tags.wrong and not tags.open and not {"script", "link", "img", "iframe"} & set(tags.seen)
    assert "hello &lt;b&gt;" in text and "hello <b>" not in text and "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text and {"del", "ins"} <= set(tags.seen)


def test_the_page_of_models_that_agree(world: Path) -> None:
    found = compare("int8.agq.safetensors", ["int8.agq.safetensors"], prompts=read_prompts("prompts.jsonl"),
                    max_tokens=4, data=["text.txt"], seq_len=16, max_windows=1, floor=False)  # fmt: skip
    assert found.others[0].identical and "all models give the same answers" in to_html(found)
    assert found.others[0].texts[0].ratio_stderr is None and found.original.name == "int8.agq.safetensors"


def test_prompts_go_through_the_chat_template(world: Path) -> None:
    prompts = read_prompts("prompts.jsonl")
    found = compare("chat", ["int4.agq.safetensors"], prompts=prompts, max_tokens=4, data=["text.txt"], seq_len=16,
                    floor=False)  # fmt: skip
    with agq.load("chat") as model:
        assert found.chat and found.original.answers[0].text == model.generate("hello <b>", max_tokens=4)
        ids = len(ChatTemplate(model.artifact).encode(model.tokenizer, [{"role": "user", "content": "hello <b>"}]))
    # The other model, which has no template, is given the same tokens.
    assert [row.prompt_tokens for row in (found.original.answers[0], found.others[0].made.answers[0])] == [ids, ids]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("m", "other"), "different tokenizers"),
        (("m", "wide"), "vocabularies differ: 310 and 300"),
        (("m", "absent"), "absent"),
        (("m", "text.txt"), "is a text file"),
        (("m", "m", "--html", "text.txt/page.html"), "text.txt/page.html"),
        (("m", "int4.agq.safetensors"), "prompt `chat-1` has"),
        (("m", "int4.agq.safetensors", "--lm-eval", "results.json"), "1 results of lm-eval for 2 models"),
        (("m", "int4.agq.safetensors", "--prompts", "absent.txt"), "cannot read `absent.txt`"),
        (("m", "int4.agq.safetensors", "--prompts", "prompts.jsonl", "--data", "absent.txt"), "absent.txt"),
        (("m", "int4.agq.safetensors", "--sentences", "text.txt"), "as a sentence model"),
    ],
)
def test_errors(call, world: Path, arguments: tuple[str, ...], said: str) -> None:
    (world / "results.json").write_text('{"results": {"a": {"acc,none": 0.5}}}')
    result = call("compare", *arguments)
    assert result.code in (1, 2) and result.out == "" and said in result.err, result.err


def test_tasks_are_in_the_table(call, world: Path) -> None:
    for name, value in (("one", 0.5), ("two", 0.25)):
        (world / f"{name}.json").write_text(json.dumps({"results": {"a": {"acc,none": value}}}))
    given = ("--lm-eval", "one.json", "--lm-eval", "two.json", "--no-floor")
    assert "50.0 %" in call("compare", "m", "int4.agq.safetensors", *COMMON, *given).out


def test_bad_numbers_for_callers(world: Path) -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        compare("m", [])
    with pytest.raises(UsageError, match="say nothing"):
        compare("m", ["m"], max_tokens=0)
    for data in ("text.txt", ()):
        with pytest.raises(UsageError, match="texts are a list"):
            compare("m", ["m"], data=data)
    with pytest.raises(AgqError, match="does not fill one window"):
        (world / "short.txt").write_text("hello")
        compare("m", ["m"], prompts=read_prompts("prompts.jsonl"), data=["short.txt"], seq_len=60)


@pytest.mark.parametrize("width", [80, 60])
def test_tables_fit_the_terminal(world: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """All measures, five models, a long scheme."""
    found = compare("m", ["int8.agq.safetensors"], prompts=read_prompts("prompts.jsonl"), max_tokens=2,
                    data=["text.txt"], seq_len=16, max_windows=2, floor=True)  # fmt: skip
    (row,) = found.others
    measured = replace(row.summary, rouge1=0.5, rouge_l=0.5, bert_score=0.5, sts=0.5)
    kinds = (Kind("4 g32", 4, 92, 0.9, False), Kind("8 per token", 8, 28, 0.1, True))
    bits = ActivationBits(4.58, kinds, True)
    made = replace(row.made, name="smollm2-W4A4", scheme="W4A4 (92), W4A8 (28)", activation_bits=bits)
    row = replace(row, summary=measured, made=made)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("agq.reporting.console.is_terminal", lambda stream: True)
    _show(replace(found, others=[row]))
    text = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    table = text.partition("original:")[0].splitlines()
    assert max(map(len, table)) <= width and sum("smollm2-W4A4" in line for line in table) == 2
    assert all(part in text for part in ("KL", "ROUGE-L", " 4.58 ", "W4A4 mixed", "text: text.txt (as it is)"))
    assert "effective activation bits of smollm2-W4A4: 4.58; 28 of 120 inputs are finer" in text


@pytest.mark.slow
def test_the_order_goes_by_the_recipe(demo_artifact: Path) -> None:
    """A folder that agq quantized names its scheme; here it is the packed one, too."""
    found = compare(demo_artifact, [demo_artifact], limit=1, max_tokens=1, max_windows=1, floor=False)
    assert found.original.quantized_as == "W4A8" and found.order is None
