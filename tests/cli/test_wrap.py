"""Line breaks between words, for a text that comes in pieces."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from agq.cli.terminal import WordWrap, width

TEXT = "The red wolf, a canid native to the south-eastern states, is between coyotes and grey wolves in size.\n\n"
TEXT += "It  is red."


def wrapped(pieces: list[str], columns: int) -> str:
    wrap = WordWrap(columns)
    return "".join(wrap.push(piece) for piece in pieces) + wrap.finish()


def greedily(text: str, columns: int) -> str:
    """The same by whole lines: words as long as they fit."""
    done = []
    for line in text.split("\n"):
        rows = [""]
        for word in line.split(" "):
            joined = f"{rows[-1]} {word}" if rows[-1] else word
            if rows[-1] and len(joined) > columns:
                rows.append(word)
            else:
                rows[-1] = joined
        done += rows
    return "\n".join(done)


@pytest.mark.parametrize("columns", range(14, 60))
def test_words_stay_whole_however_they_come(columns: int) -> None:
    text = TEXT.replace("  ", " ")
    rng = random.Random(columns)
    cuts = [0, *sorted(rng.sample(range(len(text)), 40)), len(text)]
    pieces = [text[start:end] for start, end in pairwise(cuts)]
    assert (
        wrapped(pieces, columns) == wrapped([text], columns) == wrapped(list(text), columns) == greedily(text, columns)
    )


def test_nothing_is_lost_and_words_come_at_once() -> None:
    wrap = WordWrap(20)
    assert wrap.push("The red") == "The"  # `red` may be `reddish`
    assert wrap.push("dish ") == " reddish"
    assert wrap.push("wolf\n") == " wolf\n"
    long = "x" * 50
    assert wrap.push(long) == long and wrap.push(" y ") == " y"  # a word that no line holds does not wait
    assert "".join(wrapped(list(TEXT), 20).split()) == "".join(TEXT.split())


def test_code_keeps_its_lines() -> None:
    code = "Look:\n```python\nfor number in range(10): print(number, number ** 2)\n```\nThat was a long line of code.\n"
    shown = wrapped(list(code), 20)
    assert "for number in range(10): print(number, number ** 2)\n" in shown
    assert shown.endswith("That was a long line\nof code.\n")


def test_wide_letters() -> None:
    assert width("日本e\u0301") == 5
    lines = wrapped(list("日本語の文章は空白なしで書かれる。"), 10).split("\n")
    assert len(lines) == 4 and all(width(line) <= 10 for line in lines)


def test_wide_letters_at_the_edge() -> None:
    """Of an odd number of columns the last stays empty: four emoji in each line of 9, two in the third."""
    emoji = "\U0001f600" * 10
    assert wrapped([f"{emoji} abcd efg"], 9) == f"{emoji} abcd\nefg"
    assert wrapped([f"{emoji} abcde f"], 9) == f"{emoji}\nabcde f"


def test_a_text_cannot_move_the_cursor() -> None:
    shown = wrapped(["a\x1b[2Jb\r\n", "c\x07\x9b\x7f\td"], 40)
    assert shown == "a\u241b[2Jb\nc\u2407\ufffd\u2421\td"


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_the_list_of_commands_fits(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from agq.cli.chat_commands import ROWS, command_of

    monkeypatch.setenv("COLUMNS", str(columns))
    lines = command_of("/help").run(None).split("\n")
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    assert all(row.names[0] in text and row.words in text for row in ROWS)
    assert len(lines) == len(ROWS) + 3 or columns < 80
