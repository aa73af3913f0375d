"""How far the forecasts of `agq recommend` are from what `agq bench` measures: a table of cases and the median error.

    python -m benchmarks.recommend_error FILE.agq.safetensors ... [--threads 2] [--rounds 3]

Both sides are measured in turn, several times: the kernel table (agq/planning/measure.py), then prompts and answers of
each file. Samples are short, and the least time of each side counts: other programs on the machine only make it longer.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from agq.artifact import open_artifact
from agq.planning.measure import measure, needed
from agq.planning.recommend import scheme_of
from agq.planning.roofline import decode_seconds, prefill_seconds
from agq.planning.sizes import read_bytes
from agq.runtime import benchmark

# (kind, tokens, depth): of each file those that its context holds.
CASES = (
    ("prefill", 64, 0),
    ("prefill", 256, 0),
    ("prefill", 512, 0),
    ("decode", 8, 16),
    ("decode", 8, 512),
    ("decode", 8, 1500),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=None, help="Default: physical cores.")
    parser.add_argument("--rounds", type=int, default=3, help="Measurements of each side.")
    options = parser.parse_args()
    print("| file | scheme | test | measured | predicted | error |\n|---|---|---|--:|--:|--:|")
    errors = []
    for path in options.files:
        errors += compare(path, options.threads, options.rounds)
    print(f"\nmedian error: {100 * statistics.median(errors):.1f} % of {len(errors)} cases")
    print(f"largest: {100 * max(errors):.0f} %; within 15 %: {sum(error <= 0.15 for error in errors)}")


def compare(path: Path, threads: int | None, rounds: int) -> list[float]:
    """Prints the rows of a file; relative errors."""
    artifact = open_artifact(path)
    model = artifact.info
    cases = [
        benchmark.Case(kind, tokens, depth, threads)
        for kind, tokens, depth in CASES
        if tokens + depth <= artifact.spec.context
    ]
    measured = dict.fromkeys(cases, float("inf"))
    predicted = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        table = measure(needed([(model, read_bytes(model))], [model.kv_bits]), threads)
        for case in cases:
            if case.kind == "prefill":
                seconds = prefill_seconds(model, table, case.tokens, 1, model.kv_bits)
            else:
                seconds = decode_seconds(model, table, case.tokens, case.depth, 1, model.kv_bits)
            predicted[case] = min(predicted[case], seconds)
        for case, result in zip(cases, benchmark.run(artifact, cases, repetitions=8, limits=False), strict=True):
            measured[case] = min(measured[case], min(result.samples_ns) * 1e-9)
    errors = []
    for case in cases:
        error = predicted[case] / measured[case] - 1
        errors.append(abs(error))
        rates = [case.tokens / side[case] for side in (measured, predicted)]
        test = f"{'pp' if case.kind == 'prefill' else 'tg'}{case.tokens}" + (f" @ d{case.depth}" if case.depth else "")
        name = path.name.removesuffix(".safetensors").removesuffix(".agq")
        print(f"| {name} | {scheme_of(model)} | {test} | {rates[0]:.1f} | {rates[1]:.1f} | {100 * error:+.0f} % |")
    return errors


if __name__ == "__main__":
    main()
