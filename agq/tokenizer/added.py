"""Tokens that stand beside tokenizer.json, and the names of special tokens, as transformers 5 reads them
(`PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agq.errors import AgqError
from agq.models.folding import fold_names

# Special tokens that every tokenizer may name. Others end in _token too: image_token, boi_token.
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SUFFIX = "_token"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

# A token by its flags, or only its text: then it is special, and the library's defaults hold.
Token = dict[str, Any] | str


class AddedTokens:
    """What tokenizer_config.json, special_tokens_map.json and added_tokens.json say.

    Attributes:
        named: name -> text of the special tokens that have one: those of NAMED, and a model's own ones.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        special_map: Mapping[str, Any],
        added: Mapping[str, Any],
        own: list[dict[str, Any]],
        where: str,
    ):
        """config, special_map, added: the three files, {} for one that is absent. own: tokenizer.json's added tokens.
        where: the model, for messages."""
        self._where = where
        values = dict(config)
        self.numbered: dict[int, dict[str, Any]] = {}
        if "added_tokens_decoder" in config:
            self._read_decoder(config["added_tokens_decoder"])
        else:
            # Older folders: the other two files count only where the newer table is absent.
            values.update(special_map)
            self._read_added(added, values)
            for item in own:
                if isinstance(item, dict) and type(item.get("id")) is int:
                    self.numbered[item["id"]] = {key: item[key] for key in ("content", *_FLAGS) if key in item}
        flags = {token["content"]: token for token in self.numbered.values()}
        tokens = {name: _token(values[name]) for name in self._names(values)}
        extra = values.get("extra_special_tokens") or values.get("additional_special_tokens") or []
        if isinstance(extra, Mapping):
            tokens |= {name: _token(value) for name, value in extra.items()}
        self._named: dict[str, Token] = {
            name: flags.get(_text(token), token) if name in NAMED else token
            for name, token in tokens.items()
            if token is not None
        }
        self._extra = [token for token in map(_token, extra if isinstance(extra, list) else []) if token is not None]
        self.named = {name: _text(token) for name, token in self._named.items()}

    @staticmethod
    def _names(values: Mapping[str, Any]) -> list[str]:
        """Of the keys, those that name a special token, in the order in which transformers adds them."""
        own = [key for key in values if key.endswith(_SUFFIX) and key not in NAMED]
        plain = [key for key in own if isinstance(values[key], str)]
        return [name for name in NAMED if name in values] + [key for key in own if key not in plain] + plain

    def _read_decoder(self, table: Any) -> None:
        try:
            for index, token in dict(table).items():
                self.numbered[int(index)] = {"content": str(token["content"])} | {
                    key: bool(token[key]) for key in _FLAGS if key in token
                }
        except (TypeError, ValueError, KeyError) as error:
            raise AgqError(f"{self._where}: `added_tokens_decoder` of tokenizer_config.json is no table") from error

    def _read_added(self, added: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        special = {_text(token) for token in (_token(values.get(name)) for name in NAMED) if token is not None}
        listed = values.get("extra_special_tokens") or values.get("additional_special_tokens") or []
        special |= {_text(token) for token in map(_token, listed) if token is not None}
        for text, index in added.items():
            if type(index) is not int:
                raise AgqError(f"{self._where}: added_tokens.json gives `{text}` no id")
            known = text in special
            self.numbered[index] = {"content": text, "normalized": not known, "special": known}

    def complete(self, document: bytes) -> bytes:
        """tokenizer.json with the tokens that it lacks; the same bytes where it lacks none.

        Raises:
            AgqError: a token would get another id than the model's files give it; not a tokenizer.
        """
        stored = json.loads(document)
        listed = stored.get("added_tokens") if isinstance(stored, dict) else None
        own = {item.get("content") for item in listed or [] if isinstance(item, dict)}
        wanted: list[Token] = [self.numbered[index] for index in sorted(self.numbered)]
        texts = {_text(token) for token in wanted}
        for token in (*self._named.values(), *self._extra):
            if _text(token) not in texts:
                texts.add(_text(token))
                wanted.append(token)
        wanted = [token for token in wanted if _text(token) and _text(token) not in own]
        if not wanted:
            return document
        return self._add(document, wanted)

    def _add(self, document: bytes, wanted: list[Token]) -> bytes:
        from tokenizers import AddedToken, Tokenizer

        try:
            tokenizer = Tokenizer.from_buffer(document)
        except Exception as error:  # the library raises plain Exception
            raise AgqError(f"{self._where}: tokenizer.json is not a tokenizer: {error}") from None
        named = set(self.named.values())
        tokens = []
        for token in wanted:
            flags = {"special": True} if isinstance(token, str) else {key: token[key] for key in _FLAGS if key in token}
            if _text(token) in named:
                flags["special"] = True
            tokens.append(AddedToken(_text(token), **flags))
        tokenizer.add_tokens(tokens)
        wrong = [
            f"`{token['content']}` ({index}, not {tokenizer.token_to_id(token['content'])})"
            for index, token in sorted(self.numbered.items())
            if token["content"] in {_text(item) for item in wanted} and tokenizer.token_to_id(token["content"]) != index
        ]
        if wrong:
            raise AgqError(
                f"{self._where}: tokenizer.json lacks tokens, and added to it they do not get the ids that the other "
                f"files give them: {fold_names(wrong)}",
                hint="take tokenizer.json from the model's source",
            )
        text: str = tokenizer.to_str()
        return text.encode("utf-8")


def _token(value: Any) -> Token | None:
    """A special token as the files have it: its text, or an object with its flags."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("content"), str):
        return {"content": value["content"], "special": True} | {
            key: bool(value[key]) for key in _FLAGS if key in value and key != "special"
        }
    return None


def _text(token: Token) -> str:
    return token if isinstance(token, str) else str(token["content"])
