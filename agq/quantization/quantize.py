"""`agq.quantize`: from a model folder to a quantized one. Plans first, then executes the plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agq.quantization.execute import QuantizeReport, execute
from agq.quantization.plan import plan
from agq.recipe import Override, Recipe
from agq.reporting.progress import Progress


def quantize(
    model: str | Path,
    output: str | Path | None = None,
    *,
    recipe: Recipe | None = None,
    scheme: str | None = None,
    method: str | None = None,
    calibration: str | Path | None = None,
    overrides: Sequence[str | Override] | None = None,
    ct_format: str | None = None,
    force: bool = False,
    resume: bool = True,
    device: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> QuantizeReport:
    """Quantizes a model and writes a compressed-tensors folder.

    Args:
        model: a recipe's name ("llama-7b"), a local folder or a hub id.
        output: the folder to write, by default `<model>-<scheme>` in the current one.
        recipe: what to start from; by default the recipe that `model` names, else W4A8. preset, in **options: see
        configs/presets; by default the one of the scheme, unless `recipe` or `method` is given.
        scheme: "W4A8", "W4A4", "W8A8", "W4A16", ... method: "gptq", "gptaq" or "rtn". overrides: "PATTERN=SCHEME".
        calibration: statistics file of `calibrate`, whose windows GPTQ uses (and whose mean squares weigh RTN's clip
        search). ct_format: "pack" or "int"; by default packed, int for 8-bit weights.
        force: replace a model folder that stands at `output`. resume: continue an interrupted run of the same settings.
        device: "cpu", "cuda"; by default CUDA where there is one.
        options: see agq.recipe.resolve.adjust_recipe.

    Raises:
        AgqError: bad input; UsageError: options that contradict each other.
    """
    return execute(
        plan(
            str(model),
            output,
            recipe=recipe,
            calibration=calibration,
            ct_format=ct_format,
            force=force,
            device=device,
            scheme=scheme,
            method=method,
            overrides=overrides,
            **options,
        ),
        resume,
        progress,
    )
