"""`agq run`: what goes to stdout, what the options do, conversations on a terminal, memory."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agq.runtime.tokenizer import Tokenizer
from tests.support import clean_environment, heed_interrupts

PROMPT = "The red wolf is"


def objects(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def test_stdout_holds_the_text_and_nothing_else(call, demo_artifact: Path) -> None:
    plain = call("run", demo_artifact, PROMPT, "-n", 12)
    assert plain.code == 0 and plain.err == ""
    tokens = objects(call("run", demo_artifact, PROMPT, "-n", 12, "--json").out)
    assert "".join(item["text"] for item in tokens[:-1]) == tokens[-1]["text"]
    assert plain.out == tokens[-1]["text"] + "\n"
    assert len([item for item in tokens[:-1] if item["token"] is not None]) == tokens[-1]["tokens"] == 12


def test_verbose_goes_to_stderr(call, demo_artifact: Path) -> None:
    """-v is one line, with the seed where there is one; -vv names every layer."""
    quiet, one, verbose = (call("run", demo_artifact, PROMPT, "-n", 4, *more) for more in ([], ["-v"], ["-vv"]))
    assert verbose.out == one.out == quiet.out
    assert re.fullmatch(r"load .*prompt \d+ tokens, .* tok/s; eval 4 tokens, .* tok/s; .*greedy; length\n", one.err)
    assert "; seed 7; " in call("run", demo_artifact, PROMPT, "-n", 4, "-v", "--temp", 1, "--seed", 7).err
    for layer in [*(f"blocks.{index}.{part}" for index in range(6) for part in ("qkv", "out", "up", "down")), "head"]:
        line = next(line for line in verbose.err.splitlines() if line.startswith(f"{layer}:"))
        assert "activations 8 per token" in line and "accumulator" in line and "kernel " in line
    assert re.search(r"prompt \d+ tokens, .* tok/s; eval 4 tokens, .* tok/s", verbose.err)


@pytest.mark.slow
def test_sampling_options(call, demo_artifact: Path) -> None:
    def text(*options: object) -> str:
        return call("run", demo_artifact, PROMPT, "-n", 16, *options).out

    greedy = text()
    assert text("--temp", 0, "--seed", 5) == greedy
    hot = text("--temp", 1.2, "--seed", 5)
    assert hot == text("--temp", 1.2, "--seed", 5) != greedy
    assert text("--temp", 1.2, "--seed", 6) != hot
    for options in (("--top-k", 1), ("--top-p", 0), ("--min-p", 1)):
        assert text("--temp", 1.2, "--seed", 5, *options) == greedy
    assert text("--repeat-penalty", 1.5) != greedy
    one = objects(call("run", demo_artifact, PROMPT, "-n", 16, "--temp", 1, "--json").out)[-1]
    assert text("--temp", 1, "--seed", one["seed"]).rstrip("\n") == one["text"].rstrip("\n")


def test_prompt_look_up(call, demo_artifact: Path) -> None:
    prompt = "The river flows to the north and the river flows to the south. The river flows to the east and the river"
    plain = call("run", demo_artifact, prompt, "-n", 24, "--json").out.splitlines()
    found = call("run", demo_artifact, prompt, "-n", 24, "--json", "--speculate", 6).out.splitlines()
    assert [json.loads(line) for line in found[:-1]] == [json.loads(line) for line in plain[:-1]]
    statistics = json.loads(found[-1])
    assert 0 < statistics["accepted"] <= statistics["drafted"] and json.loads(plain[-1])["drafted"] == 0
    refused = call("run", demo_artifact, prompt, "--speculate", 6, "--temp", 0.5)
    assert refused.code == 2 and refused.out == "" and "--speculate needs --temp 0" in refused.err


def test_stop_strings(call, demo_artifact: Path) -> None:
    whole = objects(call("run", demo_artifact, PROMPT, "-n", 24, "--json").out)[-1]["text"]
    stop = whole[len(whole) // 2 :][:5]
    stopped = objects(
        call("run", demo_artifact, PROMPT, "-n", 24, "--json", "--stop", "never seen", "--stop", stop).out
    )[-1]
    assert stopped["text"] == whole[: whole.index(stop)] and stopped["finish_reason"] == "stop"


def test_prompt_sources_and_line_ends(call, demo_artifact: Path, tmp_path: Path) -> None:
    expected = call("run", demo_artifact, PROMPT, "-n", 8).out
    (tmp_path / "prompt.txt").write_bytes(f"\ufeff{PROMPT}\r\n".encode())
    for result in (
        call("run", demo_artifact, "-", "-n", 8, stdin=PROMPT + "\n"),
        call("run", demo_artifact, "-n", 8, stdin=PROMPT),
        call("run", demo_artifact, "-n", 8, "-f", "-", stdin=PROMPT + "\n"),
        call("run", demo_artifact, "-n", 8, "-f", tmp_path / "prompt.txt"),
    ):
        assert result.out == expected
    assert call("run", demo_artifact, PROMPT, "-n", 8, "--echo").out == PROMPT + expected


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([PROMPT, "-f", "x"], 2, "exclude"),
        ([PROMPT, "--system", "x"], 2, "chat template"),
        ([PROMPT, "--system", "x", "--no-chat"], 2, "--no-chat"),
        ([PROMPT, "--system", "caf\udce9", "--chat"], 1, "--system is not UTF-8"),
        (["caf\udce9"], 1, "not UTF-8"),
        (["a", "river", "flows"], 2, "quote it: agq run"),
        ([PROMPT, "--echo", "--json"], 2, "--echo"),
        ([PROMPT, "--chat"], 1, "no chat template"),
        ([PROMPT, "--kv-bits", "5"], 2, "4, 8 or 32"),
        ([""], 1, "empty"),
        ([PROMPT, "--temp", "1e9"], 2, "temperature"),
        ([PROMPT, "-c", "1"], 2, "-c"),
        ([PROMPT, "-c", "4000000000"], 2, "context is 4000000000"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(call, demo_artifact: Path, options: list[str], code: int, words: str) -> None:
    result = call("run", demo_artifact, *options)
    assert result.code == code and result.out == "" and words in result.err
    assert result.err.count("error: ") == 1


def test_the_model_is_looked_for_before_the_prompt(call, tmp_path: Path) -> None:
    result = call("run", tmp_path / "absent.agq.safetensors")
    assert result.code == 1 and "absent.agq.safetensors" in result.err and "prompt" not in result.err


def test_prompts_that_begin_with_a_dash(call, demo_artifact: Path) -> None:
    expected = call("run", demo_artifact, "-f", "-", "-n", 6, stdin="- a list").out
    for arguments in (["- a list", "-n", 6], ["-n", 6, "--", "- a list"]):
        result = call("run", demo_artifact, *arguments)
        assert result.code == 0 and result.out == expected
    assert "no option `--tempp`" in call("run", demo_artifact, "--tempp", 1, "a b").err
    one = call("run", demo_artifact, PROMPT, "-n", 6, "--stop", "- a list", "--no-chat")
    assert one.code == 0  # a value, and no prompt


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--top-k", 5], "--top-k has no effect"),
        (["--seed", 3, "--min-p", 0.5, "--temp", 0], "--min-p, --seed have no effect"),
        (["--top-p", 0], "--top-p has no effect"),
        (["--seed", 3, "--temp", 1, "--top-k", 1], "--seed has no effect"),
        (["--stop", ""], "--stop has no effect"),
        (["--top-k", 0, "--top-p", 1], ""),
        (["--seed", 3, "--temp", 1, "--top-k", 2], ""),
    ],
    ids=str,
)
def test_options_without_effect_are_said(call, demo_artifact: Path, options: list[object], names: str) -> None:
    result = call("run", demo_artifact, PROMPT, "-n", 3, *options)
    assert result.code == 0 and names in result.err and result.err.count("\n") == bool(names)


def test_every_json_line_but_the_last_is_a_token(call, demo_artifact: Path) -> None:
    """A stop string that might begin holds text back to the end: it belongs to the last token."""
    plain = objects(call("run", demo_artifact, PROMPT, "-n", 6, "--json").out)
    held = plain[-2]["text"] + " and more that never comes"
    lines = objects(call("run", demo_artifact, PROMPT, "-n", 6, "--json", "--stop", held).out)
    assert [line["token"] for line in lines[:-1]] == [line["token"] for line in plain[:-1]]
    assert "".join(line["text"] for line in lines[:-1]) == lines[-1]["text"] == plain[-1]["text"]


def test_text_that_is_no_utf8(call, demo_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes("Gr\xfc\xdfe".encode("latin-1"))
    result = call("run", demo_artifact, "-f", tmp_path / "prompt.txt")
    assert result.code == 1 and "not UTF-8" in result.err and result.out == ""


def test_options_from_the_environment(call, demo_artifact: Path) -> None:
    expected = call("run", demo_artifact, PROMPT, "-n", 5, "--json").out
    found = call(
        "run",
        demo_artifact,
        PROMPT,
        env={"AGQ_MAX_TOKENS": "5", "AGQ_JSON": "1", "AGQ_THREADS": "1", "AGQ_CONTEXT": "64"},
    )
    assert objects(found.out)[:-1] == objects(expected)[:-1]
    assert objects(found.out)[-1]["threads"] == 1 and objects(found.out)[-1]["context"] == 64
    forced = call("run", demo_artifact, PROMPT, "-n", 5, "--json", env={"AGQ_ISA": "scalar"})
    assert objects(forced.out)[-1]["isa"] == "scalar"
    unknown = call("run", demo_artifact, PROMPT, env={"AGQ_ISA": "mmx"})
    assert unknown.code == 2 and "scalar" in unknown.err


def test_too_many_threads_are_lowered_and_said(call, demo_artifact: Path) -> None:
    result = call("run", demo_artifact, PROMPT, "-n", 2, "--json", "-t", 4000)
    assert result.code == 0 and result.err.count("warning: ") == 1 and "4000 threads" in result.err
    assert objects(result.out)[-1]["threads"] < 4000


@pytest.mark.slow
def test_default_limits_are_said(call, demo_artifact: Path, chat_artifact: Path) -> None:
    text = call("run", demo_artifact, PROMPT)
    assert text.err == "stopped at 256 tokens (-n)\n"
    answer = call("run", chat_artifact, PROMPT, "-c", 2048)
    assert answer.err.endswith("stopped at 1024 tokens (-n)\n")
    assert call("run", demo_artifact, PROMPT, "-n", 9).err == ""


def test_full_context(call, demo_artifact: Path) -> None:
    """Asked for more than fits: the text that fits, then an error. Not asked for a number: no error."""
    result = call("run", demo_artifact, PROMPT, "-n", 40, "-c", 12, "--json")
    assert result.code == 1 and "context of 12" in result.err and objects(result.out)[-1]["finish_reason"] == "context"
    assert call("run", demo_artifact, PROMPT, "-c", 12).code == 0


def test_folder_is_packed_once_and_again_after_a_change(
    call, demo_quantized: Path, demo_artifact: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(demo_quantized, folder)
    env = {"AGQ_CACHE_DIR": str(tmp_path / "cache")}
    expected = call("run", demo_artifact, PROMPT, "-n", 4).out
    first, second = (call("run", folder, PROMPT, "-n", 4, env=env) for _ in range(2))
    assert first.out == second.out == expected
    assert "packing" in first.err and second.err == ""
    (packed,) = (tmp_path / "cache" / "packed").iterdir()
    packed.write_bytes(packed.read_bytes()[:5000])
    damaged = call("run", folder, PROMPT, "-n", 4, env=env)
    assert damaged.out == expected and "packing" in damaged.err
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert "packing" in call("run", folder, PROMPT, "-n", 4, env=env).err


def test_a_model_with_a_template_chats(call, chat_artifact: Path) -> None:
    rendered = "user: Where is it?\nassistant:"
    options = ("-n", 12, "--json")
    plain = objects(call("run", chat_artifact, rendered, "--no-chat", *options).out)[-1]
    chat, asked = (
        objects(call("run", chat_artifact, "Where is it?", *more, *options).out)[-1] for more in ([], ["--chat"])
    )
    assert chat["text"] == asked["text"]
    assert chat["prompt_tokens"] == plain["prompt_tokens"]  # one BOS, from the template
    assert chat["text"] == plain["text"]
    system = objects(call("run", chat_artifact, "Where is it?", "--system", "Be brief.", *options).out)[-1]
    noted = objects(call("run", chat_artifact, "Note: Be brief.\n" + rendered, "--no-chat", *options).out)[-1]
    assert system["text"] == noted["text"] and system["prompt_tokens"] == noted["prompt_tokens"]


def test_interruption_ends_with_130(demo_artifact: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "agq", "run", str(demo_artifact), PROMPT, "-n", "500000", "-c", "1000000", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=clean_environment(),
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    assert process.stdout.readline().startswith('{"token"')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert json.loads(out.splitlines()[-1])["finish_reason"] == "interrupted"


def test_peak_memory(agq_cli, demo_artifact: Path) -> None:
    """The bound that the project promises: 1.15 x (artifact + KV cache) + 60 MB."""
    result = agq_cli("run", demo_artifact, PROMPT, "-n", 64, "--json", check=True, fresh=True)
    values = json.loads(result.stdout.splitlines()[-1])
    assert values["peak_rss_bytes"] < 1.15 * (values["model_bytes"] + values["kv_cache_bytes"]) + 60e6


def test_a_prompt_that_is_far_too_long_is_not_encoded(call, demo_artifact, tmp_path, monkeypatch):
    """Fifteen million letters took a minute, in which Ctrl-C was not heard."""
    (tmp_path / "long.txt").write_text("word " * 400_000)
    monkeypatch.setattr(Tokenizer, "encode", None)
    result = call("run", demo_artifact, "-f", tmp_path / "long.txt")
    assert result.code == 1 and re.match(r"error: the prompt has more than \d{4,} tokens, but the context", result.err)
    assert "hint: shorten it" in result.err
