"""`agq run --jsonl`: lines in, lines out, in order; failures in their lines; runs that go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import clean_environment

PROMPTS = ["The red wolf is", "In 1964", "The river flows", "A", "The steam engine was " * 4]


def lines(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A prompt a line, ids for some."""
    path = tmp_path / "prompts.jsonl"
    texts = [{"prompt": text} | ({"id": f"q{index}"} if index % 2 else {}) for index, text in enumerate(PROMPTS)]
    path.write_text("\n".join(json.dumps(text) for text in texts) + "\n")
    return path


def test_one_line_each_in_order(call, demo_artifact: Path, prompts: Path) -> None:
    result = call("run", demo_artifact, "--jsonl", prompts, "-n", 8, "--parallel", 2, "--echo")
    found = lines(result.out)
    assert result.code == 0 and [line["id"] for line in found] == [0, "q1", 2, "q3", 4]
    for line, text in zip(found, PROMPTS, strict=True):
        assert line["prompt"] == text and line["tokens"] == 8 and line["finish_reason"] == "length"
        assert line["text"] + "\n" == call("run", demo_artifact, text, "-n", 8).out
    piped = call("run", demo_artifact, "--jsonl", "-", "-n", 8, stdin=prompts.read_text())
    assert [line["text"] for line in lines(piped.out)] == [line["text"] for line in found]
    assert "prompt" not in lines(piped.out)[0]


def test_a_seed_gives_the_same_answers_however_they_are_batched(call, demo_artifact: Path, prompts: Path) -> None:
    options = ("run", demo_artifact, "--jsonl", prompts, "-n", 8, "--temp", 1)
    found = call(*options, "--seed", 3).out
    assert call(*options, "--seed", 3, "--parallel", 1).out == found != call(*options, "--seed", 4).out
    twice = "\n".join(json.dumps({"prompt": PROMPTS[0]}) for _ in range(2))
    one, two = lines(call("run", demo_artifact, "--jsonl", "-", "-n", 16, "--temp", 1, "--seed", 3, stdin=twice).out)
    assert one["text"] != two["text"]  # a seed of its own for each


def test_failures_are_told_in_their_lines(call, demo_artifact: Path, tmp_path: Path) -> None:
    bad = {
        b'{"prompt": "In 1964"}': "",
        b"{": "not JSON",
        b"[]": "not a JSON object",
        b'{"prompt": "caf\xe9"}': "not UTF-8",
        b'{"id": "both", "prompt": "a", "messages": []}': "either",
        b'{"id": []}': "`id`",
        b'{"prompt": 3}': "not a text",
        b'{"prompt": ""}': "empty",
        b'{"prompt": "%s"}' % (b"river " * 50): "has 5",
        b'{"messages": [{"role": "user", "content": "a"}]}': "chat template",
    }
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"\n\n".join(bad))
    result = call("run", demo_artifact, "--jsonl", path, "-n", 4, "-c", 40)
    found = lines(result.out)
    assert result.code == 1 and f"error: {len(bad) - 1} of {len(bad)} prompts failed" in result.err
    assert [line["id"] for line in found] == [0, 1, 2, 3, "both", 5, 6, 7, 8, 9]
    for line, words in zip(found, bad.values(), strict=True):
        assert words in line.get("error", "") and ("text" in line) == (not words)


def test_messages_and_system(call, chat_artifact: Path, tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is it?"}]
    path = tmp_path / "talks.jsonl"
    path.write_text(
        "\n".join(
            json.dumps(value)
            for value in (
                {"messages": talk},
                {"prompt": "Where is it?"},
                {"messages": [*talk, {"role": "assistant", "content": "There."}, {"role": "user", "content": "Why?"}]},
                {"messages": talk[:1]},
            )
        )
    )
    result = call("run", chat_artifact, "--jsonl", path, "-n", 8, "--system", "Be brief.")
    found = lines(result.out)
    alone = call("run", chat_artifact, "Where is it?", "--system", "Be brief.", "-n", 8).out
    assert [found[0]["text"] + "\n", found[1]["text"] + "\n"] == [alone, alone]
    assert found[2]["prompt_tokens"] > found[0]["prompt_tokens"] and "do not end with the user's" in found[3]["error"]


@pytest.mark.slow
def test_a_killed_run_goes_on(demo_artifact: Path, prompts: Path, tmp_path: Path, call) -> None:
    """The same command again: half a line is removed, failed prompts are tried again, finished ones are left out."""
    whole = call("run", demo_artifact, "--jsonl", prompts, "-n", 8).out
    first, second, third, *rest = whole.splitlines(keepends=True)
    out = tmp_path / "out.jsonl"
    out.write_text(first + second + third[: len(third) // 2])
    command = [sys.executable, "-m", "agq", "run", str(demo_artifact), "--jsonl", str(prompts), "-n", "8"]
    with open(out, "ab") as file:
        run = subprocess.run(
            [*command, "--skip-done", str(out)], stdout=file, stderr=subprocess.PIPE, env=clean_environment(), text=True
        )
    assert run.returncode == 0 and "2 of 5 prompts are answered already" in run.stderr
    assert out.read_text() == whole
    out.write_text(first + '{"id": 4, "error": "no luck"}\n')
    again = call("run", demo_artifact, "--jsonl", prompts, "-n", 8, "--skip-done", out)
    assert again.out == "".join([second, third, *rest]) and out.read_text().endswith('luck"}\n')
    absent = call("run", demo_artifact, "--jsonl", prompts, "-n", 8, "--skip-done", tmp_path / "absent")
    assert absent.out == whole


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--jsonl", "p", "prompt"], "PROMPT exclude"),
        (["--jsonl", "p", "--json"], "--json exclude"),
        (["--jsonl", "p", "--speculate", "3"], "--speculate exclude"),
        (["prompt", "--skip-done", "x"], "--skip-done needs --jsonl"),
        (["prompt", "--parallel", "3"], "--parallel needs --jsonl"),
        (["--jsonl", "absent"], "cannot read"),
        (["--jsonl", os.devnull], "no prompts"),
    ],
    ids=str,
)
def test_refusals(call, demo_artifact: Path, options: list[str], words: str) -> None:
    result = call("run", demo_artifact, *options)
    assert result.code in (1, 2) and words in result.err and result.out == ""


def test_ids_must_differ_and_done_must_be_answers(call, demo_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "id": 1}\n{"prompt": "b"}\n')
    assert "prompts 1 and 2 have the same id `1`" in call("run", demo_artifact, "--jsonl", path).err
    path.write_text('{"prompt": "a"}\n')
    result = call("run", demo_artifact, "--jsonl", path, "--skip-done", path)
    assert result.code == 1 and "line 1 is no answer" in result.err
