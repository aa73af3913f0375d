"""`agq report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agq.reporting import console
from agq.reporting.progress_bar import progress


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("report")(report)


def report(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", show_default=False, help="Quantized folder, packed file or GGUF file.")
    ],
    original: Annotated[
        str | None,
        typer.Option(
            "--original",
            metavar="MODEL",
            show_default=False,
            help="The unquantized model: what was lost, ranges before the transformations. Default: not compared.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            envvar="AGQ_REPORT_DATA",
            show_default=False,
            help="Text to measure on, as of `agq eval-ppl`. Default: the calibration's, where it is on this machine.",
        ),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            "--seq-len",
            "--ctx",
            envvar="AGQ_REPORT_SEQ_LEN",
            min=2,
            show_default=False,
            help="Tokens per window. Default 512, at most the model's context.",
        ),
    ] = None,
    max_windows: Annotated[int, typer.Option("--max-windows", min=1, help="How many windows are read at most.")] = 8,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", show_default=False, help="Default `<model>-report.html` in this folder."
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            "--png", metavar="DIR", show_default=False, help="Each chart as a picture, too (matplotlib). Default: none."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=1, show_default=False, help="Default: by the machine.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Write a page that shows where a quantized model's accuracy went.

    One HTML file without scripts: perplexities, errors of each layer, ranges and
    outliers of inputs, attention, bits and bytes, recipe. It says what it cannot show.
    """
    from agq.files import atomic_write_text
    from agq.hub import find_model
    from agq.report import png as pictures
    from agq.report.html import render
    from agq.report.make import make
    from agq.reporting.output import print_json
    from agq.runtime.cache import packed_gguf

    if png is not None:
        pictures.check_available()
    path = packed_gguf(find_model(model)[0], console.say)
    source = find_model(original)[0] if original is not None else None
    with progress("report", unit="windows") as bar:

        def step(what: str, done: int, total: int) -> None:
            bar.reach(done, total, what)

        made = make(path, source, data, seq_len, max_windows, threads, step, console.warning)
    target = output or Path(f"{made.subject.name}-report.html")
    atomic_write_text(target, render(made.page))
    drawn = pictures.write(made.page, png) if png is not None else []
    if json_output:
        print_json({"output": target, "png": drawn, **made.to_dict()})
        return
    for sentence in made.page.story:
        print(sentence)
    console.say(f"all of it: `{target}`" + (f", {len(drawn)} pictures in `{png}`" if png is not None else ""))
