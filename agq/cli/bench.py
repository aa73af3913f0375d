"""`agq bench`: speed of a packed model on this machine."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from agq.errors import UsageError
from agq.reporting import console

FORMATS = ("md", "json", "jsonl", "csv")
_MOST = 1 << 20


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("bench")(bench)


def bench(
    model: Annotated[
        str,
        typer.Argument(metavar="ARTIFACT", help="Packed artifact; or a model folder, which is packed into the cache."),
    ],
    prefill: Annotated[
        str, typer.Option("--prefill", "-p", help="Tokens of the prompt; several by comma, 0 for none.")
    ] = "512",
    decode: Annotated[
        str, typer.Option("--decode", "-n", help="Tokens to generate; several by comma, 0 for none.")
    ] = "128",
    depth: Annotated[str, typer.Option("--depth", "-d", help="Tokens in the KV cache before; several by comma.")] = "0",
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads", "-t", help="Several by comma. Default: the physical (big) cores that this process may use."
        ),
    ] = None,
    isa: Annotated[
        str | None,
        typer.Option(
            "--isa", envvar="AGQ_BENCH_ISA", help="Kernel libraries, several by comma. Default: AGQ_ISA, else the best."
        ),
    ] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", "-r", min=1, help="Measurements of each test.")] = 5,
    warmup: Annotated[bool, typer.Option("--warmup/--no-warmup", help="One more before, not counted.")] = True,
    batch: Annotated[
        int | None, typer.Option("--batch", "-b", min=1, help="Tokens computed at once. Default: 256.")
    ] = None,
    kv_bits: Annotated[
        int | None, typer.Option("--kv-bits", help="Bits of the KV cache, 8 or 32. Default: as packed.")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also where the time goes (json, jsonl, or on stderr).")
    ] = False,
    output: Annotated[
        str, typer.Option("--output", "-o", envvar="AGQ_BENCH_OUTPUT", help="md, json, jsonl or csv.")
    ] = "md",
) -> None:
    """Measure speed on this machine: prefill and decode in tokens per second, mean and standard deviation."""
    if output not in FORMATS:
        raise UsageError(f"unknown output `{output}`", hint=f"one of {', '.join(FORMATS)}")
    counts = [_numbers(text, name) for text, name in ((prefill, "--prefill"), (decode, "--decode"), (depth, "--depth"))]
    many: list[int | None] = [None] if threads is None else list(_numbers(threads, "--threads", 1))
    isas: list[str | None] = [None] if isa is None else [item.strip() for item in isa.split(",")]

    from agq.runtime import benchmark
    from agq.runtime.cache import open_model

    cases = benchmark.plan(*counts, many, isas)
    artifact = open_model(model, console.say)
    results = []
    printer = _Printer(output, artifact)
    with console.progress("bench", total=len(cases), unit="tests") as bar:
        for result in benchmark.run(
            artifact, cases, repetitions, warmup, batch, kv_bits, profile, lambda note: bar.update(note=note)
        ):
            results.append(result)
            bar.advance()
            printer.row(result)
    printer.end(results)


def _numbers(text: str, name: str, least: int = 0) -> list[int]:
    values = [item.strip() for item in text.split(",")]
    if not all(
        item.isascii() and item.isdigit() and least <= int(item[:9]) <= _MOST and len(item) < 9 for item in values
    ):
        raise UsageError(f"{name} is `{text}`, not whole numbers from {least} to {_MOST} separated by commas")
    return [int(item) for item in values]


class _Printer:
    """Rows of one of the formats, each as soon as it is measured where the format allows."""

    def __init__(self, form: str, artifact: Any) -> None:
        from agq.runtime.engine import scheme_words

        self._form = form
        self._started = False
        weights, activations = scheme_words(artifact.linears["blocks.0.qkv"])
        self._model = {"model": artifact.path.name, "scheme": f"W{weights}, A{activations}", "bytes": artifact.size}

    def _values(self, result: Any) -> dict[str, Any]:
        return self._model | result.to_dict()

    def row(self, result: Any) -> None:
        if self._form == "jsonl":
            from agq.reporting.output import print_json

            print_json(self._values(result))
        elif self._form != "json":
            self._text(result)
        if result.profile_s is not None and self._form in ("md", "csv"):
            total = sum(result.profile_s.values()) or 1.0
            shares = ", ".join(
                f"{name} {100 * seconds / total:.1f} %" for name, seconds in result.profile_s.items() if seconds > 0
            )
            console.say(f"{result.kind} {result.tokens}: {shares}")

    def _text(self, result: Any) -> None:
        name = (
            {"prefill": "pp", "decode": "tg"}[result.kind]
            + str(result.tokens)
            + (f" @ d{result.depth}" if result.depth else "")
        )
        if self._form == "md":
            if not self._started:
                print("| model | scheme | size | kernels | threads | test | tok/s |")
                print("|---|---|---:|---|---:|---|---:|")
            print(
                f"| {self._model['model']} | {self._model['scheme']} | {self._model['bytes'] / 1e6:.1f} MB | "
                f"{result.isa} | "
                f"{result.threads} | {name} | {result.tokens_per_s:.2f} ± {result.deviation:.2f} |"
            )
        else:
            import csv

            writer = csv.writer(sys.stdout, lineterminator="\n")
            if not self._started:
                writer.writerow(
                    [
                        "model",
                        "scheme",
                        "bytes",
                        "isa",
                        "threads",
                        "kind",
                        "tokens",
                        "depth",
                        "tokens_per_s",
                        "deviation",
                        "samples_ns",
                    ]
                )
            writer.writerow(
                [
                    *self._model.values(),
                    result.isa,
                    result.threads,
                    result.kind,
                    result.tokens,
                    result.depth,
                    f"{result.tokens_per_s:.4f}",
                    f"{result.deviation:.4f}",
                    " ".join(map(str, result.samples_ns)),
                ]
            )
        sys.stdout.flush()
        self._started = True

    def end(self, results: list[Any]) -> None:
        if self._form == "json":
            from agq.reporting.output import print_json

            print_json([self._values(result) for result in results])
