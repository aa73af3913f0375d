"""The pieces of programs in docs/python.md that need a model with a chat template. The whole programs are files, which
test_commands.py runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import agq
from tests.docs.pages import blocks
from tests.support import REPOSITORY

PIECES = [
    block for block in blocks(REPOSITORY / "docs" / "python.md") if block.language == "python" and block.mark is None
]


def test_pieces_run(chat_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with agq.load(chat_artifact, threads=1, context=1200) as model:
        for piece in PIECES:
            names = {"model": model}
            exec("\n".join(piece.lines), names)
            assert len(names["messages"]) == 4 and capsys.readouterr().out.strip()
    assert len(PIECES) == 1
