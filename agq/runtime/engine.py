"""The engine: a packed artifact, a KV cache, and one C call per batch of tokens."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agq.artifact.reader import Artifact, open_artifact
from agq.errors import AgqError, UsageError
from agq.formats import KV_CACHE
from agq.formats.cache import LOG2_CACHE
from agq.models.folding import fold_names
from agq.native.library import Library, load_library, text
from agq.recipe.pruning import POSITIONS, SCORES, PruningOptions
from agq.runtime import descriptor
from agq.system.threads import resolve_threads

DEFAULT_CONTEXT = 4096  # positions, where the model has more and nobody says
CHUNK = 256  # tokens given to C at once: Ctrl-C is heard between two chunks
_ERROR_BYTES = 512
# Status codes of agq.h, for people.
_STATUS = {
    "AGQ_ERR_ARGUMENT": "bad argument",
    "AGQ_ERR_MEMORY": "not enough memory",
    "AGQ_ERR_CONTEXT": "context is full",
    "AGQ_ERR_UNSUPPORTED": "not supported by the kernels",
}


@dataclass(frozen=True)
class LinearPlan:
    """How one linear is computed: bits of weights and activations, accumulator, kernels for one token and for many."""

    name: str
    weights: str
    activations: str
    accumulator: str
    decode_kernel: str
    prefill_kernel: str


_MAX_POSITIONS = 2**31 - 1  # int32 in agq.h


def default_context(artifact: Artifact) -> int:
    """Positions of a KV cache where nobody says: the model's context, at most 4096."""
    return min(artifact.spec.context, DEFAULT_CONTEXT)


