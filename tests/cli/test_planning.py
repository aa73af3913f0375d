"""`agq recommend` and `agq fit`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agq.planning import recommend
from agq.planning.machines import machines
from tests.planning.tables import flat, table


@pytest.mark.slow
def test_a_machine_that_is_not_here(call) -> None:
    result = call("recommend", "llama-7b", "--machine", "pi5", "--use", "rag")
    assert result.code == 0 and "estimates from documented figures, not measured" in result.out
    assert "rag: 1024 tokens in, 128 out, 1 user at a time" in result.out
    assert re.search(r"^ \* W4A8 .* unknown", result.out, re.M)
    assert result.out.splitlines()[-1].startswith("Take W4A8: 16 bits take 1")
    found = json.loads(call("recommend", "llama-7b", "--machine", "pi5-16gb", "--json").out)
    assert found["taken"]["scheme"] == "W4A8" and found["machine"]["measured"] is False
    assert found["machine"]["sources"] == list(machines()["pi5"].sources)
    assert found["memory_bytes"] == int(0.85 * 16e9) and found["use"] == "chat"
    fits = {row["scheme"]: row["fits"] for row in found["rows"]}
    assert fits["W8A8"] and not fits["W16A16"]
    assert call("recommend", "--machine", "pi5-16gb", "--json").out == json.dumps(found, ensure_ascii=False) + "\n"


def test_a_graphics_card(call) -> None:
    result = call("recommend", "llama-7b", "--machine", "h100", "--users", "64")
    assert "NVIDIA H100 SXM, through vLLM (estimates" in result.out and "W4A8" not in result.out
    assert " FP8 " in result.out and result.out.splitlines()[-1].startswith("Take W8A8: ")


@pytest.mark.slow
def test_a_floor_that_nothing_is_known_to_meet(call, tmp_path: Path) -> None:
    """The hint's two ways are taken."""
    arguments = ("recommend", "llama-7b", "--machine", "pi5", "--max-ratio", "1.05")
    result = call(*arguments)
    assert result.code == 1 and "nobody has measured W4A4, W4A8, W4A16" in result.err
    assert "hint: name results of a sweep with --accuracy, or another --max-ratio\n" in result.err
    records = [
        {"model": "llama-7b", "row": row, "options": options, "texts": {"a": {"ppl": ppl}}}
        for row, options, ppl in (("bf16", {}, 5.0), ("W4A8", {"scheme": "W4A8"}, 5.3))
    ]
    (tmp_path / "results.json").write_text(json.dumps({"records": records}))
    known = (*arguments, "--accuracy", tmp_path / "results.json")
    assert call(*known).code == 1
    result = call(*known, "--max-ratio", "1.07")
    assert result.code == 0 and "it has 1.060 times the perplexity" in result.out
    assert "perplexity: results.json, llama-7b, row W4A8" in call(*known, "--max-ratio", "1.07", "-v").err


def test_what_does_not_go_together(call, demo_artifact: Path) -> None:
    for arguments, words in (
        (("--machine", "pi4", "--threads", "2"), "--artifact and --threads do not go with it"),
        (("--machine", "pi4", "--artifact", demo_artifact), "--artifact and --threads do not go with it"),
        (("--machine", "pi9"), "unknown machine `pi9`"),
        (("--use", "poetry"), "unknown use case `poetry`"),
        (("--machine", "pi4", "--memory", "much"), "--memory is `much`, not a size"),
        (("--machine", "pi4", "--memory", "0G"), "not a size"),
        (("--artifact", demo_artifact), "is another model than llama-7b"),
    ):
        result = call("recommend", "llama-7b", *arguments)
        assert result.code == 2 and words in result.err, result.err
    result = call("recommend", "opt-125m", "--machine", "pi4", "--use", "summarization")
    assert result.code == 2 and "4608 tokens are more than the model's 2048 positions" in result.err


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("4G", 4 * 10**9), ("1.5gb", 1500 * 10**6), ("900 M", 9 * 10**8), ("4GiB", 4 << 30), ("70", 70)],
)
def test_sizes(text: str, nbytes: int) -> None:
    from agq.cli.planning import size_in_bytes

    assert size_in_bytes(text, "--memory") == nbytes


