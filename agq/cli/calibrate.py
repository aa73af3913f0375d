"""`agq calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agq.reporting import console


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("calibrate")(calibrate)


def calibrate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", show_default=False, help="Recipe name, local folder or hub id.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", show_default=False, help="Default `<model>-calibration.safetensors`."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            envvar="AGQ_CALIBRATION_DATA",
            metavar="wikitext2|c4|FILE",
            show_default=False,
            help="Calibration text. Default wikitext2.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", envvar="AGQ_CALIBRATION_SAMPLES", min=1, show_default=False, help="Windows. Default 128."
        ),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            "--seq-len",
            envvar="AGQ_CALIBRATION_SEQ_LEN",
            min=1,
            show_default=False,
            help="Tokens per window. Default 2048, at most the model's context.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", envvar="AGQ_CALIBRATION_SEED", show_default=False, help="Of the choice of windows. Default 0."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", show_default=False, help="Recipe (YAML); options on the command line win."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="cpu|cuda", show_default=False, help="Default cuda where there is one."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", "-t", min=1, show_default=False, help="Default: the cores that this process may use."
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one object about the result on stdout.")] = False,
) -> None:
    """Collect statistics of every linear's input on calibration text, for `agq quantize --calibration`."""
    from agq.cli.torch_setup import set_threads
    from agq.recipe import load_recipe

    recipe = load_recipe(str(config)) if config is not None else None
    set_threads(threads)
    import agq
    from agq.quantization.walk import Progress
    from agq.reporting.output import human_size, print_json

    with console.progress("calibrate", unit="blocks") as bar:

        class Shown(Progress):
            def start(self, blocks: int) -> None:
                bar.update(total=blocks)

            def block(self, index: int, seconds: float, resumed: bool) -> None:
                bar.advance(note=f"block {index}")

        result = agq.calibrate(
            model,
            output,
            recipe=recipe,
            data=data,
            samples=samples,
            seq_len=seq_len,
            seed=seed,
            force=force,
            device=device,
            progress=Shown(),
        )
    console.say(
        f"{result.windows} windows of {result.tokens} tokens; attention to the first token by block: "
        + " ".join(f"{value:.1%}" for value in result.attention)
    )
    console.say(f"statistics: {human_size(result.path.stat().st_size)} in `{result.path}`")
    if json_output:
        print_json(
            {
                "output": str(result.path),
                "windows": result.windows,
                "seq_len": result.tokens,
                "attention_to_first": result.attention,
            }
        )
