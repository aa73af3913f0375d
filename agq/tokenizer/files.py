"""What a model's files say of its tokenizer: one tokenizer.json that is complete, and facts about special tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agq.errors import AgqError
from agq.safetensors.files import load_json
from agq.tokenizer.added import AddedTokens
from agq.tokenizer.native import convert

# A file of the model by its name in a Hugging Face folder; None: there is none.
Texts = Callable[[str], bytes | None]

# The settings of tokenizer_config.json that packed files note. transformers 5 and agq leave the decision to
# tokenizer.json's post-processor wherever there is a tokenizer.json.
FLAGS = ("add_bos_token", "add_eos_token")
# Texts that end a turn: such a token ends an answer where the chat template writes it.
TURN_ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
)


def folder_texts(folder: Path) -> Texts:
    """The files of a folder."""

    def text(name: str) -> bytes | None:
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AgqError(f"cannot read `{folder / name}`: {error.strerror or error}") from error

    return text


@dataclass(frozen=True)
class TokenizerFiles:
    """Attributes:
    document: tokenizer.json: as the model has it, else with the tokens that stand in other files only.
    named: name -> text of the special tokens (bos_token, image_token).
    flags: add_bos_token and add_eos_token, None where the files are silent.
    template: the chat template or None.
    """

    document: bytes
    named: dict[str, str]
    flags: dict[str, bool | None]
    template: str | None

    @cached_property
    def _ids(self) -> dict[str, int]:
        stored = json.loads(self.document)
        vocab = stored.get("model", {}).get("vocab", {})
        ids = dict(vocab) if isinstance(vocab, dict) else {item[0]: index for index, item in enumerate(vocab)}
        return ids | {item["content"]: item["id"] for item in stored.get("added_tokens") or []}

    def id(self, text: str | None) -> int | None:
        """Id of a token by its text."""
        return None if text is None else self._ids.get(text)

    def ends(self, stated: tuple[int, ...]) -> tuple[int, ...]:
        """Tokens that end an answer: those of generation_config.json or config.json, the tokenizer's EOS, and the end
        of a turn that the chat template writes."""
        texts = [text for text in TURN_ENDS if self.template is not None and text in self.template]
        found = [self.id(text) for text in (self.named.get("eos_token"), *texts)]
        return tuple(dict.fromkeys([*stated, *(index for index in found if index is not None)]))


def read_object(texts: Texts, name: str, where: str) -> dict[str, Any]:
    """A JSON file of the model; {} where there is none."""
    data = texts(name)
    if data is None:
        return {}
    value = load_json(data, f"`{name}` of {where}")
    if not isinstance(value, dict):
        raise AgqError(f"`{name}` of {where} is not a JSON object")
    return value


def _is_tokenizer(stored: Any) -> bool:
    """Whether a JSON value has the parts of a tokenizer.json that are read here."""
    model = stored.get("model", {}) if isinstance(stored, dict) else None
    vocab = model.get("vocab", {}) if isinstance(model, dict) else None
    if not isinstance(vocab, dict) and not (
        isinstance(vocab, list) and all(isinstance(item, list) and item for item in vocab)
    ):
        return False
    added = stored.get("added_tokens") or []
    return isinstance(added, list) and all(
        isinstance(item, dict) and isinstance(item.get("content"), str) and type(item.get("id")) is int
        for item in added
    )


def read_tokenizer_files(texts: Texts, where: str, other: Callable[[], bytes | None] | None = None) -> TokenizerFiles:
    """Reads tokenizer.json and what stands beside it.

    Args:
        texts: the model's files. where: the model, for messages.
        other: gives a tokenizer.json where the model has none and agq cannot make one itself.

    Raises:
        AgqError: no tokenizer (with a hint how to make one), or files that are not what they should be.
    """
    config = read_object(texts, "tokenizer_config.json", where)
    document = texts("tokenizer.json")
    if document is None:
        document = _convert(texts, config, where, other)
    stored = load_json(document, f"`tokenizer.json` of {where}")
    if not _is_tokenizer(stored):
        raise AgqError(
            f"`tokenizer.json` of {where} is not a tokenizer", hint="download the file again, or copy it from the model"
        )
    added = AddedTokens(
        config,
        read_object(texts, "special_tokens_map.json", where),
        read_object(texts, "added_tokens.json", where),
        stored.get("added_tokens") or [],
        where,
    )
    flags = {name: config[name] if isinstance(config.get(name), bool) else None for name in FLAGS}
    return TokenizerFiles(added.complete(document), added.named, flags, chat_template(texts, where))


def _convert(texts: Texts, config: dict[str, Any], where: str, other: Callable[[], bytes | None] | None) -> bytes:
    try:
        return convert(texts, config, where)
    except AgqError:
        made = other() if other is not None else None
        if made is None:
            raise
        return made


def chat_template(texts: Texts, where: str) -> str | None:
    """chat_template.jinja, else chat_template.json, else tokenizer_config.json; of several named ones `default`."""
    data = texts("chat_template.jinja")
    if data is not None:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise AgqError(f"`chat_template.jinja` of {where} is not UTF-8 text") from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        value = read_object(texts, name, where).get("chat_template")
        if isinstance(value, list):
            named = {str(item.get("name")): item.get("template") for item in value if isinstance(item, dict)}
            value = named.get("default", next(iter(named.values()), None))
        if isinstance(value, str):
            return value
    return None
