"""Models and tokenizers for the tests of the runtime, made on the fly."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np


def sentencepiece_like(words: int = 40) -> Any:
    """A tokenizer built as LLaMA's: spaces as U+2581, byte fallback, BOS by post-processor."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{value:02X}>": value + 3 for value in range(256)}
    for piece in ["▁", "a", "b", "e", "é", "l", "o", "h", "▁h", "he", "ll", "▁hell", "▁b", "你", "▁▁", "�", ".", "▁."]:
        vocab.setdefault(piece, len(vocab))
    merges = [("▁", "h"), ("h", "e"), ("l", "l"), ("▁", "b"), ("▁", "▁"), ("▁", ".")]
    fast = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    return fast


@lru_cache
def byte_level() -> Any:
    """A tokenizer built as GPT-2's (OPT, BLOOM): bytes as printable characters."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("h", "e"), ("l", "l"), ("Ġ", "h"), ("Ã", "©"), ("ä", "½")]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    fast = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken("</s>", special=True)])
    return fast


def metaspace() -> Any:
    """A tokenizer with a Metaspace decoder, as newer conversions of SentencePiece models have."""
    fast = sentencepiece_like()
    from tokenizers import decoders, normalizers, pre_tokenizers

    fast.normalizer = normalizers.Sequence([])
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False)])
    return fast


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def save_with_tokenizer(model: Any, folder: Path, fast: Any | None = None) -> Path:
    """A transformers model as a folder that `agq pack` takes."""
    model.save_pretrained(folder)
    (fast or sentencepiece_like()).save(str(folder / "tokenizer.json"))
    return folder
