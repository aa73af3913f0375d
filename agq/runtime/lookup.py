"""Prompt look-up: guesses of what comes next, taken from what stands in the text already.

Summaries, edits and code repeat pieces of their prompt. Where the last few tokens occurred before, what followed them
then is proposed now, and the model checks all proposed tokens in one forward pass (prompt look-up decoding, Saxena
2023). What the model does not choose itself is thrown away: the text is the same with and without.
"""

from collections.abc import Sequence

LONGEST, SHORTEST = 4, 2  # tokens that must agree: longer matches are better guesses and are tried first


class Lookup:
    """The text so far, and where every short run of tokens in it was last followed by another.

    Args:
        most: tokens to propose at most. The number is halved after a proposal that was wrong from its first token on,
            and doubled after one that was right to its end.
    """

    def __init__(self, most: int):
        self.most = most
        self._now = most
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # a run -> index of the token that followed it, the last time

    def append(self, tokens: Sequence[int]) -> None:
        """The text goes on."""
        for token in tokens:
            end = len(self._text)
            for size in range(SHORTEST, LONGEST + 1):
                if end >= size:
                    self._after[tuple(self._text[end - size :])] = end
            self._text.append(token)

    def propose(self, room: int) -> list[int]:
        """What may come next: at most `room` tokens; often none."""
        count = min(self._now, room)
        for size in range(LONGEST, SHORTEST - 1, -1):
            if count > 0 and len(self._text) >= size:
                start = self._after.get(tuple(self._text[-size:]))
                if start is not None:
                    return self._text[start : start + count]
        return []

    def learn(self, proposed: int, right: int) -> None:
        """How a proposal fared."""
        if right == proposed:
            self._now = min(2 * self._now, self.most)
        elif right == 0:
            self._now = max(self._now // 2, 1)
