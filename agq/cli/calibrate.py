"""`agq calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agq.cli import pruning
from agq.cli.options import Group, with_options
from agq.errors import UsageError
from agq.recipe.changes import RecipeChanges
from agq.recipe.declaration import section
from agq.reporting import console
from agq.reporting.progress_bar import progress

if TYPE_CHECKING:
    from agq.evaluation.pruning_search import SearchResult


_WINDOWS = Group(
    RecipeChanges,
    section(RecipeChanges.options(), "calibration"),
    {
        "samples": "Windows. Default 128, with --search-pruning 8.",
        "detached": "Every second window with detached punctuation, as WikiText has it. Default as the recipe says, "
        "else no.",
    },
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("calibrate")(calibrate)


@with_options(changes=_WINDOWS)
def calibrate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", show_default=False, help="Folder, GGUF file, hub id or recipe name.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default=False,
            help="Default `<model>-calibration.safetensors`, with --search-pruning `<model>-pruning.yaml`.",
        ),
    ] = None,
    *,
    changes: RecipeChanges,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            show_default=False,
            help="Recipe (YAML); options on the command line win. Default: none.",
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
    search_pruning: Annotated[
        bool,
        typer.Option(
            "--search-pruning",
            rich_help_panel="Token pruning",
            help="Instead: search the layers that prune with the least loss, and write them as a recipe for --config.",
        ),
    ] = False,
    sparsity: Annotated[
        list[float] | None,
        typer.Option(
            "--sparsity",
            rich_help_panel="Token pruning",
            show_default=False,
            help="Share of the (token, layer) pairs to leave out, default 0.1. May be repeated: the best for the "
            "first is written.",
        ),
    ] = None,
    positions: pruning.Positions = None,
    scores: pruning.Scores = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one object about the result on stdout.")] = False,
) -> None:
    """Collect statistics of every linear's input on calibration text, for `agq quantize --calibration`.

    With --search-pruning: measure token pruning that starts at several layers, and write the best choice.
    """
    if not search_pruning and (sparsity or positions or scores):
        raise UsageError("--sparsity, --prune-positions and --prune-scores need --search-pruning")
    from agq.recipe import load_recipe
    from agq.system.torch_threads import set_threads

    recipe = load_recipe(str(config)) if config is not None else None
    set_threads(threads)
    if search_pruning:
        if device not in (None, "cpu"):
            raise UsageError("--search-pruning computes on the CPU")
        from agq.evaluation.pruning_search import search_pruning as find

        with progress("search", unit="evaluations") as bar:

            def report(done: int, total: int) -> None:
                bar.reach(done, total)

            found = find(
                model,
                output,
                sparsities=sparsity or [0.1],
                positions=positions or "safe",
                scores=scores or "fp",
                changes=changes,
                recipe=recipe,
                force=force,
                report=report,
            )
        _show_search(found, json_output)
        return
    from agq.calibration.calibrate import collect
    from agq.reporting.output import human_size, print_json
    from agq.reporting.progress import Progress

    with progress("calibrate", unit="blocks") as bar:

        class Shown(Progress):
            def start(self, blocks: int) -> None:
                bar.update(total=blocks)

            def block(self, index: int, seconds: float, resumed: bool) -> None:
                bar.advance(note=f"block {index}")

        result = collect(model, output, changes, recipe=recipe, force=force, device=device, progress=Shown())
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


def _show_search(result: SearchResult, json_output: bool) -> None:
    from agq.reporting.output import print_json, print_table

    console.say(f"{result.windows} windows of {result.seq_len} tokens; choice in `{result.path}`")
    if json_output:
        print_json(
            {
                "output": str(result.path),
                "windows": result.windows,
                "seq_len": result.seq_len,
                "choice": result.choice.to_dict(),
                "candidates": [item.to_dict() for item in result.candidates],
            }
        )
        return
    print_table(
        ["sparsity", "layers", "beta", "loss of all tokens, nats", ""],
        [
            [
                f"{item.sparsity:.4f}",
                item.options.layers,
                f"{item.options.beta:.3f}",
                f"{item.increase:+.4f} +- {item.stderr:.4f}",
                "best" if item.best else "",
            ]
            for item in result.candidates
        ],
        right=(0, 2, 3),
    )
