"""Text of tokens as they are generated."""

from collections.abc import Sequence

from agq.tokenizer.tokenizer import Tokenizer

__all__ = ["StreamDecoder", "Tokenizer"]

_REPLACEMENT = "\ufffd"


class StreamDecoder:
    """Text of tokens as they come, whole characters only.

    The pieces put together are exactly the text that decoding all tokens at once gives: `decode(prefix + tokens)` less
    `decode(prefix)`. A piece is held back while a character may be incomplete: a text that ends in U+FFFD, or a run
    of byte tokens (the tokenizers library decodes such a run as a whole, and all of it to U+FFFD when any of it is
    invalid).

    Args:
        prefix: tokens before the first one, usually the prompt: with it, a leading space that SentencePiece drops at
            the beginning of a text is kept where the text goes on.
    """

    _CONTEXT = 8  # tokens of the prefix that are looked at: enough to hold one that has text

    def __init__(self, tokenizer: Tokenizer, prefix: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._tokens = self._whole([token for token in prefix if not tokenizer.is_silent(token)])
        self._start = 0  # first token of the window that is decoded
        self._read = len(self._tokens)  # tokens before this one have been given out
        if self._tokens:
            self._start = self._clean_start(self._read)
        self._given = tokenizer.decode(self._tokens[self._start : self._read])

    def _whole(self, tokens: list[int]) -> list[int]:
        """The prefix, on whose last byte tokens nothing that follows depends where they are whole characters: a text
        stands in their place."""
        end = len(tokens)
        while end > 0 and self._tokenizer.is_byte(tokens[end - 1]):
            end -= 1
        if end == len(tokens) or _REPLACEMENT in self._tokenizer.decode(tokens[end:]):
            return tokens
        return [*tokens[:end], *self._tokenizer.encode("a", add_bos=False)]

    def _clean_start(self, end: int) -> int:
        """A window start before `end` that has text of its own, and is not inside a character."""
        start = max(end - self._CONTEXT, 0)
        while start > 0 and (self._tokenizer.is_byte(self._tokens[start - 1]) or not self._solid(start, end)):
            start -= 1
        return start

    def _solid(self, start: int, end: int) -> bool:
        text = self._tokenizer.decode(self._tokens[start:end])
        return bool(text) and not text.startswith(_REPLACEMENT)

    def push(self, token: int) -> str:
        """Takes one more token; returns the text that is complete now, often empty."""
        if self._tokenizer.is_silent(token):
            return ""  # and it does not end a run of bytes
        self._tokens.append(token)
        if self._tokenizer.is_byte(token):
            return ""
        text = self._tokenizer.decode(self._tokens[self._start :])
        if text.endswith(_REPLACEMENT) or not text.startswith(self._given):
            return ""
        return self._give(text)

    def _give(self, text: str) -> str:
        piece = text[len(self._given) :]
        if piece:
            # The next window starts with the tokens given out now: they have text, and end on a whole character.
            self._start, self._read = self._read, len(self._tokens)
            self._given = self._tokenizer.decode(self._tokens[self._start :])
        return piece

    def finish(self) -> str:
        """The text that is still held back, incomplete characters as U+FFFD."""
        text = self._tokenizer.decode(self._tokens[self._start :])
        if not text.startswith(self._given):  # a prefix that ended inside a character
            return self._tokenizer.decode(self._tokens[self._read :])
        return self._give(text)
