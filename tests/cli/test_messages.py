"""What is said where a run cannot be made: another process, no home, a short text, no memory; never a wall of text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agq.errors import AgqError
from agq.files import cache_dir, exclusive
from agq.quantization import rehearsal
from agq.quantization.plan import plan
from agq.quantization.state import WorkFolder
from agq.recipe.changes import RecipeChanges, RunOptions
from agq.reporting import console


@pytest.mark.slow
def test_two_runs_on_one_output(agq_cli, demo_model: Path, tmp_path: Path) -> None:
    arguments = ("quantize", demo_model, "--method", "rtn", "-o", tmp_path / "out")
    with exclusive(tmp_path / "out", "agq quantize"):
        result = agq_cli(*arguments)
    assert result.returncode == 1 and not (tmp_path / "out").exists()
    assert f"another agq quantize (process {os.getpid()}) writes `{tmp_path / 'out'}`" in result.stderr
    assert "--output" in result.stderr
    agq_cli(*arguments, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_lock_ends_with_the_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), exclusive(tmp_path / "a", "work"):
        raise ValueError("inside")
    with exclusive(tmp_path / "a", "work"), pytest.raises(AgqError, match="another work"):
        with exclusive(tmp_path / "a", "work"):
            pass
    assert not list(tmp_path.iterdir())


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("AGQ_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(AgqError, match="no home folder") as caught:
        cache_dir()
    assert "AGQ_CACHE_DIR" in str(caught.value.hint)


def test_a_home_that_is_not_there(agq_cli) -> None:
    result = agq_cli("info", "~nobody-of-this-name/model")
    assert result.returncode == 1 and "home folder is not known" in result.stderr


@pytest.mark.parametrize(
    "typed",
    (
        "run MODEL -f /dev/zero",
        "run MODEL --jsonl /dev/zero",
        "run MODEL --jsonl prompts.jsonl --skip-done /dev/zero",
        "eval-ppl MODEL --data /dev/zero --seq-len 16",
        "compare MODEL MODEL --prompts /dev/zero",
        "recommend MODEL --accuracy /dev/zero",
        "sweep /dev/zero",
        "quantize --config /dev/zero",
    ),
)
def test_nothing_reads_without_end(
    typed: str, call, demo_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("agq.files._MOST_OF_A_STREAM", 1 << 10)
    Path("prompts.jsonl").write_text('{"prompt": "a"}\n')
    result = call(*typed.replace("MODEL", str(demo_artifact)).split())
    assert result.code == 1 and "`/dev/zero` is" in result.err, result.err


def test_stdin_without_end(call, demo_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agq.files._MOST_OF_A_STREAM", 1 << 10)
    for arguments in ((), ("--jsonl", "-")):
        result = call("run", demo_artifact, *arguments, stdin="x" * 2000)
        assert result.code == 1 and "stdin is no file, and gives more than" in result.err


@pytest.mark.slow
def test_a_dry_run_reads_the_text(agq_cli, demo_model: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("A few words only.\n")
    result = agq_cli("quantize", demo_model, "--data", "short.txt", "--dry-run", cwd=tmp_path)
    assert result.returncode == 1 and "need at least" in result.stderr
    result = agq_cli("quantize", demo_model, "--data", "absent.txt", "--dry-run", cwd=tmp_path)
    assert result.returncode == 1 and "no such text file" in result.stderr


@pytest.mark.parametrize("samples", [10**11, 10**20])
@pytest.mark.parametrize("more", [(), ("--data", "TEXT"), ("--data", "TEXT,TEXT")])
def test_a_dry_run_of_endless_samples(call, demo_model: Path, demo_text: Path, samples: int, more: tuple) -> None:
    more = tuple(word.replace("TEXT", str(demo_text)) for word in more)
    result = call("quantize", demo_model, "--dry-run", "--samples", samples, "--seq-len", 32, *more)
    assert result.code == 1 and "error: not enough memory" in result.err and "--samples" in result.err
    assert all(len(line) <= 300 for line in result.err.splitlines())


def test_a_dry_run_counts_memory(monkeypatch: pytest.MonkeyPatch, demo_model: Path, tmp_path: Path) -> None:
    made = plan(str(demo_model), tmp_path / "out", RecipeChanges(method="rtn"), check_space=False)
    assert rehearsal.rehearse(made) > 0
    monkeypatch.setattr(rehearsal, "available_memory", lambda: 1000)
    with pytest.raises(AgqError, match="not enough memory"):
        rehearsal.rehearse(made)


def test_a_dry_run_sees_what_stands_at_the_output(call, demo_model: Path, tmp_path: Path) -> None:
    """A model that would be replaced, or the blocks of an interrupted run of other settings."""
    made = plan(str(demo_model), tmp_path / "out", RecipeChanges(method="rtn"))
    WorkFolder.open(made.work, rehearsal.run_key(made, None) | {"format": "other"})
    line = ("quantize", demo_model, "--method", "rtn", "-o", tmp_path / "out", "--dry-run")
    refused = call(*line)
    assert refused.code == 1 and "other settings" in refused.err, refused.err
    assert call(*line, "--no-resume").code == 0 and (made.work / "state.json").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    assert "is not empty" in call(*line, "--no-resume").err
    assert call(*line, "--no-resume", "--force").code == 0


def test_operations_grow_with_the_work(demo_model: Path, tmp_path: Path) -> None:
    def of(**changes: object) -> float:
        made = plan(str(demo_model), tmp_path / "out", RecipeChanges(**changes), RunOptions(device="cpu"))
        return rehearsal.operations_of(made.checkpoint, made.recipe, not made.transforms.empty)

    rounded, solved = of(method="rtn"), of(method="gptq", preset="gptq", samples=8)
    more = of(method="gptq", preset="gptq", samples=32)
    assert rounded < solved < more < of(samples=32, tune=64)
    # 24 windows more: each token through every weight one and a half times, and into the Hessians of four inputs.
    parts = plan(str(demo_model), tmp_path / "out").checkpoint.parts
    weights = sum(linear.out_features * linear.in_features for linear in parts.block_linears())
    inputs = sum(block.linears[roles[0]].in_features ** 2 for block in parts.blocks() for roles in block.groups)
    assert more - solved == pytest.approx(24 * 1024 * (3 * weights + 2 * inputs))


def test_long_lines_lose_their_middle(capsys: pytest.CaptureFixture[str]) -> None:
    console.reset()
    text = "`a` is wrong: " + ", ".join(f"layer {index}" for index in range(1000)) + " and the end"
    console.error(text, text)
    console.warning(text)
    for line in capsys.readouterr().err.splitlines():
        assert len(line) <= 300 and "is wrong" in line and line.endswith("and the end") and " [...] " in line
    console.configure(verbosity=1)
    console.error(text)
    assert text in capsys.readouterr().err
    console.reset()
