"""Choices between widths, checked and put into words in one way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agq.errors import AgqError


def any_of(values: Iterable[object]) -> str:
    """Choices for people: "4, 8 or 32"."""
    words = [str(value) for value in values]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


@dataclass(frozen=True)
class Widths:
    """The widths in bits that something can have. what: its name, for messages ("a KV cache")."""

    what: str
    bits: tuple[int, ...]

    def __contains__(self, bits: object) -> bool:
        return type(bits) is int and bits in self.bits

    def check(self, bits: int | str | None, error: type[AgqError] = AgqError) -> None:
        """Raises `error` for a width that is not there. None (not said) is allowed."""
        if bits is not None and bits not in self:
            raise error(f"{self.what} of {bits} bits is not available", hint=f"use {any_of(self.bits)}")

    @property
    def metavar(self) -> str:
        """For the help of an option: "4|8|32"."""
        return "|".join(map(str, self.bits))

    @property
    def words(self) -> str:
        """For sentences: "4, 8 or 32"."""
        return any_of(self.bits)
