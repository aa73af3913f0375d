"""The scorer of packed artifacts: the C kernels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agq.evaluation.scorers import TOGETHER, listing
from agq.formats import words
from agq.text.tokenizers import TextTokenizer

if TYPE_CHECKING:
    from agq.recipe.pruning import PruningOptions

_PRUNED_BYTES = 512 << 20  # of logits of a pruned prompt at once: every further part computes the prompt again


class EngineScorer:
    """A packed artifact through the C kernels."""

    form = "packed"
    context: int | None

    def __init__(
        self,
        path: str | os.PathLike[str],
        seq_len: int | None = None,
        threads: int | None = None,
        batch: int | None = None,
    ) -> None:
        """seq_len: the longest window to come (default the model's context). batch: tokens that the kernels compute at
        once.
        """
        from agq.artifact import open_artifact
        from agq.artifact.effective import effective_bits

        self.path = Path(path)
        self.artifact = open_artifact(self.path)
        spec = self.artifact.spec
        self.vocab, self.context, self.extends = spec.vocab, spec.context, spec.position != "learned"
        blocks = [info for name, info in self.artifact.linears.items() if name.startswith("blocks.")]
        self.scheme = listing(_linear_name(info) for info in blocks)
        self.activation_bits = effective_bits(self.artifact)
        self._steady = spec.steady_context
        self.layers = spec.layers
        self._threads, self._batch = threads, batch
        self._engine: Any = None
        self._length, self._slots = 0, 1
        self._open(seq_len or spec.context)

    def _open(self, length: int, slots: int = 1) -> None:
        from agq.runtime.engine import Engine

        if self._engine is not None:
            self._engine.close()
        self._engine = Engine(self.artifact, threads=self._threads, context=length, slots=slots, batch=self._batch)
        self._length, self._slots = length, slots
        kernels = Counter(plan.prefill_kernel for plan in self._engine.plan() if plan.name.startswith("blocks."))
        self.kernel = f"{self._engine.library.isa}: {', '.join(kernels)}"
        self.threads = self._engine.threads

    def logits(self, tokens: np.ndarray, first: int, count: int, rows: int) -> Iterator[np.ndarray]:
        if len(tokens) > self._length:
            self._open(len(tokens))
        engine = self._engine
        engine.truncate(0, 0)
        if engine.pruning is not None:
            engine.set_pruning(None)
        if self._steady is not None and len(tokens) > self._steady:
            # The frequencies depend on the length of the sequence: all of it must be computed at once.
            values = engine.forward(tokens, logits=_mask(len(tokens), first, count))
            for start in range(0, count, rows):
                yield values[start : start + rows]
            return
        if first:
            engine.forward(tokens[:first], logits="none")
        for start in range(first, first + count, rows):
            yield engine.forward(tokens[start : min(start + rows, first + count)], logits="all")

    def pruned_logits(
        self, tokens: np.ndarray, first: int, count: int, rows: int, options: PruningOptions
    ) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        """See `agq.evaluation.pruned`. The prompt is one batch; where its logits take more than 512 MB it is computed
        again for each further part."""
        if self._engine.batch < len(tokens):
            self._batch = len(tokens)
            self._open(max(len(tokens), self._length))
        engine = self._engine
        engine.truncate(0, 0)
        engine.set_pruning(options, protect_wanted=False)
        most = max(rows, _PRUNED_BYTES // (4 * self.vocab))

        def part(start: int) -> np.ndarray:
            engine.truncate(0, 0)
            return engine.forward(tokens, logits=_mask(len(tokens), start, min(most, first + count - start)))

        values = part(first)
        kept = engine.survivors()

        def pieces() -> Iterator[np.ndarray]:
            block = values
            for start in range(first, first + count, most):
                if start > first:
                    block = part(start)
                for row in range(0, len(block), rows):
                    yield block[row : row + rows]

        return kept, pieces()

    def at_once(self, length: int) -> int:
        """How many windows of up to `length` tokens one forward pass takes (see `logits_of_several`): short ones alone
        would leave the kernels for many tokens half empty.
        """
        count = max(TOGETHER // length, 1)
        if self._steady is not None and length > self._steady:
            count = 1
        if count > self._slots or length > self._length:
            self._open(max(length, self._length if count == 1 else 0), count)
        return count

    def logits_of_several(self, windows: Sequence[tuple[np.ndarray, int, int]]) -> list[np.ndarray]:
        """One forward pass over several windows (tokens, first, count), a sequence of the engine each: what `logits`
        gives for each of them, bit for bit.
        """
        for slot in range(len(windows)):
            self._engine.truncate(slot, 0)
        tokens = np.concatenate([window for window, _, _ in windows])
        slots = np.repeat(np.arange(len(windows)), [len(window) for window, _, _ in windows])
        wanted = np.concatenate([_mask(len(window), first, count) for window, first, count in windows])
        rows = self._engine.forward(tokens, slot=slots, logits=wanted)
        return np.split(rows, np.cumsum([count for _, _, count in windows])[:-1])

    def tokenizer(self) -> TextTokenizer:
        return TextTokenizer.from_artifact(self.artifact)

    def sha256(self) -> str:
        from agq.files import sha256_file

        return sha256_file(self.path)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def _mask(n: int, first: int, count: int) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[first : first + count] = True
    return mask


def _linear_name(info: Any) -> str:
    if not info.quantized:
        return str(info.dtype).upper()
    return words.name(info.format.bits, info.activations.bits, not info.asym)
