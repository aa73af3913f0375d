"""What was said in a conversation: system message and turns, as token ids for the model and as messages for a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agq.errors import AgqError
from agq.runtime.chat import ChatTemplate
from agq.runtime.tokenizer import Tokenizer
from agq.tokenizer.chat_template import Message


@dataclass(frozen=True)
class Turn:
    """A prompt and its answer. tokens: ids of both as the model saw them; of a chat none, as its template is applied to
    all turns anew."""

    prompt: str
    answer: str
    tokens: tuple[int, ...] = ()


class Transcript:
    """The turns of a conversation.

    Args:
        template: prompts are messages of it; None: each prompt continues the text so far.
        system: the system message.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, system: str | None = None):
        self._tokenizer, self._template = tokenizer, template
        self.system = system
        self.turns: list[Turn] = []

    @property
    def chat(self) -> bool:
        """Prompts are messages of a chat template."""
        return self._template is not None

    def encode(self, prompt: str, first: int = 0) -> list[int]:
        """Ids of the turns from number `first` on and of a prompt, ready for its answer.

        Raises:
            AgqError: the template refuses the messages; text that the tokenizer cannot encode.
        """
        if self._template is not None:
            messages = [*self.messages(first), {"role": "user", "content": prompt}]
            return self._template.encode(self._tokenizer, messages)
        ids = list(self._tokenizer.prefix)
        for turn in self.turns[first:]:
            ids += turn.tokens
        return ids + self._continued(prompt, len(self.turns) - first)

    def _continued(self, prompt: str, number: int) -> list[int]:
        """Ids of a prompt that continues `number` turns."""
        return self._tokenizer.encode("\n" * bool(number) + prompt, add_bos=False)

    def keep(self, prompt: str, answer: str, fed: Sequence[int]) -> None:
        """Adds a turn. fed: ids of the whole text, which the model saw."""
        if self._template is not None:
            self.turns.append(Turn(prompt, answer.strip()))
            return
        before = len(self._tokenizer.prefix) + sum(len(turn.tokens) for turn in self.turns)
        self.turns.append(Turn(prompt, answer, tuple(fed[before:])))

    def fit(self, prompt: str, room: int) -> tuple[list[int], int]:
        """(ids of a prompt, how many of the oldest turns must be left out so that they are `room` or fewer). Where the
        prompt alone is longer, no turn is left over.
        """
        first = 0
        while True:
            ids = self.encode(prompt, first)
            if len(ids) <= room or first == len(self.turns):
                return ids, first
            first += 1

    def messages(self, first: int = 0) -> list[Message]:
        """The system message and the turns from number `first` on, as chat messages."""
        found: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        for turn in self.turns[first:]:
            found.append({"role": "user", "content": turn.prompt})
            found.append({"role": "assistant", "content": turn.answer})
        return found

    def load(self, messages: Any) -> None:
        """Replaces everything by messages from a file.

        Raises:
            AgqError: not a list of {"role", "content"}; roles that do not alternate. Nothing is replaced then.
        """
        system, rest = split_messages(messages)
        pairs = list(zip(rest[::2], rest[1::2], strict=False))
        if 2 * len(pairs) != len(rest):
            raise AgqError(
                "the last message has no answer", hint="a saved conversation ends with an assistant's message"
            )
        turns: list[Turn] = []
        for asked, answered in pairs:
            prompt, answer = asked["content"], answered["content"]
            tokens: list[int] = []
            if self._template is None:
                tokens = self._continued(prompt, len(turns)) + self._tokenizer.encode(answer, add_bos=False)
            turns.append(Turn(prompt, answer, tuple(tokens)))
        self.system, self.turns = system, turns


def split_messages(messages: Any) -> tuple[str | None, list[Message]]:
    """(system message, the others) of chat messages that nobody has checked: user and assistant alternate.

    Raises:
        AgqError: anything else.
    """
    if not isinstance(messages, list):
        raise AgqError("messages must be a list", hint='such as [{"role": "user", "content": "Hello"}]')
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise AgqError(f"message {number} is not an object with the texts `role` and `content`")
    system = None
    if messages and messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    for number, message in enumerate(messages):
        expected = ("user", "assistant")[number % 2]
        if message["role"] != expected:
            raise AgqError(f"message {number + 1} is the `{message['role']}`'s, where the {expected}'s is expected")
    return system, list(messages)


def last_prompt(messages: Any) -> tuple[str | None, Sequence[Turn], str]:
    """(system message, turns, prompt) of messages that end with the user's, which is to be answered.

    Raises:
        AgqError: as split_messages; messages that do not end with the user's.
    """
    system, rest = split_messages(messages)
    if len(rest) % 2 == 0:
        raise AgqError("the messages do not end with the user's", hint="the last one is what the model answers")
    turns = [Turn(one["content"], two["content"]) for one, two in zip(rest[:-1:2], rest[1::2], strict=True)]
    return system, turns, rest[-1]["content"]
