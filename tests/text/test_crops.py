"""Where windows begin and end, on numbered tokens."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from agq.errors import AgqError
from agq.text import windows as calibration
from agq.text.windows import random_crops, token_windows


class Numbers:
    """A tokenizer of numbered words: "10 11 12" -> 10, 11, 12."""

    adds_bos = False
    vocab = 1000

    def encode(self, text: str) -> np.ndarray:
        return np.array([int(word) for word in text.split()], dtype=np.int64)


def numbered(start: int, count: int) -> str:
    return " ".join(str(start + i) for i in range(count))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text(numbered(0, 40))
    return path


def test_every_start_but_the_last_is_drawn(text: Path) -> None:
    """GPTQ's randint(0, n - length - 1) with both ends: 40 tokens and windows of 37 begin at 0, 1 or 2."""
    found = token_windows(text, Numbers(), samples=60, seq_len=37, seed=1).tokens
    assert set(found[:, 0].tolist()) == {0, 1, 2}
    assert np.array_equal(found, found[:, :1] + np.arange(37))
    generator = random.Random(1)
    assert found[:, 0].tolist() == [generator.randint(0, 2) for _ in range(60)]


def test_seeds_draw_differently(text: Path) -> None:
    first, second = (token_windows(text, Numbers(), 30, 8, seed=seed).tokens for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, token_windows(text, Numbers(), 30, 8, seed=0).tokens)


def test_shortest_text(text: Path) -> None:
    assert token_windows(text, Numbers(), 2, 39).tokens[:, 0].tolist() == [0, 0]
    with pytest.raises(AgqError, match="need at least 41"):
        token_windows(text, Numbers(), 1, 40)


def test_sources_take_turns(text: Path, tmp_path: Path) -> None:
    """Two texts, five windows: three of the first, two of the second, alternating, each in its own order."""
    other = tmp_path / "b.txt"
    other.write_text(numbered(500, 40))
    mixed = token_windows(f"{text},{other}", Numbers(), 5, 6, seed=3).tokens
    assert (mixed[:, 0] >= 500).tolist() == [False, True, False, True, False]
    assert np.array_equal(mixed[0::2], token_windows(text, Numbers(), 3, 6, seed=3).tokens)
    assert np.array_equal(mixed[1::2], token_windows(other, Numbers(), 2, 6, seed=3).tokens)


def test_crops_of_documents_that_are_long_enough() -> None:
    """A document is drawn, then a start in it; one of exactly the length is too short."""
    documents = [numbered(0, 8), numbered(100, 9), numbered(200, 20), numbered(300, 3)]
    found = random_crops(documents, Numbers(), 50, 8, seed=4)
    generator, expected = random.Random(4), []
    while len(expected) < 50:
        index = generator.randint(0, 3)
        count = (8, 9, 20, 3)[index]
        if count > 8:
            expected.append(100 * index + generator.randint(0, count - 9))
    assert found[:, 0].tolist() == expected and np.array_equal(found, found[:, :1] + np.arange(8))
    assert {100, 200, 211} <= set(random_crops(documents, Numbers(), 400, 8, seed=0)[:, 0].tolist())


def test_c4_is_cut_by_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [numbered(0, 30), numbered(100, 30)]
    monkeypatch.setattr(calibration, "load_documents", lambda *_: calibration.Documents(documents, "0" * 64, "c4"))
    found = token_windows("c4", Numbers(), 6, 10, seed=2).tokens
    assert np.array_equal(found, random_crops(documents, Numbers(), 6, 10, 2))
