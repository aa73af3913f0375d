"""Speed of prefill and decode, as llama-bench measures it: warm-up, repetitions, mean and standard deviation, raw
samples.

A test is N tokens on top of `depth` tokens that stand in the KV cache already. Prefill gives all N to the engine at
once, decode one after the other; each asks for the last token's logits. Token ids are random with a fixed seed:
speed does not depend on them. Tokenizer and sampling are not part of it.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from agq.artifact.reader import Artifact
from agq.errors import AgqError, UsageError
from agq.runtime.engine import Engine


@dataclass(frozen=True)
class Case:
    """One test: kind "prefill" or "decode", tokens, depth, threads, kernels (None: the best)."""

    kind: str
    tokens: int
    depth: int
    threads: int | None
    isa: str | None = None


@dataclass
class Result:
    """samples_ns: wall time of each repetition. tokens_per_s, deviation: mean and sample standard deviation of the
    rates.
    """

    kind: str
    tokens: int
    depth: int
    threads: int
    isa: str
    samples_ns: list[int] = field(default_factory=list)
    tokens_per_s: float = 0.0
    deviation: float = 0.0
    profile_s: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def plan(
    prefill: list[int], decode: list[int], depths: list[int], threads: list[int | None], isas: list[str | None]
) -> list[Case]:
    """All combinations; 0 tokens means no such test."""
    kinds = [("prefill", count) for count in prefill if count] + [("decode", count) for count in decode if count]
    if not kinds:
        raise UsageError("nothing to measure", hint="give a number of tokens to --prefill or --decode")
    return [
        Case(kind, count, depth, number, isa)
        for isa in isas
        for number in threads
        for depth in depths
        for kind, count in kinds
    ]


def run(
    artifact: Artifact,
    cases: list[Case],
    repetitions: int = 5,
    warmup: bool = True,
    batch: int | None = None,
    kv_bits: int | None = None,
    profile: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Result]:
    """Measures case by case.

    Raises:
        UsageError: more tokens than the model has positions. AgqError: as Engine.
    """
    context = max(case.tokens + case.depth for case in cases)
    if artifact.spec.position == "learned" and context > artifact.spec.context:
        raise UsageError(
            f"{context} tokens and depth together are more than the model's {artifact.spec.context} positions"
        )
    engine: Engine | None = None
    made: tuple[int | None, str | None] | None = None
    try:
        for case in cases:
            if engine is None or made != (case.threads, case.isa):
                if engine is not None:
                    engine.close()
                engine = Engine(
                    artifact, threads=case.threads, context=context, batch=batch, kv_bits=kv_bits, isa=case.isa
                )
                made = (case.threads, case.isa)
            if progress is not None:
                progress(
                    f"{case.kind} {case.tokens} at depth {case.depth}, {engine.threads} threads, {engine.library.isa}"
                )
            yield _measure(engine, case, repetitions, warmup, profile)
    finally:
        if engine is not None:
            engine.close()


def _measure(engine: Engine, case: Case, repetitions: int, warmup: bool, profile: bool) -> Result:
    ids = np.random.default_rng(0).integers(0, engine.vocab, case.depth + case.tokens).astype(np.int32)
    result = Result(case.kind, case.tokens, case.depth, engine.threads, engine.library.isa)
    engine.truncate(0, 0)
    if case.depth:
        engine.forward(ids[: case.depth], logits="none")
    for repetition in range(repetitions + warmup):
        engine.truncate(0, case.depth)
        if profile and repetition == warmup:
            engine.profile()
        start = time.perf_counter_ns()
        if case.kind == "prefill":
            engine.forward(ids[case.depth :])
        else:
            for index in range(case.depth, case.depth + case.tokens):
                engine.forward(ids[index : index + 1])
        took = time.perf_counter_ns() - start
        if repetition >= warmup:
            result.samples_ns.append(took)
    if profile:
        result.profile_s = {name: seconds / repetitions for name, seconds in engine.profile().items()}
    rates = [case.tokens / (sample * 1e-9) for sample in result.samples_ns]
    result.tokens_per_s = sum(rates) / len(rates)
    if len(rates) > 1:
        result.deviation = math.sqrt(sum((rate - result.tokens_per_s) ** 2 for rate in rates) / (len(rates) - 1))
    if not math.isfinite(result.tokens_per_s):
        raise AgqError("the clock of this machine does not run")
    return result
