"""Older folders have no tokenizer.json: the vocabulary and merges of GPT-2's kind (OPT), or SentencePiece's
tokenizer.model (LLaMA). Both become one here, as transformers 5 converts them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agq.errors import AgqError
from agq.safetensors.files import load_json
from agq.tokenizer import parts

_MAKE = "make one with transformers: `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`"
_MAKE_PIECES = f"{_MAKE}; it needs `pip install sentencepiece protobuf`"
# Classes of vocab.json with merges.txt that cut texts as GPT-2 does; None: config.json's family decides, as OPT.
_GPT2 = (None, "GPT2Tokenizer", "PreTrainedTokenizer", "TokenizersBackend")
_GPT2_NAMED = "<|endoftext|>"
# Types of SentencePiece's pieces (sentencepiece_model.proto).
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_BPE = 2  # TrainerSpec.model_type


def convert(texts: Callable[[str], bytes | None], config: Mapping[str, Any], where: str) -> bytes:
    """tokenizer.json of a model that has none.

    Args:
        texts: the model's files. config: tokenizer_config.json. where: the model, for messages.

    Raises:
        AgqError: no tokenizer at all, or one that only its own code reads.
    """
    vocab, merges = texts("vocab.json"), texts("merges.txt")
    kind = config.get("tokenizer_class")
    kind = kind.removesuffix("Fast") if isinstance(kind, str) else None
    if vocab is not None and merges is not None and kind in _GPT2:
        return _gpt2(vocab, merges, config, where).encode("utf-8")
    model = texts("tokenizer.model")
    if model is not None:
        return _sentence_piece(model, config, where).encode("utf-8")
    raise AgqError(f"{where} has no tokenizer.json", hint=_MAKE)


def _named(config: Mapping[str, Any], name: str, default: str) -> str:
    value = config.get(name, default)
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else default


def _post_processor(config: Mapping[str, Any], ids: Mapping[str, int], bos: str, eos: str, default: bool) -> Any:
    """BOS and EOS by the settings of tokenizer_config.json. default: whether BOS is added where they are silent."""
    first = (bos, ids[bos]) if config.get("add_bos_token", default) and bos in ids else None
    last = (eos, ids[eos]) if config.get("add_eos_token", False) and eos in ids else None
    return parts.post_processor(first, last)


def _gpt2(vocab: bytes, merges: bytes, config: Mapping[str, Any], where: str) -> str:
    ids = load_json(vocab, f"`vocab.json` of {where}")
    if not isinstance(ids, dict) or any(type(index) is not int for index in ids.values()):
        raise AgqError(f"`vocab.json` of {where} is no table of tokens and ids")
    try:
        lines = merges.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise AgqError(f"`merges.txt` of {where} is not UTF-8 text") from error
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    if any(len(pair) != 2 or "".join(pair) not in ids for pair in pairs):
        raise AgqError(f"`merges.txt` of {where} does not belong to its vocab.json")
    bos, eos = (_named(config, name, _GPT2_NAMED) for name in ("bos_token", "eos_token"))
    special = dict.fromkeys([_named(config, "unk_token", _GPT2_NAMED), bos, eos])
    return parts.document(
        [parts.added_token(ids[text], text, special=True) for text in special if text in ids],
        normalizer=None,
        pre_tokenizer=parts.byte_level(bool(config.get("add_prefix_space", False))),
        post_processor=_post_processor(config, ids, bos, eos, default=False),
        decoder=parts.byte_level(True),
        model=parts.bpe(ids, pairs),
    )


def _sentence_piece(model: bytes, config: Mapping[str, Any], where: str) -> str:
    try:
        pieces, kind, charsmap = _read_model(model)
    except (ValueError, IndexError, struct.error) as error:
        raise AgqError(f"`tokenizer.model` of {where} is no SentencePiece model", hint=_MAKE_PIECES) from error
    if kind != _BPE or charsmap or not pieces:
        raise AgqError(f"`tokenizer.model` of {where} is no model of byte pair encoding", hint=_MAKE_PIECES)
    ids = {text: index for index, (text, _, _) in enumerate(pieces)}
    if len(ids) != len(pieces):
        raise AgqError(f"`tokenizer.model` of {where} holds a piece twice", hint=_MAKE_PIECES)
    normal = {text: index for index, (text, _, type) in enumerate(pieces) if type == _NORMAL}
    unknown = next((text for text, _, type in pieces if type == _UNKNOWN), None)
    bos, eos = _named(config, "bos_token", "<s>"), _named(config, "eos_token", "</s>")
    prefix = config.get("add_prefix_space") is not False
    scheme = ("always" if config.get("legacy") else "first") if prefix else "never"
    return parts.document(
        [
            parts.added_token(index, text, special=type != _USER_DEFINED)
            for index, (text, _, type) in enumerate(pieces)
            if type in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ],
        normalizer=None,
        pre_tokenizer={"type": "Metaspace", "replacement": parts.SPACE, "prepend_scheme": scheme, "split": False},
        post_processor=_post_processor(config, ids, bos, eos, default=True),
        decoder=parts.piece_decoder(prefix),
        model=parts.bpe(
            ids,
            parts.merges_by_score(normal, [score for _, score, _ in pieces]),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=parts.byte_fallback(ids),
        ),
    )


def _read_model(data: bytes) -> tuple[list[tuple[str, float, int]], int, bytes]:
    """(pieces as text, score and type; the algorithm; the table of normalized characters) of a ModelProto."""
    pieces, kind, charsmap = [], 1, b""
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
            pieces.append((piece[1].decode("utf-8"), score, piece.get(3, _NORMAL)))
        elif number == 2:
            kind = dict(_fields(value)).get(3, kind)
        elif number == 3:
            charsmap = dict(_fields(value)).get(2, charsmap)
    return pieces, kind, charsmap


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffers message: number and value (int, or bytes).
    Format: protobuf.dev/programming-guides/encoding.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("a field is cut off")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
