"""What the installed program prints, against the files of `expected/`. README.md says how to read a difference.

Here most commands are forks of a server that has imported the program, for the sake of time; those with variables of
their own or without the right to write are the installed program. `python -m tests.snapshots` starts that for
all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_server import CommandServer
from tests.snapshots import program
from tests.snapshots.case import Case
from tests.snapshots.cases import CASES
from tests.snapshots.compare import difference
from tests.snapshots.masks import MASKS, masked
from tests.snapshots.snapshot import EXPECTED, taken
from tests.support import REPOSITORY


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    started = CommandServer(program.environment(tmp_path_factory.mktemp("cache")), REPOSITORY)
    yield started
    started.close()


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else []) for case in CASES]
)
def test_the_program_prints_what_it_printed(case: Case, server: CommandServer) -> None:
    own = bool(case.env) or case.read_only
    found = difference(case, taken(case, None if own else server))
    if found:
        pytest.fail(f"agq prints something else:\n{found}\nIf so meant: python -m tests.snapshots --update {case.name}")


def test_the_program_runs_this_tree(tmp_path: Path) -> None:
    result = program.run(["nonsense"], tmp_path, program.environment(tmp_path, AGQ_DEBUG="1"))
    assert f'File "{REPOSITORY}/agq/cli/__init__.py"' in result.stderr  # of the traceback


def test_every_file_belongs_to_a_case() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert {path.stem for path in EXPECTED.glob("*.txt")} == set(names)


def test_every_mask_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in EXPECTED.glob("*.txt"))
    assert [name for name, _ in MASKS if f"<{name}>" not in text] == []


def test_a_mask_replaces_only_the_value() -> None:
    assert masked("time         12 s\nsize  12 s") == "time         <seconds>\nsize  12 s"
