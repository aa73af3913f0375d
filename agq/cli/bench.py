"""`agq bench`: speed of a packed model on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from agq.errors import UsageError
from agq.reporting import console
from agq.reporting.progress_bar import progress

FORMATS = ("md", "json", "jsonl", "csv")
_MOST = 1 << 20


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("bench")(bench)


def bench(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Packed file; a folder, GGUF file, recipe name or hub id is packed into the cache."
        ),
    ],
    prefill: Annotated[
        str, typer.Option("--prefill", "-p", help="Tokens of the prompt; several by comma, 0 for none.")
    ] = "512",
    decode: Annotated[
        str, typer.Option("--decode", "-n", help="Tokens to generate; several by comma, 0 for none.")
    ] = "128",
    depth: Annotated[str, typer.Option("--depth", "-d", help="Tokens in the KV cache before; several by comma.")] = "0",
    batch: Annotated[
        str,
        typer.Option("--batch", "-b", envvar="AGQ_BENCH_BATCH", help="Sequences computed together; several by comma."),
    ] = "1",
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
    at_once: Annotated[
        int | None, typer.Option("--ubatch", "-u", min=1, help="Tokens computed at once. Default: 256.")
    ] = None,
    kv_bits: Annotated[
        int | None, typer.Option("--kv-bits", help="Bits of the KV cache: 4, 8 or 32. Default: as packed.")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also the time of each operation: a table, or a list in the JSON.")
    ] = False,
    limits: Annotated[
        bool,
        typer.Option(
            "--limits/--no-limits",
            help="Measure the machine's memory bandwidth and integer peak beside each test, and its share of them.",
        ),
    ] = True,
    startup: Annotated[
        bool,
        typer.Option(
            "--startup/--no-startup", help="Time from the start of `agq run` to its first token, model in page cache."
        ),
    ] = True,
    output: Annotated[
        str, typer.Option("--output", "-o", envvar="AGQ_BENCH_OUTPUT", help="md, json, jsonl or csv.")
    ] = "md",
    json_output: Annotated[bool, typer.Option("--json", help="The same as `--output json`.")] = False,
) -> None:
    """Measure speed on this machine: prefill and decode in tokens per second, mean and standard deviation.

    The share of the limit is the least time that the machine's memory bandwidth and integer peak allow over the time
    measured. With several sequences their tokens are counted together.
    """
    if json_output and output not in ("md", "json"):
        raise UsageError(f"--json and --output {output} exclude each other")
    output = "json" if json_output else output
    if output not in FORMATS:
        raise UsageError(f"unknown output `{output}`", hint=f"one of {', '.join(FORMATS)}")
    prompts, steps = _numbers(prefill, "--prefill"), _numbers(decode, "--decode")
    depths = _numbers(depth, "--depth")
    batches = _numbers(batch, "--batch", 1)
    many: list[int | None] = [None] if threads is None else list(_numbers(threads, "--threads", 1))
    isas: list[str | None] = [None] if isa is None else [item.strip() for item in isa.split(",")]

    from agq.cli.bench_output import Printer
    from agq.cli.startup import first_token
    from agq.runtime import benchmark
    from agq.runtime.cache import open_model

    cases = benchmark.plan(prompts, steps, depths, many, isas, batches)
    artifact = open_model(model, console.say)
    printer = Printer(output, artifact)
    machines: dict[tuple[int, str], None] = {}  # threads and kernels that were used, in order
    with progress("bench", total=len(cases) + startup * len(many) * len(isas), unit="tests") as bar:
        for result in benchmark.run(
            artifact,
            cases,
            repetitions,
            warmup,
            at_once,
            kv_bits,
            profile,
            limits,
            lambda note: bar.update(note=note),
        ):
            bar.advance()
            with bar.aside():
                printer.row(result)
            machines[result.threads, result.isa] = None
        for number, name in machines if startup else ():
            bar.update(note=f"time to the first token, {number} threads, {name}")
            result = benchmark.Result("startup", 1, 0, number, name)
            result.count(first_token(artifact.path, number, name, repetitions, kv_bits=kv_bits))
            bar.advance()
            with bar.aside():
                printer.row(result)
    printer.end()


def _numbers(text: str, name: str, least: int = 0) -> list[int]:
    values = [item.strip() for item in text.split(",")]
    if not all(
        item.isascii() and item.isdigit() and least <= int(item[:9]) <= _MOST and len(item) < 9 for item in values
    ):
        raise UsageError(f"{name} is `{text}`, not whole numbers from {least} to {_MOST} separated by commas")
    return [int(item) for item in values]
