"""Calibration windows of a model: the recipe's text, cut into windows of the model's tokens."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import Any

import numpy as np

from agq.checkpoint import Checkpoint
from agq.errors import AgqError
from agq.recipe import CalibrationSpec
from agq.recipe.files import split_sources
from agq.recipe.options import AUTO_TEXT
from agq.system.memory import available_memory
from agq.text.sources import MIXTURE, RANDOM, WIKITEXT, is_named
from agq.tokenizer.files import chat_template


def fit_text(spec: CalibrationSpec, checkpoint: Checkpoint, given: Container[str]) -> CalibrationSpec:
    """`spec` with the text that fits the model, where the recipe leaves the choice, and windows no longer than its
    context.

    The text of a chat model, one with a chat template, is the mixture, that of others WikiText-2. Random tokens have no
    detached punctuation but where it was asked for, which is an error.

    Args:
        given: names of the options that were asked for.

    Raises:
        AgqError: the length was asked for, and is more than the context.
    """
    spec = settled(spec, chat=has_chat_template(checkpoint))
    if has_random_tokens(spec) and "detached" not in given:
        spec = replace(spec, detached=False)
    context = checkpoint.spec.context
    if spec.seq_len <= context:
        return spec
    if "seq_len" in given:
        raise AgqError(
            f"calibration windows of {spec.seq_len} tokens are longer than the model's context of {context}",
            hint=f"use `seq_len: {context}` or less",
        )
    return replace(spec, seq_len=context)


def settled(spec: CalibrationSpec, chat: bool = False) -> CalibrationSpec:
    """`spec` with a text's name where it leaves the choice. chat: of a chat model."""
    return replace(spec, data=MIXTURE if chat else WIKITEXT) if is_named(spec.data, AUTO_TEXT) else spec


def has_chat_template(checkpoint: Checkpoint) -> bool:
    """Whether a model is a chat model: its files hold a chat template."""
    return chat_template(checkpoint.text, f"`{checkpoint.path}`") is not None


def is_mixture(spec: CalibrationSpec) -> bool:
    """Whether the text is the mixture, alone or with texts beside it."""
    return any(is_named(name, MIXTURE) for name in split_sources(spec.data))


def has_random_tokens(spec: CalibrationSpec) -> bool:
    """Whether the text, or some of it, is random tokens."""
    return any(is_named(name, RANDOM) for name in split_sources(spec.data))


def mixture_of(spec: CalibrationSpec, checkpoint: Checkpoint) -> str | None:
    """The kinds of text and their shares, in words, where the text of a model is the mixture."""
    from agq.text.mixture import describe, kinds_of

    return describe(kinds_of(has_chat_template(checkpoint))) if is_mixture(spec) else None


def calibration_windows(spec: CalibrationSpec, checkpoint: Checkpoint) -> tuple[np.ndarray, dict[str, Any]]:
    """Token windows int64 [samples, seq_len], and the record of them (JSON).

    Raises AgqError: no tokenizer, no such text, text too short, token ids outside the model's vocabulary, more windows
    than memory holds.
    """
    from agq.text.mixture import mixture_windows
    from agq.text.tokenizers import load_tokenizer, read_files
    from agq.text.windows import check_source, token_windows

    needed = 8 * spec.samples * spec.seq_len
    if needed > available_memory():
        raise AgqError(
            f"not enough memory: {spec.samples} windows of {spec.seq_len} tokens take {needed // 10**9} GB",
            hint="use fewer `samples:`",
        )
    tokenizer = load_tokenizer(checkpoint)
    size = (spec.samples, spec.seq_len, spec.seed)
    if is_mixture(spec):
        texts = [name for name in split_sources(spec.data) if not is_named(name, MIXTURE)]
        for name in texts:
            check_source(name, spec.detached)
        windows = mixture_windows(texts, tokenizer, read_files(checkpoint), *size, detached=spec.detached)
    else:
        windows = token_windows(spec.data, tokenizer, *size, detached=spec.detached)
    if int(windows.tokens.max()) >= checkpoint.spec.vocab:
        raise AgqError(
            f"the tokenizer makes token {int(windows.tokens.max())}, "
            f"the model's vocabulary has {checkpoint.spec.vocab} entries",
            hint="the tokenizer belongs to another model",
        )
    return windows.tokens, {"source": spec.data, **windows.to_dict(), "seed": spec.seed, "detached": spec.detached}
