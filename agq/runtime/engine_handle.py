"""An engine of the C library: its slots, its sizes, its times, its end. `engine.py` makes one and computes."""

import threading
from typing import Any, Self

import numpy as np

from agq.errors import AgqError
from agq.native.library import Library, text
from agq.recipe.pruning import POSITIONS, SCORES, PruningOptions


class EngineHandle:
    """What holds an `agq_engine`. Thread-safe: calls from several threads are done one after the other."""

    def __init__(self, library: Library, slots: int, layers: int) -> None:
        """Closed at first: a subclass makes `_engine`, of so many slots and layers."""
        self.library = library
        self.slots = slots
        self.layers = layers
        self.pruning: PruningOptions | None = None
        self._c, self._ffi = library.c, library.ffi
        self._engine: Any = None
        self._lock = threading.RLock()
        self._prompt = [0] * slots  # length of each slot's prompt

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
                    f"`{self.library.path.name}` is older than this agq",
                    hint="run `make kernels` in the source tree, or reinstall agq",
                ) from error
            seconds = self._ffi.new("double[]", len(names))
            self._c.agq_engine_profile(self._engine, seconds, int(reset))
            return dict(zip(names, list(seconds), strict=True))

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
                blocks = self._ffi.new("int32_t[]", list(options.check(self.layers).blocks))
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
