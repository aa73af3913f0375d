"""The mixture: calibration text of the kinds that a chat model reads and writes.

A model that is calibrated on an encyclopaedia alone loses more on prose, code, other languages and in conversations.
The mixture deals windows to these kinds by fixed shares; no window holds two kinds. Encyclopaedia is the text that is
named beside the mixture, else WikiText-2. The other kinds are the project's own texts in `agq/text/own/`, the same
bytes on every machine. A model without a chat template gets no conversations.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from agq.errors import AgqError
from agq.reporting import console
from agq.text.sources import WIKITEXT, Unavailable, load_text
from agq.text.tokenizers import TextTokenizer
from agq.text.windows import Windows, token_windows, windows_of
from agq.tokenizer.chat_template import render
from agq.tokenizer.files import TokenizerFiles

_OWN = Path(__file__).parent / "own"
# Templates that write the date of today would make other windows every day.
_TODAY = datetime(2025, 1, 1)
# Cuts a number of windows.
_Cut = Callable[[int], Windows]


@dataclass(frozen=True)
class Kind:
    """A kind of text. share: of the windows, in percent. file: in `own/`; None: the text that is named."""

    name: str
    share: int
    file: str | None = None


_ENCYCLOPAEDIA = Kind("encyclopaedia", 40)
_CONVERSATIONS = Kind("conversations", 25, "conversations.jsonl")
KINDS = (
    _ENCYCLOPAEDIA,
    _CONVERSATIONS,
    Kind("prose", 15, "prose.txt"),
    Kind("code", 10, "code.txt"),
    Kind("other languages", 10, "languages.txt"),
)


def describe(kinds: Sequence[Kind]) -> str:
    """The kinds with their shares, for people."""
    total = sum(kind.share for kind in kinds)
    return ", ".join(f"{kind.name} {100 * kind.share / total:.0f} %" for kind in kinds)


def kinds_of(chat: bool) -> tuple[Kind, ...]:
    """The kinds of a model's mixture. chat: it has a chat template."""
    return tuple(kind for kind in KINDS if chat or kind is not _CONVERSATIONS)


def deal(samples: int, shares: Sequence[int]) -> list[int]:
    """For each window the index of its share: always the one that is furthest behind, the first of several. So every
    beginning has nearly the shares of the whole."""
    total, counts, order = sum(shares), [0] * len(shares), []
    for done in range(1, samples + 1):
        behind = [done * share - total * count for share, count in zip(shares, counts, strict=True)]
        index = behind.index(max(behind))
        counts[index] += 1
        order.append(index)
    return order


def mixture_windows(
    texts: Sequence[str],
    tokenizer: TextTokenizer,
    files: TokenizerFiles,
    samples: int,
    seq_len: int,
    seed: int,
    detached: bool = False,
) -> Windows:
    """`samples` windows of `seq_len` tokens, dealt to the kinds.

    Args:
        texts: sources of the encyclopaedia, as of `token_windows`; empty: WikiText-2. files: the model's, for its chat
            template. detached: of the encyclopaedia, as of `token_windows`.

    A kind that cannot be had is left out, with a warning: WikiText-2 without a network, conversations where the
    template refuses them, an own text that is shorter than a window. Raises AgqError: a text that is named and
    unreadable, or too short for a window.
    """
    cuts: dict[Kind, _Cut] = {}
    for kind in kinds_of(files.template is not None):
        try:
            cuts[kind] = _cut(kind, texts, tokenizer, files, seq_len, seed, detached)
        except Unavailable as error:
            console.warning(f"calibration text has no {kind.name}: {error.message}")
    kinds = list(cuts)
    order = deal(samples, [kind.share for kind in kinds])
    found = {index: cuts[kinds[index]](order.count(index)) for index in dict.fromkeys(order)}
    rows = {index: iter(windows.tokens) for index, windows in found.items()}
    tokens = np.stack([next(rows[index]) for index in order])
    parts = [
        {
            "kind": kinds[index].name,
            "share": kinds[index].share,
            "samples": len(windows.tokens),
            "data": windows.description,
            "sha256": windows.sha256,
        }
        for index, windows in sorted(found.items())
    ]
    sha256 = hashlib.sha256("".join(str(part["sha256"]) for part in parts).encode()).hexdigest()
    return windows_of(tokens, sha256, f"mixture of {describe(kinds)}, seed {seed}", tuple(parts))


def _cut(
    kind: Kind,
    texts: Sequence[str],
    tokenizer: TextTokenizer,
    files: TokenizerFiles,
    seq_len: int,
    seed: int,
    detached: bool,
) -> _Cut:
    """What cuts windows of a kind. Raises Unavailable."""
    if kind is _CONVERSATIONS:
        ids = conversation_ids(tokenizer, files)
        return lambda samples: conversation_windows(ids, samples, seq_len, seed)
    if kind is _ENCYCLOPAEDIA:
        if not texts:
            load_text(WIKITEXT)
        source, apart = ",".join(texts or (WIKITEXT,)), detached
    else:
        source, apart = str(_OWN / (kind.file or "")), False
        if (count := len(tokenizer.encode(Path(source).read_text(encoding="utf-8")))) <= seq_len:
            raise Unavailable(f"{kind.file} has {count} tokens, a window {seq_len}")
    return lambda samples: token_windows(source, tokenizer, samples, seq_len, seed, detached=apart)


def own_conversations() -> tuple[list[list[dict[str, str]]], str]:
    """The project's own conversations (lists of messages, user and assistant in turn) and the file's SHA-256."""
    data = (_OWN / (_CONVERSATIONS.file or "")).read_bytes()
    talks = [json.loads(line)["messages"] for line in data.decode("utf-8").splitlines()]
    return talks, hashlib.sha256(data).hexdigest()


def conversation_ids(tokenizer: TextTokenizer, files: TokenizerFiles) -> list[np.ndarray]:
    """Token ids int64 [n] of each own conversation, as the model's chat template writes it.

    Raises Unavailable: the template refuses them.
    """
    values = {**files.named, "strftime_now": _TODAY.strftime}
    found = []
    for talk in own_conversations()[0]:
        try:
            text = render(files.template or "", talk, values, add_generation_prompt=False)
        except AgqError as error:
            raise Unavailable(error.message) from None
        # The template writes BOS where the model wants one.
        found.append(tokenizer.encode(text, add_bos=False))
    if not all(len(ids) for ids in found):
        raise Unavailable("the chat template writes nothing for them")
    return found


def conversation_windows(conversations: Sequence[np.ndarray], samples: int, seq_len: int, seed: int) -> Windows:
    """Windows of conversations in a row; each begins where one begins. After the last one follows the first."""
    starts = np.cumsum([0, *(len(ids) for ids in conversations[:-1])])
    row = np.concatenate(conversations)
    generator = random.Random(seed)
    chosen = [int(starts[generator.randrange(len(starts))]) for _ in range(samples)]
    tokens = np.stack([row[np.arange(start, start + seq_len) % len(row)] for start in chosen])
    label = (
        f"{len(conversations)} conversations by the model's chat template, {samples} x {seq_len} of {len(row)} tokens"
    )
    return windows_of(tokens, own_conversations()[1], f"{label}, each from a beginning, seed {seed}")
