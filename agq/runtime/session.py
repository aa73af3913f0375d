"""One model and one text or conversation: what `agq run` does, without the terminal."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from agq.artifact.reader import Artifact
from agq.recipe.pruning import PruningOptions
from agq.runtime.generation import Generation, check_speculation, too_long
from agq.runtime.loaded import LoadedModel
from agq.runtime.opening import opened, template_of
from agq.runtime.sampling import Sampler
from agq.runtime.stream import Stream
from agq.runtime.transcript import Transcript
from agq.system import process


class Session:
    """Loads a model and answers prompts, keeping what was said in the KV cache.

    Args:
        model: an artifact, its path, or a model folder (packed into the cache first).
        max_tokens: per answer; None: until the model ends or the context is full.
        chat: prompts are messages of the model's chat template; False: each one continues the text so far; None: where
            the model has a template.
        system: system message of a chat.
        speculate: see Generation.
        pruning: token pruning of prompts; None: as the artifact's recipe says, False: none.
        progress: see Generation.

    Attributes:
        transcript: what was said and kept.

    Raises:
        AgqError, UsageError: as `load`; `chat` without a template.
    """

    def __init__(
        self,
        model: Artifact | str | os.PathLike[str],
        sampler: Sampler | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        chat: bool | None = None,
        system: str | None = None,
        threads: int | None = None,
        context: int | None = None,
        kv_bits: int | None = None,
        speculate: int = 0,
        pruning: PruningOptions | Literal[False] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ):
        start = time.perf_counter()
        self.artifact = opened(model)
        template = template_of(self.artifact, chat)
        self.model = LoadedModel(self.artifact, threads, context, kv_bits=kv_bits, pruning=pruning)
        self.engine, self.tokenizer = self.model.engine, self.model.tokenizer
        self.chat = template is not None
        age = process.age_s()
        self.load_s = time.perf_counter() - start if age is None else age
        self.sampler = sampler or Sampler()
        self.max_tokens, self._stop, self._speculate = max_tokens, tuple(stop), speculate
        self._progress = progress
        if speculate:
            check_speculation(self.engine, self.sampler, speculate)
        self._last: Stream | None = None
        self.transcript = Transcript(self.tokenizer, template, system)

    def answer(self, prompt: str) -> Generation:
        """Starts the answer to a prompt; iterate over it. `keep` it afterwards, if the conversation is to go on."""
        self._check_length(prompt)
        return self._generation(self.transcript.encode(prompt))

    def answer_within_context(self, prompt: str) -> tuple[Generation, int]:
        """The answer to a prompt, and how many of the oldest turns were forgotten for it: where an answer would have
        less room than `max_tokens`, or than half of the context, if that is less.

        Raises:
            AgqError: the prompt alone is too long. Nothing is forgotten then.
        """
        self._check_length(prompt)
        context = self.engine.context
        reserved = min(self.max_tokens or context, context // 2)
        ids, forgotten = self.transcript.fit(prompt, context - reserved)
        generation = self._generation(ids)
        del self.transcript.turns[:forgotten]
        return generation, forgotten

    def _check_length(self, prompt: str) -> None:
        """AgqError for a prompt that is far too long, before minutes go into its tokens."""
        if (least := self.tokenizer.least(prompt)) >= self.engine.context:
            raise too_long(self.engine, f"more than {least}")

    def _generation(self, ids: list[int]) -> Generation:
        if self._last is not None:
            self._last.close()
        self._last = self.model.start(
            ids, self.sampler, self.max_tokens, self._stop, self._speculate, progress=self._progress
        )
        return self._last.generation

    def keep(self, prompt: str, generation: Generation) -> None:
        """Makes a prompt and its answer (complete or not) a part of the conversation."""
        self.transcript.keep(prompt, generation.statistics.text, generation.prompt + generation.tokens)

    def statistics(self, generation: Generation) -> dict[str, Any]:
        """The object that the JSON lines of `agq run` end with."""
        engine, pruned = self.engine, {}
        if engine.pruning is not None:
            kept = engine.survivors()[: len(generation.prompt)]
            pruned = {"pruning": engine.pruning.to_dict(), "prompt_survivors": int(kept.sum())}
        return (
            generation.statistics.to_dict()
            | pruned
            | {
                "load_s": round(self.load_s, 3),
                "threads": engine.threads,
                "isa": engine.library.isa,
                "context": engine.context,
                "kv_bits": engine.kv_bits,
                "kv_cache_bytes": engine.kv_bytes,
                "model_bytes": self.artifact.size,
            }
        )

    def close(self) -> None:
        """Frees the engine."""
        self.model.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
