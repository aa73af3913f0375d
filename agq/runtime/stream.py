"""A text as it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

from agq.runtime.generation import Generation, Statistics


class Stream(Iterator[str]):
    """An iterator of pieces of text, each as soon as it cannot change any more. Together they are the whole text.

    It holds a slot of its model until it is exhausted or closed, or nothing refers to it any more.

    Attributes:
        generation: the same with its token ids; iterate over one of the two only.
    """

    def __init__(self, generation: Generation, release: Callable[[Generation], None]):
        self.generation = generation
        self._release: Callable[[Generation], None] | None = release

    def __next__(self) -> str:
        try:
            while True:
                piece = next(self.generation)
                if piece.text:
                    return piece.text
        except BaseException:
            self.close()
            raise

    @property
    def statistics(self) -> Statistics:
        """What was done; complete at the end: number of tokens, why it ended, speeds."""
        return self.generation.statistics

    @property
    def tokens(self) -> list[int]:
        """Ids of the tokens so far."""
        return list(self.generation.tokens)

    def close(self) -> None:
        """Ends the text here, and gives its slot back. Not while another thread makes the next piece: ValueError."""
        if self._release is None:
            return
        self.generation.close()  # where this fails the slot is in use, and stays taken
        release, self._release = self._release, None
        if release is not None:
            release(self.generation)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_release", None) is not None:
            self.close()
