"""The tokenizer of a GGUF file, from its metadata to the text of a tokenizer.json: no torch, no transformers.

There are two kinds of vocabulary. Byte-level BPE has merges (`gpt2`). SentencePiece's BPE has pieces with scores, and
unknown characters become bytes (`llama`). The keys are those of the GGUF specification.

The ids are llama.cpp's, with one exception: texts of Qwen models are brought to NFC, as their own tokenizer does.
Against transformers one thing differs: a literal U+2581 in a text is no space in Gemma's runs of spaces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agq.errors import AgqError
from agq.gguf.pretokenizers import DEFAULT, PRE_TOKENIZERS, PreTokenizer
from agq.tokenizer import parts
from agq.tokenizer.files import TURN_ENDS

_PREFIX = "tokenizer.ggml."
# Values of tokenizer.ggml.token_type.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
# Special tokens: their name in tokenizer_config.json and their key in the file.
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # spelt so in the specification
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
# Keys of the tokens that end an answer: of a text, of a turn, of a message.
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Files do not always name the token that ends a turn. TURN_ENDS do, whatever type the file gives them, and these where
# they are control tokens.
_TEXT_ENDS = ("</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<end_of_utterance>", "<｜end▁of▁sentence｜>")
# Phi-3's control tokens take the spaces behind them; the file says nothing of it, only the model's name does.
_STRIPPING = ("phi-3", "phi3")
_NOT_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")


@dataclass(frozen=True)
class FileTokenizer:
    """A GGUF file's tokenizer in the forms that a model folder has.

    Attributes:
        tokenizer: text of tokenizer.json. config: the keys of tokenizer_config.json: the texts of the named special
            tokens, add_bos_token, add_eos_token, and chat_template where there is one.
        bos_id: BOS or None. eos_ids: tokens that end an answer, the end of a turn included, EOS first.
        notes: sentences about what the file does not say or says wrongly.
    """

    tokenizer: str
    config: dict[str, Any]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    notes: tuple[str, ...]


def read_tokenizer(metadata: Mapping[str, Any]) -> FileTokenizer:
    """The tokenizer of a GGUF file.

    Args:
        metadata: the file's keys and values; lists as sequences, texts as str.

    Raises:
        AgqError: a kind of tokenizer that agq cannot rebuild, or a vocabulary that does not hang together.
    """
    return _Reader(metadata).result()


class _Reader:
    def __init__(self, metadata: Mapping[str, Any]):
        self._metadata = metadata
        self._notes: list[str] = []
        self._kind = self._get("model")
        if self._kind not in _KINDS:
            raise AgqError(
                f"the file's tokenizer is of the kind `{self._kind}`; agq knows {' and '.join(_KINDS)}"
                if self._kind is not None
                else "the file has no tokenizer (`tokenizer.ggml.model`)",
                hint="take the model's own folder, with its tokenizer.json",
            )
        self.tokens = self._vocabulary()
        types = self._list("token_type")
        self.types = [int(value) for value in types] if types else [_NORMAL] * len(self.tokens)
        if len(self.types) != len(self.tokens):
            raise AgqError(f"the file has {len(self.tokens)} tokens, but the types of {len(self.types)}")
        self.ids = {text: index for index, text in enumerate(self.tokens)}
        for text in TURN_ENDS:
            if text in self.ids:
                self.types[self.ids[text]] = _CONTROL

    def _get(self, key: str) -> Any:
        return self._metadata.get(_PREFIX + key)

    def _list(self, key: str) -> Sequence[Any]:
        value = self._get(key)
        return [] if value is None else value

    def _vocabulary(self) -> list[str]:
        tokens = [str(text) or f"[EMPTY_{index}]" for index, text in enumerate(self._list("tokens"))]
        if not tokens:
            raise AgqError("the file has no vocabulary (`tokenizer.ggml.tokens`)")
        if len(set(tokens)) != len(tokens):
            twice = next(text for text, count in Counter(tokens).items() if count > 1)
            raise AgqError(f"the file's vocabulary holds the token {twice!r} twice")
        return tokens

    def id(self, key: str) -> int | None:
        """A special token's id, or None: absent or outside the vocabulary."""
        value = self._get(key)
        if value is None:
            return None
        if not 0 <= int(value) < len(self.tokens):
            self._notes.append(f"`{_PREFIX}{key}` is {value}, outside the vocabulary: left out")
            return None
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """A yes or no of the file."""
        value = self._get(key)
        return default if value is None else bool(value)

    def result(self) -> FileTokenizer:
        """Everything."""
        made, defaults_to_bos, prefix_space = _KINDS[str(self._kind)](self)
        ids = {name: self.id(key) for name, key in _NAMED.items()}
        config: dict[str, Any] = {name: self.tokens[index] for name, index in ids.items() if index is not None}
        config["add_bos_token"] = self.flag("add_bos_token", defaults_to_bos) and ids["bos_token"] is not None
        config["add_eos_token"] = self.flag("add_eos_token", False) and ids["eos_token"] is not None
        config["add_prefix_space"] = prefix_space
        template = self._metadata.get("tokenizer.chat_template")
        if isinstance(template, str):
            config["chat_template"] = template
        ends = [
            (self.tokens[index], index) if config[flag] and index is not None else None
            for flag, index in (("add_bos_token", ids["bos_token"]), ("add_eos_token", ids["eos_token"]))
        ]
        text = parts.document(self._added(), **made, post_processor=parts.post_processor(ends[0], ends[1]))
        return FileTokenizer(text, config, ids["bos_token"], self._ends(), tuple(self._notes))

    def _ends(self) -> tuple[int, ...]:
        found = [index for index in map(self.id, _ENDS) if index is not None]
        named = [text for text in (*TURN_ENDS, *_TEXT_ENDS) if text in self.ids]
        found += [self.ids[text] for text in named if self.types[self.ids[text]] == _CONTROL]
        return tuple(dict.fromkeys(found))

    def _added(self) -> list[dict[str, Any]]:
        """The tokens that are found in a text before anything else: control tokens, and those the user defined."""
        name = str(self._metadata.get("general.name", "")).lower()
        stripping = any(word in name for word in _STRIPPING)
        return [
            parts.added_token(
                index,
                self.tokens[index],
                special=kind != _USER_DEFINED,
                rstrip=stripping and self.tokens[index] not in _NOT_STRIPPING,
            )
            for index, kind in enumerate(self.types)
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ]

    # ---- the two kinds: parts of tokenizer.json, whether BOS is added by default, whether a space is put in front

    def byte_level(self) -> tuple[dict[str, Any], bool, bool]:
        """`gpt2`."""
        pre = self._pre_tokenizer()
        ids, merges = self.ids, []
        for merge in map(str, self._list("merges")):
            # The left side may itself begin with a space.
            space = merge.find(" ", 1)
            left, right = (merge[:space], merge[space + 1 :]) if space > 0 else (merge, "")
            if left in ids and right in ids and left + right in ids:
                merges.append([left, right])
        if not merges:
            raise AgqError("the file's tokenizer has no merges (`tokenizer.ggml.merges`)")
        made = {
            "normalizer": pre.normalizer(),
            "pre_tokenizer": pre.steps(),
            "decoder": parts.byte_level(True),
            "model": parts.bpe(self.ids, merges, ignore_merges=pre.whole),
        }
        return made, pre.bos, False

    def _pre_tokenizer(self) -> PreTokenizer:
        name = self._get("pre")
        if name is None:
            self._notes.append("the file does not say how its tokenizer cuts texts (`tokenizer.ggml.pre`): the default")
            name = DEFAULT
        if name not in PRE_TOKENIZERS:
            raise AgqError(
                f"the file's tokenizer cuts texts in a way that agq does not know (`tokenizer.ggml.pre` is `{name}`)",
                hint="take the model's own folder, with its tokenizer.json",
            )
        return PRE_TOKENIZERS[name]

    def sentence_piece(self) -> tuple[dict[str, Any], bool, bool]:
        """`llama`."""
        scores = self._list("scores")
        if len(scores) != len(self.tokens):
            raise AgqError(f"the file has {len(self.tokens)} tokens, but the scores of {len(scores)}")
        space = self.flag("add_space_prefix", True)
        escape = {"type": "Replace", "pattern": {"String": " "}, "content": parts.SPACE}
        steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": parts.SPACE}, escape] if space else [escape]
        unknown = self.id("unknown_token_id")
        if unknown is None and _UNKNOWN in self.types:
            unknown = self.types.index(_UNKNOWN)
        pieces = {text: index for text, index in self.ids.items() if self.types[index] == _NORMAL}
        made = {
            "normalizer": {"type": "Sequence", "normalizers": steps},
            "pre_tokenizer": None,
            "decoder": parts.piece_decoder(space),
            "model": parts.bpe(
                self.ids,
                parts.merges_by_score(pieces, scores),
                unk_token=None if unknown is None else self.tokens[unknown],
                fuse_unk=True,
                byte_fallback=parts.byte_fallback(self.ids),
            ),
        }
        return made, True, space


_KINDS = {"gpt2": _Reader.byte_level, "llama": _Reader.sentence_piece}
