"""What a model is used for, as tokens: the prompt that is read and the answer that is written."""

from __future__ import annotations

from dataclasses import dataclass

from agq.errors import UsageError
from agq.structured import nearest


@dataclass(frozen=True)
class UseCase:
    """A request. name: "" for the user's own numbers. prompt, answer: tokens, each at least 1."""

    name: str
    prompt: int
    answer: int

    @property
    def tokens(self) -> int:
        """Positions of the KV cache that a request takes."""
        return self.prompt + self.answer

    def describe(self) -> str:
        """ "chat: 512 tokens in, 256 out"."""
        return f"{self.name or 'own'}: {self.prompt} tokens in, {self.answer} out"


# The pairs of "Give Me BF16 or Give Me Death?" (Kurtic et al., 2024, arXiv:2411.02355), section on performance.
_ROWS = (
    UseCase("code-completion", 256, 1024),
    UseCase("docstrings", 768, 128),
    UseCase("code-fixing", 1024, 1024),
    UseCase("rag", 1024, 128),
    UseCase("instructions", 256, 128),
    UseCase("chat", 512, 256),
    UseCase("summarization", 4096, 512),
)
USE_CASES = {row.name: row for row in _ROWS}
DEFAULT = USE_CASES["chat"]
MOST_TOKENS = 1 << 20  # of a prompt, and of an answer: their passes are added up one by one


def use_case(name: str | None, prompt: int | None = None, answer: int | None = None) -> UseCase:
    """The row of a name (None: chat), with the user's own numbers in place of its own.

    Raises:
        UsageError: an unknown name; a name beside both numbers; more tokens than MOST_TOKENS.
    """
    if name is not None and name not in USE_CASES:
        raise UsageError(f"unknown use case `{name}`", hint=_names(name))
    if prompt is None and answer is None:
        return DEFAULT if name is None else USE_CASES[name]
    if name is not None and prompt is not None and answer is not None:
        raise UsageError(f"use case `{name}` says how long prompt and answer are", hint="name either of them")
    for what, count in (("a prompt", prompt), ("an answer", answer)):
        if (count or 0) > MOST_TOKENS:
            raise UsageError(f"{what} of {count} tokens is too long to plan for", hint=f"{MOST_TOKENS} at most")
    row = DEFAULT if name is None else USE_CASES[name]
    return UseCase("", row.prompt if prompt is None else prompt, row.answer if answer is None else answer)


def _names(name: str) -> str:
    near = nearest(name, USE_CASES)
    return near if near.startswith("did") else f"use cases: {', '.join(USE_CASES)}"
