"""Text to token ids and back. A thin layer over the `tokenizers` library: no torch, no transformers."""

from collections.abc import Iterable, Sequence
from typing import Any

from agq.errors import AgqError

_REPLACEMENT = "\ufffd"


class Tokenizer:
    """A tokenizer from the bytes of a tokenizer.json.

    Args:
        data: tokenizer.json. vocab: rows of the model's embedding; ids beyond it are refused.
        special: what the artifact knows of special tokens (ArtifactModel.special). Where it has `add_bos_token` or
            `add_eos_token`, `add_bos_token` decides on BOS instead of tokenizer.json, as in transformers.

    Raises:
        AgqError: not a tokenizer that this version of `tokenizers` can read.
    """

    def __init__(self, data: bytes, vocab: int | None = None, special: dict[str, Any] | None = None):
        from tokenizers import Tokenizer as Fast

        try:
            self._fast = Fast.from_buffer(data)
        except Exception as error:  # the library raises bare Exception
            raise AgqError(
                f"the tokenizer cannot be read: {error}", hint="is the `tokenizers` package too old for it?"
            ) from error
        # A stored padding or truncation belongs to training; it would change or cut prompts.
        self._fast.no_padding()
        self._fast.no_truncation()
        self._vocab = vocab
        self._bytes = self._byte_tokens()
        self._special = self.special_ids()
        self.prefix = self._prefix(special or {})

    def _byte_tokens(self) -> frozenset[int]:
        """Ids of byte tokens such as <0xE2>, from which SentencePiece tokenizers put together characters outside
        their vocabulary.
        """
        found = {f"<0x{value:02X}>": self._fast.token_to_id(f"<0x{value:02X}>") for value in range(256)}
        return frozenset(value for value in found.values() if value is not None)

    def _prefix(self, special: dict[str, Any]) -> list[int]:
        """Ids that stand before every text: usually BOS, or nothing."""
        if special.get("add_bos_token") is not None or special.get("add_eos_token") is not None:
            text = special.get("bos_token")
            bos = self._fast.token_to_id(text) if text else None
            bos = special.get("bos_id") if bos is None else bos
            return [bos] if special.get("add_bos_token") and bos is not None else []
        bare = self._fast.encode("a", add_special_tokens=False).ids
        full = self._fast.encode("a", add_special_tokens=True).ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start]
        return []

    @property
    def size(self) -> int:
        """Number of tokens, added ones included."""
        return self._fast.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, add_bos: bool = True) -> list[int]:
        """Token ids of `text`.

        Args:
            add_bos: begin with the special tokens that the model's tokenizer puts there (BOS for LLaMA and OPT, none
                for BLOOM). None are added at the end: the text is there to be continued.

        Raises:
            AgqError: an id that the model has no embedding for, text that is not valid Unicode.
        """
        try:
            ids = self._fast.encode(text, add_special_tokens=False).ids
        except UnicodeEncodeError as error:
            raise AgqError("the text is not valid UTF-8") from error
        if self._vocab is not None and ids and max(ids) >= self._vocab:
            worst = max(ids)
            raise AgqError(
                f"the tokenizer gives id {worst} (`{self._fast.id_to_token(worst)}`), but the model has only "
                f"{self._vocab} tokens",
                hint="tokenizer.json does not belong to this model",
            )
        return self.prefix + ids if add_bos else ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of token ids; special tokens are left out."""
        return self._fast.decode(list(ids), skip_special_tokens=skip_special)

    def token_to_id(self, token: str) -> int | None:
        """Id of a token by its exact text."""
        return self._fast.token_to_id(token)

    def special_ids(self) -> set[int]:
        """Ids of special tokens."""
        table: dict[int, Any] = self._fast.get_added_tokens_decoder()
        return {index for index, token in table.items() if token.special}

    def is_silent(self, token: int) -> bool:
        """Whether the token has no part in a text: a special one, or an id that no token has."""
        return token in self._special or self._fast.id_to_token(token) is None

    def is_byte(self, token: int) -> bool:
        """Whether the token is one byte of a character."""
        return token in self._bytes


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
        self._tokens = [token for token in prefix if not tokenizer.is_silent(token)]
        self._start = 0  # first token of the window that is decoded
        self._read = len(self._tokens)  # tokens before this one have been given out
        if self._tokens:
            self._start = self._clean_start(self._read)
        self._given = tokenizer.decode(self._tokens[self._start : self._read])

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
        return self._give(text) if text.startswith(self._given) else text
