"""Generating text: prompt in, pieces of text out as they are complete, and numbers at the end."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agq.artifact.reader import Artifact
from agq.errors import AgqError, UsageError
from agq.runtime.engine import Engine
from agq.runtime.lookup import Lookup
from agq.runtime.output import Output
from agq.runtime.sampling import Sampler
from agq.runtime.tokenizer import Tokenizer
from agq.system.process import peak_rss_bytes


@dataclass(frozen=True)
class Piece:
    """One step: the token that was generated (None for text that was held back until the end), and the text that is
    complete now.
    """

    token: int | None
    text: str


@dataclass
class Statistics:
    """What a generation did.

    Attributes:
        text: all of it, without the stop string. tokens: generated ones, an end-of-text token not counted.
        prompt_tokens: tokens of the prompt; cached_tokens: those of them that stood in the KV cache already.
        prefill_tokens_per_s: prompt tokens computed per second; decode_tokens_per_s: tokens after the first one per
            second of computing and sampling; 0 where there was none.
        time_to_first_token_s: from the call of generate() to the first token.
        peak_rss_bytes: largest resident memory of the process so far.
        finish_reason: "eos" (the model ended), "stop" (a stop string), "length" (max_tokens), "context" (the context
            is full), "interrupted" (close() was called before the end).
        seed: of the sampler; None when greedy.
        drafted, accepted: tokens that prompt look-up proposed, and those of them that the model chose.
    """

    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    time_to_first_token_s: float = 0.0
    peak_rss_bytes: int = 0
    finish_reason: str = ""
    seed: int | None = None
    drafted: int = 0
    accepted: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class Generation:
    """An iterator of `Piece`s. `statistics` is complete when it is exhausted or closed; `prompt` and `tokens` hold
    the ids.

    Args:
        engine, tokenizer: of one artifact.
        prompt: text, or token ids. Text gets the tokenizer's own special tokens.
        sampler: greedy by default.
        max_tokens: None: until the model ends or the context is full.
        stop: texts that end the generation, and are not part of it.
        eos_ids: ids that end it; by default the model's.
        slot: sequence of the engine. The longest beginning of the prompt that the slot was fed before (`cached`) is
            not computed again.
        cached: ids that the slot holds; the caller's record, usually `history()` of an earlier generation.
        speculate: tokens that prompt look-up proposes at once, at most; 0: none. The text is the same.
        progress: told (done, total) as the prompt is computed, in tokens; what the slot held is not counted.

    Raises:
        AgqError: empty prompt; prompt that leaves no room in the context; prompt look-up with a sampler that is not
            greedy, or with a model whose earlier tokens change as the text grows. Before anything is computed.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompt: str | Sequence[int],
        sampler: Sampler | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        eos_ids: Sequence[int] | None = None,
        slot: int = 0,
        cached: Sequence[int] = (),
        speculate: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ):
        self._started = time.perf_counter()
        self._engine, self._tokenizer, self._slot = engine, tokenizer, slot
        self._sampler = sampler or Sampler()
        self._limit = max_tokens
        self.prompt = tokenizer.encode(prompt) if isinstance(prompt, str) else [int(token) for token in prompt]
        if not self.prompt:
            raise AgqError("the prompt is empty", hint="give the model some text to continue")
        check_limit(max_tokens)
        self._check_room()
        if speculate:
            check_speculation(engine, self._sampler, speculate)
        self._lookup = Lookup(speculate) if speculate else None
        self._ready: list[int] = []  # chosen and not given out yet
        ends = frozenset(end_tokens(engine.artifact) if eos_ids is None else eos_ids)
        self._output = Output(tokenizer, self.prompt, ends, stop, max_tokens, engine.context)
        self._progress = progress
        self._fed = list(cached[: engine.length(slot)])
        self.statistics = Statistics(
            prompt_tokens=len(self.prompt), seed=None if self._sampler.greedy else self._sampler.seed
        )
        self._decode_seconds, self._decode_steps = 0.0, 0
        self._pieces = self._run()

    def _check_room(self) -> None:
        if len(self.prompt) >= self._engine.context:
            raise too_long(self._engine, f"{len(self.prompt)}")

    @property
    def tokens(self) -> list[int]:
        """Ids that were generated so far."""
        return self._output.tokens

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """Stops here; completes `statistics`."""
        self._pieces.close()
        self._complete("interrupted")

    def history(self) -> list[int]:
        """Ids that the slot holds now: for `cached` of the next generation."""
        return self._fed[: self._engine.length(self._slot)]

    def _feed(
        self, tokens: list[int], logits: str = "last", progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Logits of the last token, or of all of them."""
        rows = self._engine.forward(tokens, slot=self._slot, logits=logits, progress=progress)
        self._fed += tokens
        refuse_not_a_number(rows)
        return rows

    def _prefill(self) -> np.ndarray:
        """Computes the prompt, except for what the slot holds of it. At least one token is computed: its logits are
        needed.
        """
        same, most = 0, min(len(self._fed), len(self.prompt) - 1)
        while same < most and self._fed[same] == self.prompt[same]:
            same += 1
        if same < min(self._engine.least_cut(self._slot), len(self._fed)):
            same = 0  # tokens of a pruned prompt cannot be taken back one by one
        if same < len(self._fed) and self._turned_otherwise():
            same = 0
        self._engine.truncate(self._slot, same)
        del self._fed[same:]
        self.statistics.cached_tokens = same
        if self._progress is not None:
            self._progress(0, len(self.prompt) - same)
        start = time.perf_counter()
        logits: np.ndarray = self._feed(self.prompt[same:], progress=self._progress)[-1]
        self.statistics.prefill_tokens_per_s = (len(self.prompt) - same) / max(time.perf_counter() - start, 1e-9)
        return logits

    def _turned_otherwise(self) -> bool:
        """Whether the slot's keys may have other rotary frequencies than those of a text of the prompt's length: longer
        texts have others in some models.
        """
        steady = self._engine.spec.steady_context
        return steady is not None and max(len(self._fed), len(self.prompt)) > steady

    def _run(self) -> Generator[Piece, None, None]:
        logits = self._prefill()
        token = self._choose(logits)
        self.statistics.time_to_first_token_s = time.perf_counter() - self._started
        if self._lookup is not None:
            self._lookup.append([*self.prompt, token])
        while True:
            text = self._output.push(token)
            if self._output.reason == "eos":
                break
            yield Piece(token, text)
            if self._output.reason:
                break
            if not self._ready:
                start = time.perf_counter()
                self._ready = self._step(token)
                self._decode_seconds += time.perf_counter() - start
            token = self._ready.pop(0)
            self._decode_steps += 1
        text = self._output.finish()
        if text:
            yield Piece(None, text)
        self._complete(self._output.reason)

    def _step(self, token: int) -> list[int]:
        """The tokens after `token`: one, and with look-up those of its proposal that the model chooses, too."""
        lookup = self._lookup
        room = self._engine.context - self._engine.length(self._slot) - 1
        if self._limit is not None:
            room = min(room, self._limit - len(self.tokens) - 1)
        draft = lookup.propose(room) if lookup is not None else []
        if not draft:
            chosen = [self._choose(self._feed([token])[-1])]
        else:
            chosen = self._verified(token, draft)
            self.statistics.drafted += len(draft)
            self.statistics.accepted += len(chosen) - 1
        if lookup is not None:
            if draft:
                lookup.learn(len(draft), len(chosen) - 1)
            lookup.append(chosen)
        return chosen

    def _verified(self, token: int, draft: list[int]) -> list[int]:
        """One forward pass over `token` and the draft; the choices up to the first that the draft does not have. The
        cache keeps the draft's right beginning.
        """
        rows = self._feed([token, *draft], logits="all")
        chosen = [self._choose(rows[0])]
        while len(chosen) <= len(draft) and chosen[-1] == draft[len(chosen) - 1]:
            chosen.append(self._choose(rows[len(chosen)], draft[: len(chosen)]))
        kept = len(self._fed) - (len(draft) + 1 - len(chosen))
        self._engine.truncate(self._slot, kept)
        del self._fed[kept:]
        return chosen

    def _complete(self, reason: str) -> None:
        """Fills in the statistics; the first call counts."""
        statistics = self.statistics
        if statistics.finish_reason:
            return
        statistics.text = self._output.text
        statistics.tokens = len(self.tokens)
        statistics.finish_reason = reason
        statistics.peak_rss_bytes = peak_rss_bytes()
        if self._decode_steps:
            statistics.decode_tokens_per_s = self._decode_steps / self._decode_seconds

    def _choose(self, logits: np.ndarray, more: Sequence[int] = ()) -> int:
        """The next token after the text and `more`."""
        seen = [*self.prompt, *self.tokens, *more] if self._sampler.repetition_penalty != 1 else ()
        return self._sampler(logits, seen)


def too_long(engine: Engine, tokens: str) -> AgqError:
    """The error of a prompt that the context does not hold. tokens: how many it has, in words."""
    context, most = engine.context, engine.spec.context
    return AgqError(
        f"the prompt has {tokens} tokens, but the context holds {context}, the generated text included",
        hint=f"shorten it, or use a larger `context:`, up to the model's {most}" if context < most else "shorten it",
    )


def check_limit(max_tokens: int | None) -> None:
    """Refuses to generate no tokens."""
    if max_tokens is not None and max_tokens < 1:
        raise AgqError(f"{max_tokens} tokens cannot be generated", hint="1 is the least")


def check_speculation(engine: Engine, sampler: Sampler, speculate: int) -> None:
    """Refuses what prompt look-up cannot do without changing the text."""
    if speculate < 0:
        raise UsageError(f"{speculate} tokens cannot be proposed", hint="0 is none")
    if not sampler.greedy:
        raise UsageError(
            "prompt look-up needs greedy sampling: it returns exactly the likeliest tokens",
            hint="leave out `speculate:` or `temp:`",
        )
    rope = getattr(engine.spec, "rope", None)
    if rope is not None and rope.kind == "dynamic":
        raise UsageError(
            "prompt look-up does not go with dynamic RoPE scaling: earlier tokens would depend on the proposed ones",
            hint="leave out `speculate:`",
        )


def refuse_not_a_number(logits: np.ndarray) -> None:
    """AgqError for logits of which the largest is not finite."""
    if not np.isfinite(logits.max()):
        raise AgqError("the model's output is not a number", hint="check the artifact with `agq verify`")


def end_tokens(artifact: Artifact) -> list[int]:
    """Ids that end a text: generation_config.json's, else config.json's."""
    return list(artifact.info.special["eos_ids"]) or list(artifact.spec.eos_ids)


# Generates text: `for piece in (generation := generate(engine, tokenizer, "Once")): print(piece.text)`; then
# `generation.statistics`.
generate = Generation


def load_tokenizer(artifact: Artifact) -> Tokenizer:
    """The tokenizer that an artifact carries."""
    return Tokenizer(artifact.document("tokenizer.json"), artifact.spec.vocab, artifact.info.special)