class Engine:
    """Runs one artifact. Holds `slots` sequences of up to `context` positions each.

    Args:
        artifact: an opened artifact, or the path of one.
        threads: default as `default_threads()` says; more than this machine has are lowered with a warning.
        context: positions per slot. Default: the model's, at most 4096. Learned positions end with the model's
            context; RoPE and ALiBi models compute beyond it, as transformers does.
        batch: most tokens computed at once (its workspace is what they take); default 256, at most slots x context.
        kv_bits: 4, 8 or 32; default what the artifact was packed for.
        scalar: use the portable twins of the kernels.
        isa: instruction-set level of the library; default AGQ_ISA, else the best.
        pruning: token pruning of prompts. A prompt is what an empty slot gets first, in one call; it must fit
            `batch`, whose default is the context then.

    Thread-safe: calls from several threads are computed one after the other.

    Raises:
        UsageError: an option out of range. AgqError: a damaged artifact, not enough memory, a scheme that no kernel
            computes.
    """

    def __init__(
        self,
        artifact: Artifact | str | os.PathLike[str],
        threads: int | None = None,
        context: int | None = None,
        slots: int = 1,
        batch: int | None = None,
        kv_bits: int | None = None,
        scalar: bool = False,
        isa: str | None = None,
        pruning: PruningOptions | None = None,
    ):
        self._engine: Any = None
        self._lock = threading.RLock()
        self.artifact = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
        self.spec = self.artifact.spec
        self.vocab = self.spec.vocab
        self.context = default_context(self.artifact) if context is None else context
        self.slots = slots
        self.kv_bits = self.artifact.info.kv_bits if kv_bits is None else kv_bits
        if self.artifact.info.attention == "log2" and self.kv_bits != LOG2_CACHE.bits:
            raise UsageError(
                f"the artifact's integer attention keeps {LOG2_CACHE.bits}-bit keys and values, "
                f"not {self.kv_bits}-bit ones",
                hint="leave out the KV cache's bits",
            )
        if threads is not None and threads < 1:
            raise UsageError(f"{threads} threads cannot compute anything", hint="1 is the least")
        if self.context < 1 or slots < 1 or (batch is not None and batch < 1):
            raise UsageError("context, slots and batch must be at least 1")
        if self.context * slots > _MAX_POSITIONS or (batch or 0) > _MAX_POSITIONS:
            raise UsageError(
                f"a context of {self.context} is more than the {_MAX_POSITIONS} positions that a KV cache can count",
                hint=f"the model was trained for {self.spec.context}",
            )
        if self.spec.position == "learned" and self.context > self.spec.context:
            raise UsageError(
                f"a context of {self.context} is more than the {self.spec.context} positions that the model "
                "has learned",
                hint=f"use at most {self.spec.context}",
            )
        KV_CACHE.check(self.kv_bits, UsageError)
        self.threads = resolve_threads(threads)
        default = self.context if pruning is not None and pruning.any else CHUNK
        self.batch = min(default if batch is None else batch, self.context * slots)
        self._chunk = max(CHUNK, self.batch)
        self.scalar = scalar
        self.library: Library = load_library(isa)
        self._c, ffi = self.library.c, self.library.ffi
        self._ffi = ffi
        self._model, self._keep = descriptor.build_model(ffi, self.artifact)
        self._check_linears()
        options = ffi.new(
            "agq_options *",
            {
                "threads": self.threads,
                "slots": slots,
                "context": self.context,
                "batch": self.batch,
                "kv_bits": self.kv_bits,
                "scalar": int(scalar),
            },
        )
        message = ffi.new("char[]", _ERROR_BYTES)
        engine = self._c.agq_engine_create(self._model, options, message, _ERROR_BYTES)
        if engine == ffi.NULL:
            raise AgqError(
                f"the engine cannot be made: {text(message) or 'unknown reason'}",
                hint=f"context {self.context}, {slots} slots, batch {self.batch}: smaller ones need less memory",
            )
        self._engine = ffi.gc(engine, self._c.agq_engine_destroy)
        self._rope_length = [-1] * slots
        self._prompt = [0] * slots
        self.pruning: PruningOptions | None = None
        if pruning is not None:
            self.set_pruning(pruning)

    def _check_linears(self) -> None:
        """Refuses a scheme that the library does not compute, before anything is allocated."""
        refused = [name for name in self.artifact.linears if self._c.agq_linear_check(self._linear(name)) != 0]
        if refused:
            raise AgqError(
                f"no kernel of `{self.library.isa}` computes {fold_names(refused)}",
                hint="`agq info` shows the scheme of each layer",
            )

    def _linear(self, name: str) -> Any:
        return self._ffi.addressof(descriptor.linear_of(self._model, self._model.blocks, name))

    # ---- computing

    def forward(
        self,
        tokens: Sequence[int] | np.ndarray,
        slot: int | Sequence[int] | np.ndarray = 0,
        logits: str | Sequence[bool] | np.ndarray = "last",
    ) -> np.ndarray:
        """Appends tokens and returns logits, float32 [n, vocab]. On any error, and on Ctrl-C, nothing is appended.

        Args:
            tokens: ids [n], each in 0..vocab-1.
            slot: the sequence to append to; or one number per token, tokens of a slot contiguous and in order.
            logits: "last", "all", "none", or a mask [n].

        Raises:
            AgqError: ids out of range, no tokens, more tokens than the slot has positions left.
        """
        ids = np.asarray(tokens)
        if ids.ndim != 1 or ids.size == 0:
            raise AgqError("no tokens to compute" if ids.size == 0 else "tokens must be a one-dimensional list")
        if not np.issubdtype(ids.dtype, np.integer):
            raise AgqError("tokens must be integers")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocab:
            raise AgqError(
                f"token id {low if low < 0 else high} is outside 0..{self.vocab - 1}",
                hint="does the tokenizer belong to this model?",
            )
        ids = np.ascontiguousarray(ids, np.int32)
        slots = self._slot_array(slot, ids.size)
        want = _wanted(logits, ids.size)
        with self._lock:
            self._check_open()
            before = self._check_room(slots)
            self._check_prompt(ids.size, before)
            out = np.empty((int(want.sum()), self.vocab), np.float32)
            try:
                self._run(ids, slots, want, out, before)
            except BaseException:
                for number, length in before.items():
                    self._c.agq_engine_slot_truncate(self._engine, number, length)
                raise
            for number, length in before.items():
                if length == 0:
                    self._prompt[number] = self._c.agq_engine_slot_length(self._engine, number)
        return out

    def _check_prompt(self, tokens: int, before: dict[int, int]) -> None:
        """AgqError for a prompt that would be pruned and does not fit one batch."""
        if self.pruning is not None and self.pruning.any and tokens > self.batch and 0 in before.values():
            raise AgqError(
                f"token pruning needs the prompt in one piece: {tokens} tokens do not fit a batch of {self.batch}",
                hint="use a larger batch, or no pruning",
            )

    def _slot_array(self, slot: int | Sequence[int] | np.ndarray, n: int) -> np.ndarray:
        slots = np.full(n, slot, np.int64) if np.ndim(slot) == 0 else np.asarray(slot)
        if slots.shape != (n,) or slots.min() < 0 or slots.max() >= self.slots:
            raise AgqError(f"slots must be {n} numbers from 0 to {self.slots - 1}")
        starts = slots[np.flatnonzero(np.diff(slots, prepend=-1))].tolist()
        if len(set(starts)) != len(starts):
            raise AgqError("the tokens of a slot must stand together")
        return np.ascontiguousarray(slots, np.int32)

    def _check_room(self, slots: np.ndarray) -> dict[int, int]:
        """Length of each slot before; AgqError where the new tokens do not fit."""
        before = {}
        for number, count in enumerate(np.bincount(slots).tolist()):
            length = self._c.agq_engine_slot_length(self._engine, number)
            if length + count > self.context:
                raise AgqError(
                    f"context overflow: {length} tokens and {count} more do not fit a context of {self.context}",
                    hint="make the text shorter" + self._larger_context(),
                )
            if count:
                before[number] = length
        return before

    def _larger_context(self) -> str:
        return (
            f", or use a larger `context:`, up to the model's {self.spec.context}"
            if self.context < self.spec.context
            else ""
        )

    def _run(
        self, ids: np.ndarray, slots: np.ndarray, want: np.ndarray, out: np.ndarray, before: dict[int, int]
    ) -> None:
        ffi, c = self._ffi, self._c
        if self.spec.position == "rope":
            for number, length in before.items():
                self._set_rope(number, length + int((slots == number).sum()))
        batch = ffi.new("agq_batch *")
        done = 0
        for start in range(0, ids.size, self._chunk):
            part = slice(start, min(start + self._chunk, ids.size))
            batch.n = part.stop - part.start
            batch.tokens = ffi.from_buffer("int32_t[]", ids[part])
            batch.slots = ffi.from_buffer("int32_t[]", slots[part])
            batch.want = ffi.from_buffer("uint8_t[]", want[part])
            rows = int(want[part].sum())
            target = ffi.cast("float *", out[done:].ctypes.data) if rows else ffi.NULL
            status = c.agq_engine_forward(self._engine, batch, target)
            if status != 0:
                known = {self._ffi.integer_const(name): words for name, words in _STATUS.items()}
                reason = text(c.agq_engine_error(self._engine)) or known.get(status, f"status {status}")
                raise AgqError(f"the engine failed: {reason}")
            done += rows

    def _set_rope(self, slot: int, length: int) -> None:
        """Frequencies for a sequence that will be `length` tokens long: only some scalings depend on it."""
        ropes = descriptor.ropes(self.spec)
        wanted = length if any(rope.depends_on_length for rope in ropes.values()) else 0
        if self._rope_length[slot] == wanted:
            return
        for name, rope in ropes.items():
            values, scaling = descriptor.rope_frequencies(self.spec, rope, wanted)
            which, buffer = self._ffi.integer_const(name), self._ffi.from_buffer("float[]", values)
            if self._c.agq_engine_set_rope(self._engine, slot, which, buffer, scaling) != 0:
                reason = text(self._c.agq_engine_error(self._engine))
                raise AgqError(f"the engine refuses its rotary positions: {reason}")
        self._rope_length[slot] = wanted

    # ---- token pruning

    def set_pruning(self, options: PruningOptions | None, protect_wanted: bool = True) -> None:
        """Pruning of all prompts from now on; None: none. All slots must be empty.

        protect_wanted: tokens whose logits are asked for stay. False, for evaluation: logits of a removed token are
        those of its state at the layer that removed it.

        Raises AgqError for layers that the model lacks, or slots that hold tokens.
        """
        with self._lock:
            self._check_open()
            target = self._ffi.NULL
            if options is not None:
                blocks = self._ffi.new("int32_t[]", list(options.check(self.spec.layers).blocks))
                target = self._ffi.new(
                    "agq_pruning *",
                    {
                        "layer_count": len(blocks),
                        "layers": blocks,
                        "ratio": options.gamma,
                        "positions": POSITIONS.index(options.positions),
                        "scores": SCORES.index(options.scores),
                        "protect_wanted": int(protect_wanted),
                    },
                )
            if self._c.agq_engine_set_pruning(self._engine, target) != 0:
                raise AgqError(f"pruning cannot be set: {text(self._c.agq_engine_error(self._engine))}")
            self.pruning = options

    def survivors(self, slot: int = 0) -> np.ndarray:
        """bool [length]: tokens of a slot that no layer has removed."""
        with self._lock:
            kept = np.zeros(max(self.length(slot), 1), np.uint8)
            if self._c.agq_engine_survivors(self._engine, slot, self._ffi.from_buffer("uint8_t[]", kept)) != 0:
                raise AgqError(f"the engine failed: {text(self._c.agq_engine_error(self._engine))}")
            return kept[: self.length(slot)].astype(bool)

    def least_cut(self, slot: int = 0) -> int:
        """The least length above 0 that a slot can be truncated to: that of its prompt, if that was pruned."""
        with self._lock:
            pruned = self.pruning is not None and self.pruning.any
            return max(self._prompt[slot] if pruned else 0, 1)

    # ---- state

    def length(self, slot: int = 0) -> int:
        """Positions that a slot holds."""
        with self._lock:
            self._check_open()
            self._check_slot(slot)
            return int(self._c.agq_engine_slot_length(self._engine, slot))

    def truncate(self, slot: int = 0, length: int = 0) -> None:
        """Forgets positions from `length` on (0: all)."""
        with self._lock:
            now = self.length(slot)
            if not 0 <= length <= now:
                raise AgqError(f"slot {slot} holds {now} tokens: it cannot be cut to {length}")
            if 0 < length < min(self.least_cut(slot), now):
                raise AgqError(
                    f"slot {slot} holds a pruned prompt of {self.least_cut(slot)} tokens: it cannot be cut to {length}",
                    hint="empty it, and compute the prompt again",
                )
            if self._c.agq_engine_slot_truncate(self._engine, slot, length) != 0:
                raise AgqError(f"the engine failed: {text(self._c.agq_engine_error(self._engine))}")

    @property
    def kv_bytes(self) -> int:
        """Size of the KV cache."""
        with self._lock:
            self._check_open()
            return int(self._c.agq_engine_kv_bytes(self._engine))

    @property
    def workspace_bytes(self) -> int:
        """Size of the engine's other memory."""
        with self._lock:
            self._check_open()
            return int(self._c.agq_engine_workspace_bytes(self._engine))

    def profile(self, reset: bool = True) -> dict[str, float]:
        """Wall seconds of each part of the forward pass since the last reset."""
        with self._lock:
            self._check_open()
            names: list[str] = []
            try:
                while name := text(self._c.agq_profile_name(len(names))):
                    names.append(name)
            except self._ffi.error as error:  # cffi's own exception for a symbol that is not there
                raise AgqError(
                    f"`{self.library.path.name}` is older than this agq", hint="run `make kernels`"
                ) from error
            seconds = self._ffi.new("double[]", len(names))
            self._c.agq_engine_profile(self._engine, seconds, int(reset))
            return dict(zip(names, list(seconds), strict=True))

    def plan(self) -> list[LinearPlan]:
        """How each linear is computed by this library."""
        return linear_plans(self.library, self.artifact, self._model, CHUNK)

    def _check_open(self) -> None:
        if self._engine is None:
            raise AgqError("the engine is closed")

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise AgqError(f"there is no slot {slot}: the engine has {self.slots}")

    def close(self) -> None:
        """Frees memory and threads; the engine cannot be used afterwards."""
        with self._lock:
            engine, self._engine = self._engine, None
            if engine is not None:
                self._ffi.release(engine)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _wanted(logits: str | Sequence[bool] | np.ndarray, n: int) -> np.ndarray:
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


def linear_plans(library: Library, artifact: Artifact, model: Any, prefill: int = CHUNK) -> list[LinearPlan]:
    """How each linear of an artifact is computed by a library; `model` as descriptor.build_model makes it."""
    plans = []
    for name, info in artifact.linears.items():
        linear = library.ffi.addressof(descriptor.linear_of(model, model.blocks, name))
        weights, activations = info.words()
        plans.append(
            LinearPlan(
                name,
                weights,
                activations,
                text(library.c.agq_linear_accumulator(linear)),
                text(library.c.agq_linear_kernel(linear, 1)),
                text(library.c.agq_linear_kernel(linear, prefill)),
            )
        )
    return plans
