"""`agq.quantize`: from a model folder to a quantized one. Plans first, then executes the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agq.quantization.execute import execute, refuse_taken_back
from agq.quantization.plan import plan
from agq.quantization.report import QuantizeReport
from agq.recipe import Recipe
from agq.recipe.changes import RecipeChanges, RunOptions
from agq.recipe.declaration import given_to, takes
from agq.reporting.progress import Progress


def quantize(
    model: str | Path,
    output: str | Path | None = None,
    *,
    recipe: Recipe | None = None,
    force: bool = False,
    resume: bool = True,
    progress: Progress | None = None,
    **given: Any,
) -> QuantizeReport:
    """Quantizes a model and writes a compressed-tensors folder.

    Args:
        model: a recipe's name ("llama-7b"), a local folder or a hub id.
        output: the folder to write, by default `<model>-<scheme>` in the current one.
        recipe: what to start from; by default the recipe that `model` names, else W4A8 and the scheme's preset (unless
            a method is given).
        force: replace a model folder that stands at `output`. resume: continue an interrupted run of the same settings.

    Raises:
        AgqError: bad input; UsageError: an unknown option, options that contradict each other.
    """
    changes, run = given_to(quantize, given, RecipeChanges, RunOptions)
    made = plan(str(model), output, changes, run, recipe=recipe, force=force)
    report = execute(made, resume, progress)
    refuse_taken_back(made, report)
    if made.push is not None:
        from agq.quantization.publish import publish

        publish(made, report, made.push)
    return report


takes(quantize, [*RecipeChanges.options(), *RunOptions.options()])
