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
    assert "llama-demo-" in listed and "1 file\n" in listed and len(list((tmp_path / "packed").iterdir())) == 1
    assert '"cleared": true' in agq_cli("cache", "--clear", "--json", env=env, check=True).stdout
    assert not list((tmp_path / "packed").iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_states_its_default(name: str) -> None:
    """Flags are off by default, and the counters and colours of all commands tell of themselves."""
    for item in load_command(name).params:
        if item.param_type_name != "option" or (item.is_flag and not item.secondary_opts) or item.name == "help":
            continue
        if item.name not in ("verbose", "quiet", "color"):
            assert "efault" in (item.help or "") or (item.show_default and item.default is not None), item.opts


SWEEP = """\
models: [{name: demo, path: ../../FOLDER, seq_len: 64}]
texts: [{name: words, data: ../../text.txt, windows: 1}]
divergence_windows: 1
reference_windows: 0
prefill: 8
decode: 2
threads: 1
rows: [{name: W4A8, options: {preset: rtn, scheme: W4A8}}]
"""
# What makes the examples quick; what an example names itself wins.
QUICK = {
    "AGQ_CALIBRATION_SAMPLES": "1", "AGQ_CALIBRATION_SEQ_LEN": "64", "AGQ_TUNE": "0", "AGQ_FORCE": "1",
    "AGQ_MAX_TOKENS": "4", "AGQ_MAX_WINDOWS": "1", "AGQ_REPETITIONS": "1", "AGQ_LIMITS": "0", "AGQ_STARTUP": "0",
    "AGQ_THREADS": "1", "AGQ_LIMIT": "1", "AGQ_PLOT": "0", "AGQ_NO_PROGRESS": "1", "AGQ_PPL_SEQ_LEN": "64",
}  # fmt: skip


@pytest.mark.slow
def test_examples_run(call, short_model, demo_text, tmp_path, monkeypatch) -> None:
    """In the order of the commands: what quantize makes is packed, and what pack makes is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").symlink_to(short_model)
    (tmp_path / "text.txt").symlink_to(demo_text / "calibration.txt")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "hello"}\n')
    (tmp_path / "configs" / "sweeps").mkdir(parents=True)
    (tmp_path / "configs" / "sweeps" / "demo.yaml").write_text(SWEEP)
    for line in (line for name in COMMANDS for line in EXAMPLES[name]):
        env = {name: value for name, value in QUICK.items() if "rtn" not in line or "CALIBRATION" not in name}
        done = call(*shlex.split(line)[1:], stdin="hello", env=env | {"AGQ_CACHE_DIR": str(tmp_path / "cache")})
        gate = "--max-ratio" in line and "is above the limit" in done.err
        assert done.code == 0 or gate, f"{line}: {done.err}"


@pytest.mark.parametrize(("option", "begun", "wanted"), [("scheme", "W4", "W4A8"), ("method", "g", "gptq"),
                                                          ("preset", "w4", "w4a4")])  # fmt: skip
def test_completion(agq_cli, option: str, begun: str, wanted: str) -> None:
    env = {"_AGQ_COMPLETE": "complete_bash", "COMP_WORDS": f"agq quantize m --{option} {begun}", "COMP_CWORD": "4"}
    assert wanted in agq_cli(env=env).stdout.split()
