"""Running a plan: transformations, the walk over the blocks, the output folder; resumable at every block."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agq.checkpoint import open_checkpoint
from agq.checkpoint.effective import effective_bits
from agq.errors import AgqError
from agq.files import exclusive
from agq.formats.cache import AUTO
from agq.formats.effective import ActivationBits
from agq.quantization.agile.stage import static_activations
from agq.quantization.checks import check_memory
from agq.quantization.encode import TORCH_DTYPES, decode, encode
from agq.quantization.head import fit_head
from agq.quantization.hidden_files import FileTensors
from agq.quantization.numbers import NAME as NUMBERS
from agq.quantization.numbers import Numbers
from agq.quantization.plan import Plan
from agq.quantization.state import WorkFolder
from agq.quantization.transforms.finer import finer_recipe
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.plan import TransformPlan
from agq.quantization.transforms.search import make_plan
from agq.quantization.tuning.stage import TuningStage
from agq.quantization.walk import LayerReport, QuantizedLinear, walk
from agq.quantization.writer import Written, module_schemes, write_folder
from agq.recipe import Recipe
from agq.reporting.progress import Progress
from agq.system.memory import available_memory
from agq.text.calibration import calibration_windows
from agq.version import __version__

# The transformations of a run, in its work folder.
TRANSFORMS = "transforms.safetensors"


@dataclass(frozen=True)
class QuantizeReport:
    """path: the folder written. bits_per_weight: of the quantized linears, scales included. total_bytes: of the weight
    files. layers: one report a linear, in the order of computation. fallbacks: linears that the solver could not do and
    RTN did. resumed: blocks taken from an interrupted run. transforms: what was done to the model before. tuned: what
    tuning did (tune.TuneReport), None without. numbers: what was odd, and which steps were taken back
    (Numbers.record). activation_bits: effective ones, None where inputs are floats."""

    path: Path
    bits_per_weight: float
    total_bytes: int
    layers: list[dict[str, Any]]
    fallbacks: int
    resumed: int
    transforms: TransformPlan
    tuned: dict[str, Any] | None = None
    numbers: dict[str, Any] | None = None
    activation_bits: ActivationBits | None = None


def refuse_taken_back(plan: Plan, report: QuantizeReport) -> None:
    """AgqError for a strict run that took steps back. Its output is complete."""
    found = (report.numbers or {}).get("taken_back", [])
    if plan.strict and found:
        steps = f"{len(found)} step{'s' * (len(found) > 1)}"
        raise AgqError(
            f"{steps} of the run were taken back: {'; '.join(found[:3])}", hint="leave out `strict:` to accept"
        )


def execute(plan: Plan, resume: bool = True, progress: Progress | None = None) -> QuantizeReport:
    """Runs a plan. An interrupted run is continued unless `resume` is False.

    Raises AgqError, among others when an interrupted run of other settings left its work folder, or when another
    process writes the same output.
    """
    with exclusive(plan.output, "agq quantize"):
        return _execute(plan, resume, progress or Progress())


def _execute(plan: Plan, resume: bool, progress: Progress) -> QuantizeReport:
    started = time.monotonic()
    checkpoint, recipe = plan.checkpoint, plan.recipe
    tokens, record = text_of_run(plan)
    windows = torch.from_numpy(tokens) if tokens is not None else None
    work = WorkFolder.open(plan.work, run_key(plan, record), resume)
    resumed = len(work.finished())
    numbers = Numbers(work.path / NUMBERS, progress)
    make = FileTensors(work.path, check_memory(plan.needs, available_memory()), plan.device)
    try:
        transforms = _transforms(plan, work, windows, make, progress, numbers)
        plan = _finer(plan, transforms)
        recipe = plan.recipe
        parameters = TransformedParameters(checkpoint, transforms, plan.device)
        _walk(plan, parameters, work, windows, make, progress, numbers)
        statics = None
        if recipe.agile.active:
            progress.stage("static activations", None)
            statics = static_activations(recipe, plan.schemes, parameters, work, windows)
    finally:
        make.remove()
    layers = [report for index in work.finished() for report in work.read(index)[1]]
    clips = {report["module"]: report["act_clip"] for report in layers}
    tuned = None
    if recipe.tune.active and windows is not None:
        stage = TuningStage(plan, parameters, work, windows, clips, progress, numbers, make, started)
        try:
            tuned = stage.run()
        finally:
            make.remove()
    steps, blocks = (tuned["steps"], tuned["blocks"]) if tuned is not None else (0, False)
    recipe = replace(recipe, tune=replace(recipe.tune, auto=False, steps=steps, blocks=blocks))
    fallbacks = sum(bool(report["fallback"]) for report in layers)
    report: dict[str, Any] = {"layers": layers, "fallbacks": fallbacks}
    if tuned is not None:
        report["tune"] = tuned

    def write(output: Path, recipe: Recipe) -> Written:
        document = {
            "version": __version__,
            "model_fingerprint": checkpoint.fingerprint(),
            "recipe": recipe.to_dict(),
            "scheme": recipe.scheme.to_dict(),
            "calibration": record,
            "report": report,
        }
        schemes, force = plan.schemes, plan.force
        return write_folder(
            output, parameters, recipe, schemes, plan.format, work, document, clips, force, statics, numbers=numbers
        )

    if recipe.head_bits == AUTO:
        assert windows is not None  # such a recipe is calibrated
        recipe, report["head"] = fit_head(recipe, write, work.path / "head.tmp", windows.numpy(), plan.device, progress)
    progress.stage("write", None)
    written = write(plan.output, recipe)
    made = open_checkpoint(written.path)  # the reader's checks: names, shapes, config
    work.remove()
    return QuantizeReport(
        written.path,
        written.bits_per_weight,
        written.total_bytes,
        layers,
        fallbacks,
        resumed,
        transforms,
        tuned,
        numbers.record(),
        effective_bits(made),
    )


def run_key(plan: Plan, record: dict[str, Any] | None) -> dict[str, Any]:
    """What must be the same for an interrupted run to be continued. record: what agq.json says of the windows."""
    keyed = plan.recipe.to_dict()
    del keyed["model"]
    del keyed["tune"]["blocks"]  # as memory allows; the stage looks whether it is the same
    return {
        "agq": __version__,
        "model": plan.checkpoint.fingerprint(),
        "recipe": keyed,
        "format": plan.format,
        "device": plan.device.type,
        "calibration": record,
    }


def text_of_run(plan: Plan) -> tuple[np.ndarray | None, dict[str, Any] | None]:
    """Token windows int64 [windows, n] of a plan, None where none are read, and what agq.json says of the text."""
    if plan.recipe.calibrated:
        return calibration_tokens(plan)
    return None, dict(plan.statistics.calibration) if plan.statistics is not None else None


def _transforms(
    plan: Plan, work: WorkFolder, windows: Tensor | None, make: FileTensors, progress: Progress, numbers: Numbers
) -> TransformPlan:
    """The transformations of the run: those of an interrupted one, else newly decided and stored for the next."""
    path = work.path / TRANSFORMS
    if path.exists():
        return TransformPlan.load(path)
    made = make_plan(plan.checkpoint, plan.recipe, windows, plan.device, make, progress, numbers)
    make.remove()
    made.save(path)
    return made


def _finer(plan: Plan, transforms: TransformPlan) -> Plan:
    """The plan with the finer formats that were found necessary as overrides."""
    if not transforms.formats:
        return plan
    parts = plan.checkpoint.parts
    recipe = finer_recipe(plan.recipe, dict(transforms.formats), list(parts.blocks()))
    return replace(plan, recipe=recipe, schemes=module_schemes(parts, recipe))


def _walk(
    plan: Plan,
    parameters: TransformedParameters,
    work: WorkFolder,
    windows: Tensor | None,
    make: FileTensors,
    progress: Progress,
    numbers: Numbers,
) -> None:
    checkpoint, recipe = plan.checkpoint, plan.recipe

    def stored_dtype(module: str) -> str:
        return checkpoint.dtype(f"{module}.weight")

    def load(index: int) -> tuple[dict[str, Tensor], dict[str, float]] | None:
        if index not in work.finished():
            return None
        tensors, reports = work.read(index)
        linears = checkpoint.parts.block(index).linears
        weights = {
            role: decode(linear.module, tensors, plan.schemes[linear.module], linear.in_features)
            for role, linear in linears.items()
            if linear.module in plan.schemes
        }
        return weights, {report["module"]: report["act_clip"] for report in reports}

    def save(index: int, linears: dict[str, QuantizedLinear], reports: list[LayerReport]) -> None:
        names = checkpoint.parts.block(index).linears
        tensors = {}
        for role, linear in linears.items():
            module = names[role].module
            tensors.update(encode(module, linear, plan.format, stored_dtype(module)))
        work.write(index, tensors, [report.to_dict() for report in reports])

    walk(
        parameters,
        recipe,
        windows if recipe.solver or recipe.act_clip_search else None,
        lambda module: TORCH_DTYPES[stored_dtype(module)],
        load,
        save,
        progress,
        _importance(plan),
        make,
        numbers,
    )


def calibration_tokens(plan: Plan) -> tuple[np.ndarray, dict[str, Any]]:
    """Token windows int64 [windows, n] of a plan, and what agq.json says of them."""
    spec = plan.recipe.calibration
    if plan.statistics is not None:
        return plan.statistics.tokens, dict(plan.statistics.calibration)
    return calibration_windows(spec, plan.checkpoint, plan.recipe.scheme)


def _importance(plan: Plan) -> dict[str, Tensor] | None:
    """Mean squares of the input channels of every linear, from the statistics file: of the model as it is, so of no use
    where it is transformed."""
    if plan.statistics is None or not plan.transforms.empty:
        return None
    result = {}
    for block in plan.checkpoint.parts.blocks():
        for roles in block.groups:
            values = torch.from_numpy(plan.statistics.second_moment(block.linears[roles[0]].module)).to(plan.device)
            result.update({block.linears[role].module: values for role in roles})
    return result
