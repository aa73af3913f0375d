"""The engine: a packed artifact, a KV cache, and one C call per batch of tokens."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agq.artifact.reader import DAMAGED, Artifact, open_artifact
from agq.errors import AgqError
from agq.models.folding import fold_names
from agq.native.library import load_library, text
from agq.recipe.pruning import PruningOptions
from agq.runtime import descriptor
from agq.runtime.engine_handle import EngineHandle
from agq.runtime.engine_inputs import CHUNK, check_sizes, slot_numbers, token_ids, wanted
from agq.runtime.linear_plans import LinearPlan, linear_plans
from agq.system.threads import resolve_threads

DEFAULT_CONTEXT = 4096  # positions, where the model has more and nobody says
_ERROR_BYTES = 512
# Status codes of agq.h, for people.
_STATUS = {
    "AGQ_ERR_ARGUMENT": "bad argument",
    "AGQ_ERR_MEMORY": "not enough memory",
    "AGQ_ERR_CONTEXT": "context is full",
    "AGQ_ERR_UNSUPPORTED": "not supported by the kernels",
}


def default_context(artifact: Artifact) -> int:
    """Positions of a KV cache where nobody says: the model's context, at most 4096."""
    return min(artifact.spec.context, DEFAULT_CONTEXT)


class Engine(EngineHandle):
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
        self.artifact = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
        self.spec = self.artifact.spec
        self.vocab = self.spec.vocab
        self.context = default_context(self.artifact) if context is None else context
        self.kv_bits = self.artifact.info.kv_bits if kv_bits is None else kv_bits
        check_sizes(self.artifact, self.kv_bits, threads, self.context, slots, batch)
        self.threads = resolve_threads(threads)
        default = self.context if pruning is not None and pruning.any else CHUNK
        self.batch = min(default if batch is None else batch, self.context * slots)
        self._chunk = max(CHUNK, self.batch)
        self.scalar = scalar
        super().__init__(load_library(isa), slots, self.spec.layers)
        ffi = self._ffi
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
        if pruning is not None:
            self.set_pruning(pruning)

    def _check_linears(self) -> None:
        """Refuses a scheme that the library does not compute, and numbers that no file holds, before anything is
        allocated."""
        found = {name: self._c.agq_linear_check(self._linear(name)) for name in self.artifact.linears}
        if damaged := [name for name in found if found[name] == self._ffi.integer_const("AGQ_ERR_ARGUMENT")]:
            raise AgqError(
                f"`{self.artifact.path}`: input orders or exponents of {fold_names(damaged)} cannot be", hint=DAMAGED
            )
        refused = [name for name in found if found[name] != 0]
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
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Appends tokens and returns logits, float32 [n, vocab]. On any error, and on Ctrl-C, nothing is appended.

        Args:
            tokens: ids [n], each in 0..vocab-1.
            slot: the sequence to append to; or one number per token, tokens of a slot contiguous and in order.
            logits: "last", "all", "none", or a mask [n].
            progress: told (done, n) after each call of C.

        Raises:
            AgqError: ids out of range, no tokens, more tokens than the slot has positions left.
        """
        return self._forward(tokens, slot, logits, progress, self._c.agq_engine_forward, self.vocab)

    def states(
        self,
        tokens: Sequence[int] | np.ndarray,
        slot: int | Sequence[int] | np.ndarray = 0,
        which: str | Sequence[bool] | np.ndarray = "all",
    ) -> np.ndarray:
        """Appends tokens like `forward`, and returns the last hidden states: what the head matrix reads, after the
        final norm, float32 [n, embedding width].

        Args:
            which: tokens whose states are returned: as `logits` of `forward`.

        Raises:
            AgqError: as `forward`.
        """
        return self._forward(tokens, slot, which, None, self._c.agq_engine_states, self.spec.embed_dim)

    def _forward(
        self,
        tokens: Sequence[int] | np.ndarray,
        slot: int | Sequence[int] | np.ndarray,
        which: str | Sequence[bool] | np.ndarray,
        progress: Callable[[int, int], None] | None,
        function: Callable[..., int],
        width: int,
    ) -> np.ndarray:
        """Rows of `width` that a function of the library gives."""
        ids = token_ids(tokens, self.vocab)
        slots = slot_numbers(slot, ids.size, self.slots)
        want = wanted(which, ids.size)
        with self._lock:
            self._check_open()
            before = self._check_room(slots)
            self._check_prompt(ids.size, before)
            out = np.empty((int(want.sum()), width), np.float32)
            try:
                self._run(function, ids, slots, want, out, before, progress)
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
        self,
        function: Callable[..., int],
        ids: np.ndarray,
        slots: np.ndarray,
        want: np.ndarray,
        out: np.ndarray,
        before: dict[int, int],
        progress: Callable[[int, int], None] | None,
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
            status = function(self._engine, batch, target)
            if status != 0:
                known = {self._ffi.integer_const(name): words for name, words in _STATUS.items()}
                reason = text(c.agq_engine_error(self._engine)) or known.get(status, f"status {status}")
                raise AgqError(f"the engine failed: {reason}")
            done += rows
            if progress is not None:
                progress(part.stop, ids.size)

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

    def plan(self) -> list[LinearPlan]:
        """How each linear is computed by this library."""
        return linear_plans(self.library, self.artifact, self._model, CHUNK)
