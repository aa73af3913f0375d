"""Token windows for calibration, cut as GPTQ's code cuts them. Torch-free; the same source, seed and tokenizer give the
same windows.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agq.errors import AgqError, UsageError
from agq.recipe.files import split_sources
from agq.text.detached import detach, is_detached
from agq.text.sources import RANDOM, Documents, Text, is_named, load_documents, load_text
from agq.text.tokenizers import TextTokenizer, load_tokenizer

__all__ = [
    "Documents",
    "Text",
    "TextTokenizer",
    "Windows",
    "check_source",
    "load_documents",
    "load_text",
    "load_tokenizer",
    "random_crops",
    "token_windows",
]


@dataclass(frozen=True)
class Windows:
    """Calibration windows.

    Attributes:
        tokens: int64 [samples, seq_len].
        sha256: of the source's bytes ("random-tokens": of the tokens; several sources: of their hex digests in a row).
        tokens_sha256: of the windows themselves (little-endian int64), which fixes tokenizer, seed and sizes too.
        description: source, number and length of windows, tokens to choose from, seed.
        parts: of a mixture, what each kind of text is (JSON types).
    """

    tokens: np.ndarray
    sha256: str
    tokens_sha256: str
    description: str
    parts: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fingerprint that goes into records."""
        samples, seq_len = self.tokens.shape
        return {
            "data": self.description,
            "sha256": self.sha256,
            "tokens_sha256": self.tokens_sha256,
            "samples": samples,
            "seq_len": seq_len,
            **({"parts": list(self.parts)} if self.parts else {}),
        }


