"""One model and one text or conversation: what `agq run` does, without the terminal."""

import os
import time
from collections.abc import Sequence
from typing import Any, Literal

from agq.recipe.pruning import PruningOptions
from agq.runtime.cache import open_model
from agq.runtime.chat import ChatTemplate, Message
from agq.runtime.engine import Engine
from agq.runtime.generation import Generation, check_speculation, load_tokenizer
from agq.runtime.sampling import Sampler
from agq.system import process


class Session:
    """Loads a model and answers prompts, keeping what was said in the KV cache.

    Args:
        model: an artifact, or a model folder (packed into the cache first).
        max_tokens: per answer; None: until the model ends or the context is full.
        chat: prompts are messages of the model's chat template; else each one continues the text so far.
        system: system message of a chat.
        speculate: see Generation.
        pruning: token pruning of prompts; None: as the artifact's recipe says, False: none.

    Raises:
        AgqError, UsageError: as Engine and ChatTemplate.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        sampler: Sampler | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        chat: bool = False,
        system: str | None = None,
        threads: int | None = None,
        context: int | None = None,
        kv_bits: int | None = None,
        speculate: int = 0,
        pruning: PruningOptions | Literal[False] | None = None,
    ):
        from agq.reporting import console

        start = time.perf_counter()
        self.artifact = open_model(model, console.say)
        self._template = ChatTemplate(self.artifact) if chat else None
        self.tokenizer = load_tokenizer(self.artifact)
        options = PruningOptions.of_record(self.artifact.recipe) if pruning is None else pruning or None
        self.engine = Engine(self.artifact, threads=threads, context=context, kv_bits=kv_bits, pruning=options)
        if self.engine.context > self.engine.spec.context:
            console.warning(
                f"a context of {self.engine.context} is more than the {self.engine.spec.context} that the model was "
                "trained for"
            )
        age = process.age_s()
        self.load_s = time.perf_counter() - start if age is None else age
        self.sampler = sampler or Sampler()
        self._limit, self._stop, self._speculate = max_tokens, tuple(stop), speculate
        if speculate:
            check_speculation(self.engine, self.sampler, speculate)
        self._system = system
        self._last: Generation | None = None
        self._cached: list[int] = []
        self.clear()

    def clear(self) -> None:
        """Forgets what was said."""
        self._messages: list[Message] = [] if self._system is None else [{"role": "system", "content": self._system}]
        self._text: list[int] = []

    @property
    def chat(self) -> bool:
        """Prompts are messages."""
        return self._template is not None

    def answer(self, prompt: str) -> Generation:
        """Starts the answer to a prompt; iterate over it. `keep` it afterwards, if the conversation is to go on."""
        if self._template is not None:
            ids = self._template.encode(self.tokenizer, [*self._messages, {"role": "user", "content": prompt}])
        elif self._text:
            ids = self._text + self.tokenizer.encode("\n" + prompt, add_bos=False)
        else:
            ids = self.tokenizer.encode(prompt)
        if self._last is not None:
            self._cached = self._last.history()
        self._last = None
        self._last = Generation(
            self.engine,
            self.tokenizer,
            ids,
            sampler=self.sampler,
            max_tokens=self._limit,
            stop=self._stop,
            cached=self._cached,
            speculate=self._speculate,
        )
        return self._last

    def keep(self, prompt: str, generation: Generation) -> None:
        """Makes a prompt and its answer (complete or not) a part of the conversation."""
        if self._template is not None:
            self._messages += [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": generation.statistics.text.strip()},
            ]
        else:
            self._text = generation.prompt + generation.tokens

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
        self.engine.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
