"""The chat template of a packed file."""

from __future__ import annotations

from collections.abc import Sequence

from agq.artifact.reader import Artifact
from agq.artifact.special import special_texts
from agq.errors import AgqError
from agq.runtime.tokenizer import Tokenizer
from agq.tokenizer.chat_template import Message, render


class ChatTemplate:
    """The chat template of an artifact.

    Raises:
        AgqError: the artifact has none.
    """

    def __init__(self, artifact: Artifact):
        if not artifact.has("chat_template"):
            raise AgqError(
                f"`{artifact.path}` has no chat template: it is no chat model",
                hint="leave out `chat: true` and write the text that the model is to continue",
            )
        try:
            self.template = artifact.document("chat_template").decode("utf-8")
        except UnicodeDecodeError as error:
            raise AgqError(f"the chat template of `{artifact.path}` is not UTF-8 text") from error
        self.values = special_texts(artifact.info.special)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt of a conversation, ready for an answer, with its special tokens as text."""
        return render(self.template, messages, self.values)

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt. The template writes BOS where the model wants one; the tokenizer adds no second
        one.
        """
        return tokenizer.encode(self.render(messages), add_bos=False)
