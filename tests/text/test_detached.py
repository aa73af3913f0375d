"""Text as tokenized corpora write it."""

import pytest

from agq.text.detached import detach, is_detached

# Sentences of WikiText-2's kind, and how they are written elsewhere.
PAIRS = [
    ("a well-known writer, he said.", "a well @-@ known writer , he said ."),
    ("It had 1,000 copies; 2.5% were sold (in 1990).", "It had 1 @,@ 000 copies ; 2 @.@ 5% were sold ( in 1990 ) ."),
    ('The "crusher", it\'s called: big!', 'The " crusher " , it \'s called : big !'),
    ("the lobster, H. americanus.", "the lobster , H. americanus ."),
    ("He waits... and goes", "He waits... and goes"),
    ("first line.\nSecond [2] line?", "first line .\nSecond [ 2 ] line ?"),
    ("", ""),
]


@pytest.mark.parametrize(("written", "tokenized"), PAIRS)
def test_detach(written, tokenized):
    assert detach(written) == tokenized
    assert detach(tokenized) == tokenized


def test_detached_text_is_known(demo_text):
    text = (demo_text / "calibration.txt").read_text(encoding="utf-8")
    once = detach(text)
    assert not is_detached(text) and is_detached(once) and detach(once) == once
    # Nothing is lost: without spaces and marks it is the same text.
    assert once.replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".").replace(" ", "") == text.replace(
        " ", ""
    )
    assert not is_detached("no marks at all")
