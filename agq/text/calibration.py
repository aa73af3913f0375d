"""Calibration windows of a model: the recipe's text, cut into windows of the model's tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from agq.checkpoint import Checkpoint
from agq.errors import AgqError
from agq.recipe import CalibrationSpec, Scheme


def fit_seq_len(spec: CalibrationSpec, checkpoint: Checkpoint, explicit: bool) -> CalibrationSpec:
    """`spec` with windows no longer than the model's context.

    Raises AgqError instead of cutting them when the length was asked for (`explicit`).
    """
    context = checkpoint.spec.context
    if spec.seq_len <= context:
        return spec
    if explicit:
        raise AgqError(
            f"calibration windows of {spec.seq_len} tokens are longer than the model's context of {context}",
            hint=f"use `seq_len: {context}` or less",
        )
    return replace(spec, seq_len=context)


def calibration_windows(
    spec: CalibrationSpec, checkpoint: Checkpoint, scheme: Scheme | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Token windows int64 [samples, seq_len], and the record of them (JSON). scheme: what they calibrate, for a check.

    Raises AgqError: no tokenizer, no such text, text too short, token ids outside the model's vocabulary.
    """
    from agq.text.windows import load_tokenizer, token_windows

    windows = token_windows(
        spec.data,
        load_tokenizer(checkpoint),
        spec.samples,
        spec.seq_len,
        spec.seed,
        scheme=scheme,
        detached=spec.detached,
    )
    if int(windows.tokens.max()) >= checkpoint.spec.vocab:
        raise AgqError(
            f"the tokenizer makes token {int(windows.tokens.max())}, "
            f"the model's vocabulary has {checkpoint.spec.vocab} entries",
            hint="the tokenizer belongs to another model",
        )
    return windows.tokens, {"source": spec.data, **windows.to_dict(), "seed": spec.seed, "detached": spec.detached}
