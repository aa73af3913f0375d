"""A model in memory: its file, its tokenizer, its engine, and the engine's slots among those who make texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Self

from agq.artifact.reader import Artifact
from agq.errors import AgqError
from agq.recipe.pruning import PruningOptions
from agq.runtime.arguments import whole
from agq.runtime.batch import Answer, generate_many
from agq.runtime.engine import Engine
from agq.runtime.generation import Generation, load_tokenizer
from agq.runtime.opening import wanted_pruning, warn_beyond_training
from agq.runtime.sampling import Sampler
from agq.runtime.scoring import Likelihood, likelihoods
from agq.runtime.slots import Slots
from agq.runtime.stream import Stream
from agq.runtime.tokenizer import Tokenizer


class LoadedModel:
    """Makes texts from token ids: what `agq run` and `Model` stand on. Thread-safe: see Slots."""

    def __init__(
        self,
        artifact: Artifact,
        threads: int | None = None,
        context: int | None = None,
        slots: int = 1,
        kv_bits: int | None = None,
        pruning: PruningOptions | Literal[False] | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        """See `agq.load`. tokenizer: the artifact's, where it is loaded already."""
        self.artifact = artifact
        self.tokenizer = load_tokenizer(artifact) if tokenizer is None else tokenizer
        self.engine = Engine(
            artifact,
            threads=whole("threads", threads),
            context=whole("context", context),
            slots=whole("slots", slots) or 0,
            kv_bits=whole("kv_bits", kv_bits),
            pruning=wanted_pruning(artifact, pruning),
        )
        self._slots = Slots(self.engine.slots)
        warn_beyond_training(self.engine)

    def start(
        self,
        ids: list[int],
        sampler: Sampler,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        speculate: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Stream:
        """The text that follows token ids; see Generation for the arguments."""
        slot, cached = self._slots.take(ids)
        try:
            generation = Generation(
                self.engine,
                self.tokenizer,
                ids,
                sampler=sampler,
                max_tokens=max_tokens,
                stop=stop,
                slot=slot,
                cached=cached,
                speculate=speculate,
                progress=progress,
            )
        except BaseException:
            self._slots.give(slot, cached)
            raise
        return Stream(generation, lambda ended: self._slots.give(slot, self._held(ended)))

    def start_many(
        self,
        prompts: Sequence[Sequence[int]],
        sampler: Callable[[int], Sampler],
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[Answer]:
        """Answers to prompts of token ids as each is complete; see agq/runtime/batch.py for the arguments."""
        with self._empty_slots(len(prompts)) as slots:
            yield from generate_many(self.engine, self.tokenizer, prompts, sampler, max_tokens, stop, slots=slots)

    def start_scores(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, Likelihood]]:
        """How likely continuations are, each when it is known; see agq/runtime/scoring.py for the arguments."""
        with self._empty_slots(len(pairs)) as slots:
            yield from likelihoods(self.engine, pairs, slots)

    @contextmanager
    def _empty_slots(self, most: int = 1) -> Iterator[list[int]]:
        """Empty slots: one, for which it waits, and up to `most` of those that are free besides. What they hold
        afterwards is forgotten.
        """
        slots = [self._slots.take()[0]]
        slots += self._slots.take_more(most - 1)
        try:
            for slot in slots:
                self.engine.truncate(slot, 0)
            yield slots
        finally:
            for slot in slots:
                self._slots.give(slot)

    def close(self) -> None:
        """Frees memory and threads; the model cannot be used afterwards."""
        self._slots.close()
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _held(self, generation: Generation) -> list[int]:
        """The ids that the slot of an ended generation holds; none in a closed engine."""
        try:
            return generation.history()
        except AgqError:
            return []