def token_windows(
    source: str | os.PathLike[str],
    tokenizer: TextTokenizer,
    samples: int = 128,
    seq_len: int = 2048,
    seed: int = 0,
    text_field: str = "text",
    detached: bool = False,
) -> Windows:
    """Cuts `samples` windows of `seq_len` tokens out of a source.

    - wikitext2 (train split, rows joined by blank lines) and local files: the whole text is tokenized once, BOS as the
      tokenizer adds it; each window begins at `randint(0, tokens - seq_len - 1)` of Python's generator seeded with
      `seed`, as in GPTQ's `get_wikitext2`. Windows may overlap.
    - c4 (first train shard): a document with more than `seq_len` tokens is drawn for each window, then a crop of it, as
      in GPTQ's `get_c4`.
    - several sources, separated by commas: as equal a number of windows of each as `samples` allows, in turn.
    - random-tokens: uniform over the vocabulary without special tokens ("Give Me BF16 or Give Me Death?", arXiv
      2411.02355: enough for W8A8, harmful at 4 bits).

    Args:
        detached: as many windows are of the texts with detached punctuation (agq/text/detached.py), in turn with the
            others; a text that is so already, such as wikitext2, gives all of its windows as it is.

    Raises:
        AgqError: text too short (with the numbers), source unreadable, random-tokens detached.
            UsageError: sizes < 1.
    """
    if samples < 1 or seq_len < 1:
        raise UsageError(
            f"{samples} windows of {seq_len} tokens cannot be cut", hint="`samples:` and `seq_len:` are at least 1"
        )
    names = split_sources(os.fspath(source))
    for name in names:
        check_source(name, detached)
    if samples < len(names):
        raise UsageError(
            f"{samples} windows cannot be cut out of {len(names)} texts",
            hint=f"`samples:` is at least {len(names)} then",
        )
    sources = [_source(name, text_field) for name in names]
    if detached and samples >= 2 * len(names):
        sources += [source.detached() for source in sources if not source.is_detached]
    shares = [len(range(index, samples, len(sources))) for index in range(len(sources))]
    found = [source.windows(tokenizer, share, seq_len, seed) for source, share in zip(sources, shares, strict=True)]
    if len(found) == 1:
        return found[0]
    tokens = np.stack([found[index % len(found)].tokens[index // len(found)] for index in range(samples)])
    sha256 = hashlib.sha256("".join(part.sha256 for part in found).encode()).hexdigest()
    return windows_of(tokens, sha256, "; ".join(part.description for part in found))


@dataclass(frozen=True)
class _Source:
    """What windows are cut from: the documents of C4, any other text, or neither (random tokens). form: what is done to
    the text before it is tokenized."""

    text: Text | None = None
    documents: Documents | None = None
    form: Callable[[str], str] | None = None

    @property
    def is_detached(self) -> bool:
        if self.text is not None:
            return is_detached(self.text.text)
        return self.documents is not None and is_detached("\n".join(self.documents.documents[:64]))

    def detached(self) -> _Source:
        return replace(self, form=detach)

    def windows(self, tokenizer: TextTokenizer, samples: int, seq_len: int, seed: int) -> Windows:
        size, note = f"{samples} x {seq_len}", ", punctuation detached" if self.form else ""
        if self.documents is not None:
            tokens = random_crops(self.documents.documents, tokenizer, samples, seq_len, seed, self.form)
            description = f"{self.documents.label}{note}, {size} tokens, crops of documents, seed {seed}"
            return windows_of(tokens, self.documents.sha256, description)
        if self.text is None:
            return _random_tokens(tokenizer, samples, seq_len, seed)
        ids = tokenizer.encode(self.form(self.text.text) if self.form else self.text.text)
        if len(ids) < seq_len + 1:
            shorter = f" or `seq_len: {len(ids) - 1}` or less" if len(ids) > 1 else ""
            raise AgqError(
                f"{self.text.label} has {len(ids)} tokens; windows of {seq_len} need at least {seq_len + 1}",
                hint=f"use a longer text{shorter}",
            )
        generator = random.Random(seed)
        starts = [generator.randint(0, len(ids) - seq_len - 1) for _ in range(samples)]
        tokens = np.stack([ids[start : start + seq_len] for start in starts])
        description = f"{self.text.label}{note}, {size} of {len(ids)} tokens, random crops, seed {seed}"
        return windows_of(tokens, self.text.sha256, description)


def _source(name: str, text_field: str) -> _Source:
    if is_named(name, RANDOM):
        return _Source()
    if is_named(name, "c4"):
        return _Source(documents=load_documents(name, "train"))
    return _Source(text=load_text(name, "train", text_field))


def check_source(source: str, detached: bool) -> None:
    """Refuses detached random-tokens (AgqError), which have no text."""
    if is_named(source, RANDOM) and detached:
        raise AgqError("random tokens have no punctuation to detach", hint="leave `detached: true` away, or use a text")


def random_crops(
    documents: Sequence[str],
    tokenizer: TextTokenizer,
    samples: int,
    seq_len: int,
    seed: int,
    form: Callable[[str], str] | None = None,
) -> np.ndarray:
    """int64 [samples, seq_len]: crops of randomly drawn documents that have more than seq_len tokens (GPTQ's `get_c4`).
    form: of a document, before it is tokenized.

    Raises:
        AgqError: no such document turns up.
    """
    generator = random.Random(seed)
    windows: list[np.ndarray] = []
    misses, longest, patience = 0, 0, max(2000, 20 * len(documents))
    while len(windows) < samples:
        document = documents[generator.randint(0, len(documents) - 1)]
        ids = tokenizer.encode(form(document) if form else document)
        if len(ids) <= seq_len:
            misses, longest = misses + 1, max(longest, len(ids))
            if misses > patience and not windows:
                raise AgqError(
                    f"no document has more than {seq_len} tokens; the longest that was drawn has {longest}",
                    hint=f"use `seq_len: {longest - 1}` or less",
                )
            continue
        start = generator.randint(0, len(ids) - seq_len - 1)
        windows.append(ids[start : start + seq_len])
    return np.stack(windows)


def _random_tokens(tokenizer: TextTokenizer, samples: int, seq_len: int, seed: int) -> Windows:
    special = tokenizer.special_ids()
    choices = np.array([index for index in range(tokenizer.vocab) if index not in special], dtype=np.int64)
    tokens = np.random.default_rng(seed).choice(choices, size=(samples, seq_len))
    if tokenizer.adds_bos:
        tokens[:, 0] = tokenizer.bos_id
    return windows_of(tokens, _digest(tokens), f"random-tokens, {samples} x {seq_len} tokens, seed {seed}")


def windows_of(tokens: np.ndarray, sha256: str, description: str, parts: tuple[dict[str, Any], ...] = ()) -> Windows:
    """Windows with the hash of their tokens."""
    return Windows(tokens, sha256, _digest(tokens), description, parts)


def _digest(tokens: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(tokens, dtype="<i8").tobytes()).hexdigest()
