"""Speed of prefill and decode, as llama-bench measures it: warm-up, repetitions, mean and standard deviation, raw
samples; beside them the machine's limits, measured before and after, and what share of its limit each result reaches.

A test is N tokens of each of B sequences on top of `depth` tokens that stand in their KV caches already. Prefill gives
all of them to the engine at once, decode one of each sequence after the other; each asks for the last tokens' logits.
Token ids are random with a fixed seed: speed does not depend on them. Tokenizer and sampling are not part of it.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from agq.artifact.reader import Artifact
from agq.errors import AgqError, UsageError
from agq.runtime import limits as machine
from agq.runtime.engine import Engine
from agq.runtime.generation import refuse_not_a_number
from agq.runtime.limits import Limits

OUTSIDE = "outside the engine"  # of a profile: calls, checks, copies in Python


@dataclass(frozen=True)
class Case:
    """One test: kind "prefill" or "decode", tokens of each of `batch` sequences, depth, threads, kernels (None: the
    best).
    """

    kind: str
    tokens: int
    depth: int
    threads: int | None
    isa: str | None = None
    batch: int = 1


@dataclass
class Operation:
    """A line of a profile: seconds in one repetition, share of its wall time, share of the machine's limit (linears
    only, and only where limits were measured).
    """

    name: str
    seconds: float
    share: float
    share_of_limit: float | None = None


@dataclass
class Result:
    """One test's figures.

    Attributes:
        samples_ns: wall time of each repetition. tokens_per_s, deviation: mean and sample standard deviation of the
            rates, the tokens of all sequences counted.
        bandwidth, peak, instruction: of agq.runtime.limits.Limits. bound: "memory" or "compute". share_of_limit: the
            least time that the limits allow over the mean time.
        profile: where the time goes.
    """

    kind: str
    tokens: int
    depth: int
    threads: int
    isa: str
    batch: int = 1
    samples_ns: list[int] = field(default_factory=list)
    tokens_per_s: float = 0.0
    deviation: float = 0.0
    bandwidth: float | None = None
    peak: float | None = None
    instruction: str | None = None
    bound: str | None = None
    share_of_limit: float | None = None
    profile: list[Operation] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def count(self, samples_ns: list[int]) -> None:
        """Fills in the rates."""
        self.samples_ns = samples_ns
        rates = [self.tokens * self.batch / (sample * 1e-9) for sample in samples_ns if sample > 0]
        if len(rates) < len(samples_ns):
            raise AgqError("the clock of this machine does not run")
        self.tokens_per_s = sum(rates) / len(rates)
        if len(rates) > 1:
            self.deviation = math.sqrt(sum((rate - self.tokens_per_s) ** 2 for rate in rates) / (len(rates) - 1))

    @property
    def mean_s(self) -> float:
        """Mean time of a repetition."""
        return sum(self.samples_ns) * 1e-9 / len(self.samples_ns)


def plan(
    prefill: list[int],
    decode: list[int],
    depths: list[int],
    threads: list[int | None],
    isas: list[str | None],
    batches: list[int] | None = None,
) -> list[Case]:
    """All combinations; 0 tokens means no such test."""
    kinds = [("prefill", count) for count in prefill if count] + [("decode", count) for count in decode if count]
    if not kinds:
        raise UsageError("nothing to measure", hint="give a number of tokens: `prefill: 512` or `decode: 64`")
    return [
        Case(kind, count, depth, number, isa, batch)
        for isa in isas
        for number in threads
        for batch in batches or [1]
        for depth in depths
        for kind, count in kinds
    ]


def run(
    artifact: Artifact,
    cases: list[Case],
    repetitions: int = 5,
    warmup: bool = True,
    at_once: int | None = None,
    kv_bits: int | None = None,
    profile: bool = False,
    limits: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Result]:
    """Measures case by case.

    Args:
        at_once: tokens computed at once (the engine's `batch`).
        limits: measure the machine's limits before and after each case, too.

    Raises:
        UsageError: more tokens than the model has positions. AgqError: as Engine; logits that are not finite.
    """
    context = max(case.tokens + case.depth for case in cases)
    if artifact.spec.position == "learned" and context > artifact.spec.context:
        raise UsageError(
            f"{context} tokens and depth together are more than the model's {artifact.spec.context} positions"
        )
    slots = max(case.batch for case in cases)
    engine: Engine | None = None
    made: tuple[int | None, str | None] | None = None
    try:
        for case in cases:
            if engine is None or made != (case.threads, case.isa):
                if engine is not None:
                    engine.close()
                engine = Engine(
                    artifact,
                    threads=case.threads,
                    context=context,
                    slots=slots,
                    batch=at_once,
                    kv_bits=kv_bits,
                    isa=case.isa,
                )
                made = (case.threads, case.isa)
            if progress is not None:
                progress(
                    f"{case.kind} {case.tokens} at depth {case.depth}, {case.batch} sequences, "
                    f"{engine.threads} threads, {engine.library.isa}"
                )
            yield _measure(engine, case, repetitions, warmup, profile, limits)
    finally:
        if engine is not None:
            engine.close()


def _measure(engine: Engine, case: Case, repetitions: int, warmup: bool, profile: bool, limits: bool) -> Result:
    result = Result(case.kind, case.tokens, case.depth, engine.threads, engine.library.isa, case.batch)
    size = machine.weight_bytes(engine.artifact)
    before = machine.measure_limits(engine.library, engine.threads, size) if limits else None
    work = Passes(engine, case)
    samples = []
    for repetition in range(repetitions + warmup):
        work.reset()
        if profile and repetition == warmup:
            engine.profile()
        start = time.perf_counter_ns()
        work.run()
        took = time.perf_counter_ns() - start
        if repetition >= warmup:
            samples.append(took)
        refuse_not_a_number(work.logits)
    seconds = engine.profile() if profile else {}
    result.count(samples)
    found = None
    if before is not None:
        found = before.best(machine.measure_limits(engine.library, engine.threads, size))
        result.bandwidth, result.peak, result.instruction = found.bandwidth, found.peak, found.instruction
        least, result.bound = work.least().bound_s(found)
        result.share_of_limit = least / result.mean_s
    if profile:
        result.profile = _profile(engine, case, result, seconds, repetitions, found)
    return result


class Passes:
    """The forward passes of one test: `reset` and `run` as often as wanted. logits: of the last `run`."""

    logits: np.ndarray

    def __init__(self, engine: Engine, case: Case) -> None:
        self._engine, self._case = engine, case
        shape = (case.batch, case.depth + case.tokens)
        self._ids = np.random.default_rng(0).integers(0, engine.vocab, shape).astype(np.int32)
        for slot in range(engine.slots):
            engine.truncate(slot, 0)
        if case.depth:
            for slot in range(case.batch):
                engine.forward(self._ids[slot, : case.depth], slot=slot, logits="none")
        self._slots = np.arange(case.batch, dtype=np.int32)
        self._tokens = np.repeat(self._slots, case.tokens)
        self._last = np.zeros(case.batch * case.tokens, bool)
        self._last[case.tokens - 1 :: case.tokens] = True

    def reset(self) -> None:
        """Back to `depth` tokens."""
        for slot in range(self._case.batch):
            self._engine.truncate(slot, self._case.depth)

    def run(self) -> None:
        """One repetition."""
        engine, case = self._engine, self._case
        if case.kind == "prefill":
            tokens = self._ids[:, case.depth :].reshape(-1)
            self.logits = engine.forward(tokens, slot=self._tokens, logits=self._last)
        elif case.batch == 1:
            for index in range(case.depth, case.depth + case.tokens):
                self.logits = engine.forward(self._ids[0, index : index + 1])
        else:
            for index in range(case.depth, case.depth + case.tokens):
                self.logits = engine.forward(self._ids[:, index], slot=self._slots, logits="all")

    def least(self) -> machine.Work:
        """What a repetition must do at least."""
        engine, case = self._engine, self._case
        position_bytes = engine.kv_bytes / (engine.slots * engine.context)
        if case.kind == "prefill":
            cached = position_bytes * case.depth * case.batch
            return machine.prefill_work(engine.artifact, case.tokens, case.batch, cached)
        return machine.decode_work(engine.artifact, case.tokens, case.batch, case.depth, position_bytes)


def _profile(
    engine: Engine, case: Case, result: Result, seconds: dict[str, float], repetitions: int, limits: Limits | None
) -> list[Operation]:
    """Seconds per part of one repetition, the rest of the wall time as a part of its own."""
    total = result.mean_s
    passes = 1 if case.kind == "prefill" else case.tokens
    head_tokens = case.batch * (1 if case.kind == "prefill" else case.tokens)
    parts = []
    for name, value in seconds.items():
        if value <= 0:
            continue
        took, share = value / repetitions, None
        work = machine.part_work(engine.artifact, name, case.tokens * case.batch, passes, head_tokens)
        if work is not None and limits is not None:
            share = work.bound_s(limits)[0] / took
        parts.append(Operation(name, took, took / total, share))
    outside = max(total - sum(part.seconds for part in parts), 0.0)
    return [*parts, Operation(OUTSIDE, outside, outside / total)]
