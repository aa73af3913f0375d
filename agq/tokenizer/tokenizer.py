"""Text to token ids and back. A thin layer over the `tokenizers` library: no torch, no transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agq.errors import AgqError

_LONG = 100_000  # letters: to encode fewer takes no time that anybody notices
_SHORTENED = 4  # a normalizer does not shorten a text more than that


class Tokenizer:
    """A tokenizer from the bytes of a tokenizer.json that is complete (agq/tokenizer/files.py).

    What its post-processor puts around a text counts, as in transformers 5. The settings add_bos_token and
    add_eos_token of tokenizer_config.json do not.

    Args:
        data: tokenizer.json. vocab: rows of the model's embedding; ids beyond it are refused.
        special: texts of special tokens by their names (bos_token, eos_token), and the ids `bos_id` and `eos_ids` that
            count where those name no token: ArtifactModel.special.
        where: the tokenizer, for messages.

    Attributes:
        prefix, suffix: ids that the tokenizer itself puts around a text. bos_id, eos_id: ids or None.

    Raises:
        AgqError: not a tokenizer that this version of `tokenizers` can read.
    """

    def __init__(
        self,
        data: bytes,
        vocab: int | None = None,
        special: Mapping[str, Any] | None = None,
        where: str = "the tokenizer",
    ):
        from tokenizers import Tokenizer as Fast

        try:
            self._fast = Fast.from_buffer(data)
        except Exception as error:  # the library raises bare Exception
            raise AgqError(
                f"{where} cannot be read: {error}", hint="is the `tokenizers` package too old for it?"
            ) from None
        # A stored padding or truncation belongs to training; it would change or cut prompts.
        self._fast.no_padding()
        self._fast.no_truncation()
        self._vocab = vocab
        self._bytes = self._byte_tokens()
        self._special = self.special_ids()
        self.prefix, self.suffix = self._template()
        special = special or {}
        self.bos_id = self._named(special.get("bos_token"), special.get("bos_id"))
        self.eos_id = self._named(special.get("eos_token"), next(iter(special.get("eos_ids") or ()), None))

    def _byte_tokens(self) -> frozenset[int]:
        """Ids of byte tokens such as <0xE2>, from which SentencePiece tokenizers put together characters outside
        their vocabulary.
        """
        found = {f"<0x{value:02X}>": self._fast.token_to_id(f"<0x{value:02X}>") for value in range(256)}
        return frozenset(value for value in found.values() if value is not None)

    def _template(self) -> tuple[list[int], list[int]]:
        """What the post-processor puts before and after a text."""
        bare = self._fast.encode("a", add_special_tokens=False).ids
        full = self._fast.encode("a", add_special_tokens=True).ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        return [], []

    def _named(self, text: str | None, default: int | None) -> int | None:
        found = self._fast.token_to_id(text) if text else None
        return default if found is None else found

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
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise AgqError("the text is not valid UTF-8 text") from error
        ids: list[int] = self._fast.encode(text, add_special_tokens=False).ids
        if self._vocab is not None and ids and max(ids) >= self._vocab:
            worst = max(ids)
            raise AgqError(
                f"the tokenizer gives id {worst} (`{self._fast.id_to_token(worst)}`), but the model has only "
                f"{self._vocab} tokens",
                hint="tokenizer.json does not belong to this model",
            )
        return self.prefix + ids if add_bos else ids

    def least(self, text: str) -> int:
        """At least so many tokens a long text has, by its length and that of the longest token: who cannot take them
        need not encode it, which takes a second for a million letters. 0 for other texts."""
        if len(text) < _LONG:
            return 0
        return len(text) // (_SHORTENED * max(map(len, self._fast.get_vocab(with_added_tokens=True))))

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
