"""`agq sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agq.errors import UsageError
from agq.reporting import console


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("sweep")(sweep)


def sweep(
    definition: Annotated[
        Path,
        typer.Argument(metavar="SWEEP.yaml", show_default=False, help="Models, texts and rows; see configs/sweeps/."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Results, and what is needed to go on after an interruption."
        ),
    ] = Path("sweep"),
    model: Annotated[
        list[str] | None,
        typer.Option("--model", show_default=False, help="Only this model of the sweep. May be repeated."),
    ] = None,
    row: Annotated[
        list[str] | None, typer.Option("--row", show_default=False, help="Only this row of the sweep. May be repeated.")
    ] = None,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw results.svg (needs matplotlib).")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the entries and stop.")] = False,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Entries made at the same time, on the CUDA devices in turn; speeds are measured afterwards.",
        ),
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option("--threads", "-t", min=1, show_default=False, help="Default: the sweep's, else by the machine."),
    ] = None,
) -> None:
    """Quantize and measure models by several methods, and make one table of it.

    Writes results.md, results.json and results.svg. Finished entries are kept: the same command goes on after an
    interruption.
    """
    from dataclasses import replace

    from agq.sweep.definition import load_sweep, select

    chosen = select(load_sweep(definition), model, row)
    if threads is not None:
        chosen = replace(chosen, threads=threads)
    if dry_run:
        for entry in chosen.models:
            for item in chosen.rows_of(entry):
                print(f"{entry.name}\t{item.name}")
        return
    if output.exists() and not output.is_dir():
        raise UsageError(f"`{output}` is a file", hint="--output names a folder")
    from agq.sweep import plot as drawing

    if plot:
        drawing.check_available()
    from agq.system.torch_threads import set_threads

    set_threads(chosen.threads)
    from agq.sweep.report import to_markdown, write_json
    from agq.sweep.runner import run_sweep

    with console.progress("sweep", unit="entries") as bar:

        def report(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.advance(done - bar.done, what)

        records = run_sweep(chosen, output, report, jobs)
    from agq.files import atomic_write_text

    text = to_markdown(chosen, records, f"agq sweep {definition.name}")
    atomic_write_text(output / "results.md", text)
    write_json(output / "results.json", chosen, records)
    if plot:
        drawing.write_plot(output / "results.svg", chosen, records)
    print(text, end="")
    failed = [f"{record['model']} / {record['row']}" for record in records if "error" in record]
    if failed:
        console.warning(f"{len(failed)} entries could not be made: {', '.join(failed)}; results.md says why")
