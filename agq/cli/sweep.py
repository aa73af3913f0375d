"""`agq sweep`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agq.errors import UsageError
from agq.reporting import console
from agq.reporting.progress_bar import progress

if TYPE_CHECKING:
    from agq.sweep.definition import Sweep


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
        typer.Option(
            "--model", show_default=False, help="Only this model of the sweep. May be repeated. Default: all."
        ),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option("--row", show_default=False, help="Only this row of the sweep. May be repeated. Default: all."),
    ] = None,
    plot: Annotated[
        bool,
        typer.Option(
            "--plot/--no-plot", help="Draw results.svg, and sizes.svg of rows with a target (needs matplotlib)."
        ),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the entries, if models, texts and packages are there, and stop.")
    ] = False,
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
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object with the records on stdout.")] = False,
) -> None:
    """Quantize and measure models by several methods, and make one table of it.

    Writes results.md, results.json and results.svg. Finished entries are kept: the same command goes on after an
    interruption.
    """
    from dataclasses import replace

    from agq.sweep.definition import check_reachable, load_sweep, select

    whole = load_sweep(definition)
    if threads is not None:
        whole = replace(whole, threads=threads)
    chosen = select(whole, model, row)
    if output.exists() and not output.is_dir():
        raise UsageError(f"`{output}` is a file", hint="--output names a folder")
    _check_packages(chosen, plot)
    if dry_run:
        check_reachable(chosen)
        _print_entries(
            [(entry.name, item.name) for entry in chosen.models for item in chosen.rows_of(entry)], json_output
        )
        return
    from agq.sweep import plot as drawing
    from agq.system.torch_threads import set_threads

    set_threads(chosen.threads)
    from agq.files import atomic_write_text, exclusive
    from agq.reporting.output import print_json
    from agq.sweep.report import to_markdown, write_json
    from agq.sweep.runner import run_sweep, with_kept

    with progress("sweep", unit="entries") as bar:

        def report(done: int, total: int, what: str) -> None:
            bar.reach(done, total, what)

        output.mkdir(parents=True, exist_ok=True)
        with exclusive(output / "results", "agq sweep"):
            made = run_sweep(chosen, output, report, jobs, bar.foretell)
    # The files tell of the whole sweep, also where a part of it was asked for now.
    records = with_kept(whole, made, output)
    text = to_markdown(whole, records, f"agq sweep {definition.name}")
    atomic_write_text(output / "results.md", text)
    write_json(output / "results.json", whole, records)
    if plot:
        drawing.write_plot(output / "results.svg", whole, records)
        if any(drawing.chosen_formats(row) for row in whole.rows):
            drawing.write_sizes(output / "sizes.svg", whole, records)
    if json_output:
        print_json({"output": str(output), "records": made})
    elif console.is_terminal(sys.stdout):
        _print_results(chosen, made)
        print(f"all of it: {output / 'results.md'}")
    else:
        print(text, end="")
    failed = [f"{record['model']} / {record['row']}" for record in records if "error" in record]
    if failed:
        console.warning(f"{len(failed)} entries could not be made: {', '.join(failed)}; results.md says why")


def _check_packages(chosen: Sweep, plot: bool) -> None:
    """ModuleNotFoundError or AgqError for a package that the sweep will need, the largest first: none is imported."""
    from agq.sweep import plot as drawing
    from agq.sweep.definition import downloaded_texts

    for name in ("torch", *(("datasets",) if downloaded_texts(chosen) else ())):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"no package {name}", name=name)
    if plot:
        drawing.check_available()


def _print_entries(entries: list[tuple[str, str]], json_output: bool) -> None:
    """What a sweep would make, as (model, row): a table for a terminal, else lines with a tab."""
    from agq.reporting.output import print_json, print_table

    if json_output:
        print_json({"entries": [{"model": model, "row": row} for model, row in entries]})
    elif console.is_terminal(sys.stdout):
        print_table(("model", "row"), entries)
    else:
        print("".join(f"{model}\t{row}\n" for model, row in entries), end="")


def _print_results(sweep: Sweep, records: list[dict[str, Any]]) -> None:
    """For a terminal: a table a model that fits it."""
    from agq.reporting.output import print_table
    from agq.sweep.report import by_name, effective_bits, relative

    table = by_name([record for record in records if record])
    text = sweep.texts[0].name
    for model in sweep.models:
        rows = []
        for row in sweep.rows_of(model):
            record = table.get((model.name, row.name), {})
            if "texts" not in record:
                continue
            found = record["texts"][text]
            ratio, bits = relative(table, model.name, row.name, text), record.get("bits_per_weight")
            speeds = [record.get(name) for name in ("prefill", "decode")]
            rows.append(
                [
                    row.name,
                    f"{found.get('ppl_all', found['ppl']):.2f}",
                    None if ratio is None else f"{ratio:.4f}",
                    None if record.get("kl") is None else f"{record['kl']:.4f}",
                    None if bits is None else f"{bits:.2f}",
                    effective_bits(record),
                    None if record.get("quantize_s") is None else f"{record['quantize_s']:.0f}",
                    *(None if speed is None else f"{speed:,.0f}" for speed in speeds),
                ]
            )
        print_table(
            ("row", f"{text} ppl", "ratio", "KL", "bits", "abits", "quantize s", "prefill tok/s", "decode tok/s"),
            rows,
            title=model.name,
            right=range(1, 9),
            least=("quantize s", "prefill tok/s", "KL", "decode tok/s", "bits", "ratio"),
        )
