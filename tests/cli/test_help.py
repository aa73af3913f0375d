"""Help: common options first, examples that the command line can read, `agq help`, the cache."""

from __future__ import annotations

import shlex

import pytest

from agq.cli.application import load_command
from agq.cli.commands import COMMANDS, help_text
from agq.cli.help import COMMON, EXAMPLES, FIRST
from agq.reporting import console


@pytest.mark.parametrize("name", COMMANDS)
def test_three_examples_that_can_be_read(name: str) -> None:
    assert len(EXAMPLES[name]) == 3
    for line in EXAMPLES[name]:
        program, command, *arguments = shlex.split(line)
        assert program == "agq" and command in COMMANDS and len(line) <= 88
        load_command(command).make_context(command, arguments)
    console.reset()  # an example may have said -v


@pytest.mark.parametrize("name", COMMANDS)
def test_common_options_come_first(name: str) -> None:
    assert len(COMMON[name]) <= 5
    options = [item for item in load_command(name).params if item.param_type_name == "option"]
    found = [item for item in options if item.rich_help_panel == FIRST]
    assert found == options[: len(found)]
    assert [next(word for word in item.opts if word in COMMON[name]) for item in found] == list(COMMON[name])


def test_help_is_a_command(agq_cli) -> None:
    assert agq_cli("help", check=True).stdout == agq_cli("--help", check=True).stdout
    assert agq_cli("help", "pack", check=True).stdout == agq_cli("pack", "--help", check=True).stdout
    assert "Examples:\n    agq pack FOLDER-W4A8\n" in agq_cli("help", "pack").stdout
    assert agq_cli("help", "pakc").returncode == 2


@pytest.mark.slow
def test_eighty_columns(agq_cli) -> None:
    assert max(map(len, help_text().splitlines())) <= 80
    for name in COMMANDS:
        text = agq_cli(name, "--help", check=True, env={"COLUMNS": "80"}).stdout
        assert max(map(len, text.splitlines())) <= 88
        assert "<int>  More on stderr" not in text


@pytest.mark.slow
def test_cache(agq_cli, demo_model, tmp_path) -> None:
    env = {"AGQ_CACHE_DIR": str(tmp_path)}
    agq_cli("run", demo_model, "a", "-n", 1, env=env, check=True)
    listed = agq_cli("cache", env=env, check=True).stdout
    assert "llama-demo-" in listed and "1 files" in listed and len(list((tmp_path / "packed").iterdir())) == 1
    assert '"cleared": true' in agq_cli("cache", "--clear", "--json", env=env, check=True).stdout
    assert not list((tmp_path / "packed").iterdir())


def test_every_option_of_quantize_states_its_default() -> None:
    for item in load_command("quantize").params:
        if item.param_type_name != "option" or (item.is_flag and not item.secondary_opts) or item.name == "help":
            continue
        assert "efault" in (item.help or "") or item.name in ("verbose", "quiet", "color", "config"), item.opts


@pytest.mark.parametrize(("option", "begun", "wanted"), [("scheme", "W4", "W4A8"), ("method", "g", "gptq"),
                                                          ("preset", "w4", "w4a4")])  # fmt: skip
def test_completion(agq_cli, option: str, begun: str, wanted: str) -> None:
    env = {"_AGQ_COMPLETE": "complete_bash", "COMP_WORDS": f"agq quantize m --{option} {begun}", "COMP_CWORD": "4"}
    assert wanted in agq_cli(env=env).stdout.split()
