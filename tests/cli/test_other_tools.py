"""Who comes from llama.cpp or ollama is told agq's words, and these work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from agq.cli import other_tools
from agq.cli.commands import COMMANDS


def hint_of(result) -> str:
    error, hint = result.err.splitlines()
    assert result.code == 2 and error.startswith("error: ") and hint.startswith("hint: ")
    return hint.removeprefix("hint: ")


@pytest.mark.parametrize("name", other_tools.COMMANDS)
def test_commands(name: str, call) -> None:
    assert name not in COMMANDS
    assert hint_of(call(name, "some-model", "hello")) == other_tools.COMMANDS[name]


@pytest.mark.parametrize("name", other_tools.OPTIONS)
def test_options(name: str, call) -> None:
    for arguments in ((name, "value"), ("model", name), (f"{name}=value",)):
        result = call("run", *arguments)
        assert hint_of(result) == other_tools.OPTIONS[name] and f"no option `{name}`" in result.err


def test_the_value_of_an_option_is_none_of_them(call, demo_artifact: Path) -> None:
    result = call("run", demo_artifact, "The", "-n", 1, "--stop", "-p")
    assert result.code == 0, result.err


# What the options of hints are given.
_VALUES = {"--max-tokens": "2", "--context": "16", "--no-chat": "", "--system": "kind"}


@pytest.mark.parametrize("hint", sorted({*other_tools.COMMANDS.values(), *other_tools.OPTIONS.values()}))
def test_what_they_are_told_works(
    hint: str, call, demo_model: Path, demo_artifact: Path, chat_artifact: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text('{"prompt": "a"}\n')
    typed = re.findall(r"`agq ([^`]+)`", hint)
    typed += [f"run MODEL PROMPT {name} {value}" for name, value in _VALUES.items() if f"`{name}`" in hint]
    assert typed, hint
    for line in typed:
        words = shlex.split(line.replace("OWNER/NAME", "MODEL"))
        more = {"run": ["-n", 1], "pack": ["-o", "p.agq.safetensors"], "quantize": ["--print-config"]}
        more["eval-ppl"] = ["--data", "text.txt", "--seq-len", 8]
        Path("text.txt").write_text("The river flows. " * 9)
        model = (
            demo_model if words[0] in ("pack", "quantize") else chat_artifact if "--system" in words else demo_artifact
        )
        words = [str(model) if word == "MODEL" else word for word in words]
        result = call(*words, *more.get(words[0], []), stdin="a")
        assert result.code == 0, (line, result.err)