def test_this_machine(call, demo_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is measured, the rest comes from the kernel table."""

    def rows(wanted, threads, say):
        say("nothing")
        found = table(recommend.candidates(planned)[0].model, forward=flat(1.0), threads=threads)
        linears = dict.fromkeys(wanted.formats, flat(unit=1e-9))
        return type(found)(**{**vars(found), "linears": linears, "inputs": linears})

    from agq.planning.source import read_model

    planned = read_model(demo_artifact)
    monkeypatch.setattr(recommend, "measure", rows)
    result = call("recommend", demo_artifact, "--prompt-tokens", 8, "--answer-tokens", 4, "-t", 1)
    assert result.code == 0 and "paper, 1 thread, scalar (measured now)" in result.out, result.err
    assert re.search(r"W4A8 \S+ +predicted", result.out) and re.search(r"W4A8 \S+ +measured", result.out)
    assert "agq eval-ppl FILE --baseline MODEL" not in result.err  # W8A8 is known of llama-demo


def test_machines_are_listed(call) -> None:
    result = call("recommend", "--list-machines")
    assert result.code == 0 and all(f" {name} " in result.out for name in machines())
    listed = json.loads(call("recommend", "--list-machines", "--json").out)
    assert [item["machine"] for item in listed] == list(machines())
    assert listed[0]["bandwidth"] == 4e9 and listed[0]["memory_bytes"][0] == 8 * 10**9


def test_fit(call) -> None:
    result = call("fit", "opt-125m", "--memory", "0.213G")
    assert result.code == 0 and "opt-125m fits into 213.0 MB as W4A8 with a KV cache of 8 bits and up to" in result.out
    found = json.loads(call("fit", "opt-125m", "--memory", "0.213G", "--context", "1100", "--json").out)
    assert found["fits"] and found["wanted_context"] == 1100 and found["model_context"] == 2048
    assert (found["taken"]["scheme"], found["taken"]["kv_bits"]) == ("W4A8", 4)
    assert 1100 <= found["taken"]["context"] < 2048


@pytest.mark.slow
def test_fit_that_does_not(call) -> None:
    result = call("fit", "opt-125m", "--memory", "100M")
    assert result.code == 1 and "opt-125m does not fit into 100.0 MB in any format" in result.err
    result = call("fit", "opt-125m", "--memory", "0.213G", "-c", "2048", "--json")
    assert result.code == 1 and json.loads(result.out)["fits"] is False
    assert "does not fit into 213.0 MB with 2,048 tokens; the most is as W4A16 with a KV cache of 4" in result.err
    pi = json.loads(call("fit", "opt-125m", "--machine", "pi4-4gb", "--json").out)
    assert pi["memory_bytes"] == int(0.85 * 4e9) and pi["taken"]["scheme"] == "W16A16"
    for arguments, words in (
        (("-m", "1G", "--machine", "pi4"), "--memory and --machine exclude each other"),
        (("--machine", "a100"), "`a100` is a graphics card"),
        (("-m", "1G", "-c", "4096"), "--context is 4096, and the model has 2048 positions"),
    ):
        result = call("fit", "llama-7b", *arguments)
        assert result.code == 2 and words in result.err


@pytest.mark.slow
def test_threads_of_the_environment_are_no_reason_to_refuse_a_machine(agq_cli) -> None:
    command = ("recommend", "llama-7b", "--machine", "pi5", "--json")
    assert agq_cli(*command, env={"AGQ_THREADS": "2"}).returncode == 0
    assert agq_cli(*command, "-t", "2").returncode == 2


def test_more_tokens_than_any_model_has(call) -> None:
    """They were computed pass by pass, without end."""
    for name in ("--prompt-tokens", "--answer-tokens"):
        result = call("recommend", "llama-7b", name, 10**20)
        assert result.code == 2 and "too long to plan for" in result.err and "1048576" in result.err, result.err
