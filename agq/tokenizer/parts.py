"""Parts of a tokenizer.json that is made from another form of a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

SPACE = "\u2581"  # what SentencePiece writes for a space


def bpe(
    ids: Mapping[str, int],
    merges: list[list[str]],
    unk_token: str | None = None,
    fuse_unk: bool = False,
    byte_fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    """A `model` of BPE. ignore_merges: a piece that is a token as it stands is taken as it stands."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk_token,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": fuse_unk,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": dict(ids),
        "merges": merges,
    }


def merges_by_score(pieces: Mapping[str, int], scores: Sequence[Any]) -> list[list[str]]:
    """Merges of a SentencePiece model. It joins the two neighbours whose piece has the best score, so every way to cut
    a piece in two is a merge of its rank (Kudo and Richardson, arXiv 1808.06226).

    pieces: the normal ones, text -> id. scores: by id.
    """
    order = sorted(pieces.items(), key=lambda item: (-float(scores[item[1]]), item[1]))
    return [
        [text[:cut], text[cut:]]
        for text, _ in order
        for cut in range(1, len(text))
        if text[:cut] in pieces and text[cut:] in pieces
    ]


def byte_fallback(ids: Mapping[str, int]) -> bool:
    """Whether a vocabulary has a token for each byte."""
    return all(f"<0x{value:02X}>" in ids for value in range(256))


def byte_level(add_prefix_space: bool, use_regex: bool = True) -> dict[str, Any]:
    """Bytes as printable letters, as pre-tokenizer or decoder."""
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def piece_decoder(prefix: bool) -> dict[str, Any]:
    """The decoder of SentencePiece's pieces; prefix: a space was put in front of the text."""
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": decoders}


def added_token(index: int, text: str, special: bool, rstrip: bool = False) -> dict[str, Any]:
    """A token that is found in a text before anything else."""
    flags = {"single_word": False, "lstrip": False, "rstrip": rstrip, "normalized": False, "special": special}
    return {"id": index, "content": text, **flags}


def post_processor(bos: tuple[str, int] | None, eos: tuple[str, int] | None) -> dict[str, Any] | None:
    """What puts BOS before a text and EOS behind it; None: nothing does. bos, eos: text and id."""
    if bos is None and eos is None:
        return None
    halves: list[list[dict[str, Any]]] = [[], []]
    for kind, (half, name) in enumerate(zip(halves, "AB", strict=True)):
        half += [{"SpecialToken": {"id": bos[0], "type_id": kind}}] if bos is not None else []
        half += [{"Sequence": {"id": name, "type_id": kind}}]
        half += [{"SpecialToken": {"id": eos[0], "type_id": kind}}] if eos is not None else []
    used = dict(item for item in (bos, eos) if item is not None)
    return {
        "type": "TemplateProcessing",
        "single": halves[0],
        "pair": halves[0] + halves[1],
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in used.items()},
    }


def document(
    added: list[dict[str, Any]],
    *,
    normalizer: Any,
    pre_tokenizer: Any,
    post_processor: Any,
    decoder: Any,
    model: dict[str, Any],
) -> str:
    """The text of a tokenizer.json, of its parts as the `tokenizers` library describes them."""
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    }
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
