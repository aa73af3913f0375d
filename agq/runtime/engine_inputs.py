"""What an engine is given: its sizes, and the tokens of a call, checked before C sees them."""

from collections.abc import Sequence

import numpy as np

from agq.artifact.reader import Artifact
from agq.errors import AgqError, UsageError
from agq.formats import KV_CACHE
from agq.formats.cache import LOG2_CACHE

CHUNK = 256  # tokens given to C at once: Ctrl-C is heard between two chunks
_MOST = (1 << 31) - 1  # of an int32_t in agq_options


def check_sizes(
    artifact: Artifact, kv_bits: int, threads: int | None, context: int, slots: int, batch: int | None
) -> None:
    """UsageError for numbers that no engine of this artifact can have."""
    if artifact.info.attention == "log2" and kv_bits != LOG2_CACHE.bits:
        raise UsageError(
            f"the artifact's integer attention keeps {LOG2_CACHE.bits}-bit keys and values, not {kv_bits}-bit ones",
            hint="leave out the KV cache's bits",
        )
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot compute anything", hint="1 is the least")
    if context < 1 or slots < 1 or (batch is not None and batch < 1):
        raise UsageError("context, slots and batch must be at least 1")
    for name, value in (("context", context), ("slots", slots), ("batch", batch or 1)):
        if value > _MOST:
            raise UsageError(
                f"{name} is {value}, more than the {_MOST} that the kernels can count",
                hint=f"the model was made for a context of {artifact.spec.context}",
            )
    if artifact.spec.position == "learned" and context > artifact.spec.context:
        raise UsageError(
            f"a context of {context} is more than the {artifact.spec.context} positions that the model has learned",
            hint=f"use at most {artifact.spec.context}",
        )
    KV_CACHE.check(kv_bits, UsageError)


def token_ids(tokens: Sequence[int] | np.ndarray, vocab: int) -> np.ndarray:
    """Ids as int32 [n]. AgqError for none, for what is not a list of integers, and for ids outside 0..vocab-1."""
    ids = np.asarray(tokens)
    if ids.ndim != 1 or ids.size == 0:
        raise AgqError("no tokens to compute" if ids.size == 0 else "tokens must be a one-dimensional list")
    if not np.issubdtype(ids.dtype, np.integer):
        raise AgqError("tokens must be integers")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab:
        raise AgqError(
            f"token id {low if low < 0 else high} is outside 0..{vocab - 1}",
            hint="does the tokenizer belong to this model?",
        )
    return np.ascontiguousarray(ids, np.int32)


def slot_numbers(slot: int | Sequence[int] | np.ndarray, n: int, count: int) -> np.ndarray:
    """The slot of each token, int32 [n], of an engine of `count` slots. AgqError where tokens of a slot are apart."""
    slots = np.full(n, slot, np.int64) if np.ndim(slot) == 0 else np.asarray(slot)
    if slots.shape != (n,) or slots.min() < 0 or slots.max() >= count:
        raise AgqError(f"slots must be {n} numbers from 0 to {count - 1}")
    starts = slots[np.flatnonzero(np.diff(slots, prepend=-1))].tolist()
    if len(set(starts)) != len(starts):
        raise AgqError("the tokens of a slot must stand together")
    return np.ascontiguousarray(slots, np.int32)


def wanted(logits: str | Sequence[bool] | np.ndarray, n: int) -> np.ndarray:
    """uint8 [n]: which tokens' logits are asked for."""
    want = np.zeros(n, np.uint8)
    if isinstance(logits, str):
        if logits not in ("last", "all", "none"):
            raise AgqError(f"logits must be last, all, none or a mask, not `{logits}`")
        want[{"last": slice(n - 1, n), "all": slice(None), "none": slice(0)}[logits]] = 1
        return want
    mask = np.asarray(logits)
    if mask.shape != (n,):
        raise AgqError(f"the mask of logits has shape {mask.shape}, not ({n},)")
    want[mask.astype(bool)] = 1
    return want
