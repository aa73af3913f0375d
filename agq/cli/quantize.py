"""`agq quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agq.cli.options import every, with_options
from agq.errors import AgqError, UsageError
from agq.recipe.changes import RecipeChanges, RunOptions
from agq.recipe.declaration import OUTPUT
from agq.reporting import console


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("quantize")(quantize)


def _option(*names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=OUTPUT, show_default=False, **more)


@with_options(changes=every(RecipeChanges), run=every(RunOptions))
def quantize(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", show_default=False, help="Folder, GGUF file, hub id or recipe name (`llama-7b`)."
        ),
    ] = None,
    *,
    changes: RecipeChanges,
    run: RunOptions,
    config: Annotated[
        Path | None,
        _option("--config", metavar="FILE", help="Recipe (YAML); options on the command line win. Default: none."),
    ] = None,
    output: Annotated[
        Path | None,
        _option("--output", "-o", metavar="DIR", help="Default `<model>-<scheme>` in the current folder."),
    ] = None,
    force: Annotated[bool, _option("--force", help="Replace a model folder that stands at the output path.")] = False,
    resume: Annotated[
        bool, _option("--resume/--no-resume", help="Continue an interrupted run of the same settings. Default on.")
    ] = True,
    threads: Annotated[
        int | None, _option("--threads", "-t", min=1, help="Default: the cores that this process may use.")
    ] = None,
    dry_run: Annotated[
        bool,
        _option(
            "--dry-run",
            help="Check all that can be, the text too, print what would be done and how long it takes, and stop.",
        ),
    ] = False,
    print_config: Annotated[
        bool, _option("--print-config", help="Print the effective recipe as YAML and stop.")
    ] = False,
    json_output: Annotated[bool, _option("--json", help="Print one object about the result on stdout.")] = False,
) -> None:
    """Quantize a model's weights and write a compressed-tensors folder."""
    from dataclasses import replace

    from agq.recipe import load_recipe, resolve_model
    from agq.recipe.resolve import effective_recipe, pruning_asked_for

    recipe = load_recipe(str(config)) if config is not None else None
    pruning_asked_for(changes)
    model = model or (recipe.model if recipe is not None else None)
    if not model:
        raise UsageError(
            "no MODEL given",
            hint="`agq quantize llama-7b`, `agq quantize FOLDER`, or a recipe with `model:` by `--config`",
        )
    if print_config and (dry_run or json_output):
        raise UsageError(f"--print-config and {'--dry-run' if dry_run else '--json'} exclude each other")
    if print_config:
        automatic = recipe is None and not model.endswith((".yaml", ".yml"))
        if recipe is None:
            _, recipe = resolve_model(model)
        effective = effective_recipe(recipe, changes, automatic)
        print(replace(effective, model=effective.model or model).to_yaml(), end="")
        return
    if recipe is not None and model == recipe.model:
        try:
            resolve_model(model)
        except AgqError as error:  # such as the recipe of a result, which names the model without its folder
            raise AgqError(
                error.message, hint=f"`{config}` says so; name the model: `agq quantize FOLDER --config {config}`"
            ) from None
    from agq.system.torch_threads import idle_threads_sleep, set_threads

    idle_threads_sleep()
    from agq.cli.quantize_output import plan_object, run_plan, show_plan, show_report
    from agq.quantization.execute import refuse_taken_back
    from agq.quantization.nearest import suffices
    from agq.quantization.plan import plan as make_plan

    plan = make_plan(model, output, changes, run, recipe=recipe, force=force, check_space=not dry_run)
    if not suffices(plan):
        set_threads(threads)
    if dry_run:
        from agq.quantization.rehearsal import rehearse
        from agq.reporting.output import print_json

        try:
            seconds = rehearse(plan, resume)
        except AgqError:
            if not json_output:
                show_plan(plan)
            raise
        if json_output:
            print_json(plan_object(plan, seconds))
        else:
            show_plan(plan, seconds)
        return
    report = run_plan(plan, resume, threads)
    show_report(plan, report, json_output)
    refuse_taken_back(plan, report)
    if plan.push is not None:
        from agq.quantization.publish import publish

        console.say(f"pushed: {publish(plan, report, plan.push)}")
