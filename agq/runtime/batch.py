"""Many prompts in one process: each step of the engine computes one token of several texts, so that the weights are
read once for all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agq.runtime.engine import Engine
from agq.runtime.engine_inputs import CHUNK
from agq.runtime.generation import check_limit, end_tokens, refuse_not_a_number
from agq.runtime.output import Output
from agq.runtime.sampling import Sampler
from agq.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answer:
    """What became of one prompt. index: its place among the prompts. tokens: how many were generated. ids: these.

    finish_reason: as of Statistics. error: why there is no answer; "" where there is one.
    """

    index: int
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: str = ""
    error: str = ""
    ids: tuple[int, ...] = ()


@dataclass
class _Running:
    """A text in the making. next: the token that was chosen and not computed yet."""

    index: int
    prompt: Sequence[int]
    output: Output
    sampler: Sampler
    next: int = 0

    def choose(self, logits: np.ndarray) -> None:
        """Takes the token after these logits; the output says whether it was the last."""
        refuse_not_a_number(logits)
        seen = [*self.prompt, *self.output.tokens] if self.sampler.repetition_penalty != 1 else ()
        self.next = self.sampler(logits, seen)
        self.output.push(self.next)

    def answer(self) -> Answer:
        """The finished text."""
        self.output.finish()
        ids = tuple(self.output.tokens)
        return Answer(self.index, self.output.text, len(ids), len(self.prompt), self.output.reason, ids=ids)


def generate_many(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    sampler: Callable[[int], Sampler],
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
    step: Callable[[int], None] | None = None,
    slots: Sequence[int] | None = None,
) -> Iterator[Answer]:
    """Answers prompts, one of them a slot at a time. Yields an answer when it is complete: not in the order of the
    prompts. An answer is the one that the prompt alone would get.

    Args:
        prompts: token ids of each.
        sampler: makes the sampler of a prompt from its place.
        max_tokens, stop: see Generation.
        step: told how many tokens a pass of the engine computed.
        slots: of the engine, to be used and emptied; by default all.

    Raises:
        AgqError: the engine fails. A prompt that is empty or does not fit the context is told in its Answer.
    """
    check_limit(max_tokens)
    waiting = iter(range(len(prompts)))
    running: dict[int, _Running] = {}
    ends = frozenset(end_tokens(engine.artifact))
    slots = range(engine.slots) if slots is None else slots
    for slot in slots:
        engine.truncate(slot, 0)

    def fill() -> Iterator[Answer]:
        """Puts prompts into free slots and computes them; yields those that cannot be answered, or have been."""
        free = [slot for slot in slots if slot not in running]
        while free:
            together: dict[int, _Running] = {}
            while free and (index := next(waiting, None)) is not None:
                ids = prompts[index]
                if wrong := problem(engine, ids):
                    yield Answer(index, prompt_tokens=len(ids), error=wrong)
                    continue
                text = _Running(
                    index, ids, Output(tokenizer, ids, ends, stop, max_tokens, engine.context), sampler(index)
                )
                together[free.pop(0)] = text
                if engine.pruning is not None or sum(len(item.prompt) for item in together.values()) >= CHUNK:
                    break
            if not together:
                return
            _forward(engine, {slot: text.prompt for slot, text in together.items()}, together, step)
            running.update(together)
            yield from finished()
            free = [slot for slot in slots if slot not in running]

    def finished() -> Iterator[Answer]:
        """Takes complete texts out of their slots."""
        for slot in [slot for slot, text in running.items() if text.output.reason]:
            engine.truncate(slot, 0)
            yield running.pop(slot).answer()

    while True:
        yield from fill()
        if not running:
            return
        _forward(engine, {slot: [text.next] for slot, text in running.items()}, running, step)
        yield from finished()


def _forward(
    engine: Engine, tokens: dict[int, Sequence[int]], texts: dict[int, _Running], step: Callable[[int], None] | None
) -> None:
    """One pass over new tokens of some slots, and the choice of the next token of each."""
    counts = [len(ids) for ids in tokens.values()]
    ids = np.concatenate([np.asarray(ids, np.int64) for ids in tokens.values()])
    wanted = np.zeros(len(ids), bool)
    wanted[np.cumsum(counts) - 1] = True
    rows = engine.forward(ids, slot=np.repeat(list(tokens), counts), logits=wanted)
    if step is not None:
        step(len(ids))
    for slot, row in zip(tokens, rows, strict=True):
        texts[slot].choose(row)


def seeded(base: Sampler) -> Callable[[int], Sampler]:
    """Makes the sampler of a prompt from its place: the seed counts up from that of `base`."""
    return lambda index: base if base.greedy else base.with_seed((base.seed + index) % (1 << 64))


def problem(engine: Engine, ids: Sequence[int]) -> str:
    """Why a prompt cannot be answered; "" where it can."""
    if not len(ids):
        return "the prompt is empty"
    if len(ids) >= engine.context:
        return f"the prompt has {len(ids)} tokens, but the context holds {engine.context}, the generated text included"
    return ""
