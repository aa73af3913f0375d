"""`agq.calibrate`: statistics of a model's activations on calibration text, written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from agq.calibration.statistics import CalibrationResult, gather, save
from agq.errors import AgqError
from agq.gguf.files import model_name
from agq.gguf.opening import open_source
from agq.hub import find_model
from agq.recipe import Recipe
from agq.recipe.changes import RecipeChanges
from agq.recipe.declaration import given_to, section, takes
from agq.recipe.resolve import adjust_recipe
from agq.reference.decoder import Parameters
from agq.reporting.progress import Progress
from agq.system.devices import torch_device
from agq.system.memory import available_memory
from agq.text.calibration import calibration_windows, fit_text
from agq.version import __version__


def calibrate(
    model: str | Path,
    output: str | Path | None = None,
    *,
    recipe: Recipe | None = None,
    force: bool = True,
    device: str | None = None,
    progress: Progress | None = None,
    **given: Any,
) -> CalibrationResult:
    """Gathers the statistics of every linear's input on the unquantized model and writes them (layout: statistics.py).

    Args:
        model: a recipe's name, a local folder, a GGUF file or a hub id.
        output: by default `<model>-calibration.safetensors`.
        recipe: whose calibration section is used; by default that of the recipe that `model` names.
        force: replace an existing file. device: "cpu" or "cuda"; by default CUDA where there is one.

    Raises:
        AgqError: model or text unreadable, windows longer than the context, too little memory. UsageError: an unknown
            option.
    """
    (changes,) = given_to(calibrate, given, RecipeChanges)
    return collect(model, output, changes, recipe=recipe, force=force, device=device, progress=progress)


takes(calibrate, section(RecipeChanges.options(), "calibration"))


def collect(
    model: str | Path,
    output: str | Path | None = None,
    changes: RecipeChanges | None = None,
    *,
    recipe: Recipe | None = None,
    force: bool = True,
    device: str | None = None,
    progress: Progress | None = None,
) -> CalibrationResult:
    """As `calibrate`, with the changes of the recipe as one object."""
    changes = changes or RecipeChanges()
    folder, named = find_model(str(model))
    recipe = adjust_recipe(recipe or named or Recipe(), changes)
    path = Path(output) if output is not None else Path(f"{model_name(str(model), folder)}-calibration.safetensors")
    if path.is_dir():
        raise AgqError(f"`{path}` is a folder", hint="name a file, such as stats.safetensors")
    if path.exists() and not force:
        raise AgqError(f"`{path}` exists already", hint="choose another path, or pass `force: true`")
    if not path.parent.is_dir():
        raise AgqError(f"`{path.parent}` is not a folder", hint="create it first")
    checkpoint = open_source(folder, floats=True)
    if checkpoint.quantization is not None:
        raise AgqError(f"`{folder}` is quantized already", hint="gather statistics on the unquantized model")
    checkpoint.check_finite()
    place = torch_device(device)
    spec = fit_text(recipe.calibration, checkpoint, changes.given())
    needed = 4 * spec.samples * spec.seq_len * checkpoint.spec.hidden
    if needed > available_memory():
        raise AgqError(
            f"not enough memory: hidden states of {spec.samples} x {spec.seq_len} tokens take {needed / 1e9:.1f} GB",
            hint="use fewer `samples:`",
        )
    tokens, record = calibration_windows(spec, checkpoint)
    statistics = gather(Parameters(checkpoint, device=place), torch.from_numpy(tokens), progress or Progress())
    save(path, checkpoint, statistics, tokens, {"version": __version__, "calibration": record})
    attention = [float(statistics[f"attention_to_first.{index}"].mean()) for index in range(checkpoint.spec.layers)]
    windows, length = tokens.shape
    return CalibrationResult(path, windows, length, attention)
