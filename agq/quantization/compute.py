"""What a run computes with PyTorch, from the calibration text to the blocks in its work folder: transformations, the
walk over the blocks, static activations, tuning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agq.quantization.agile.stage import static_activations
from agq.quantization.allocation.choice import NAME as ALLOCATION
from agq.quantization.allocation.choice import Choice, load, save
from agq.quantization.allocation.losses import measure
from agq.quantization.allocation.problem import Problem
from agq.quantization.checks import check_memory
from agq.quantization.computed import Computed, clips_of
from agq.quantization.encode import TORCH_DTYPES, decode, encode
from agq.quantization.hidden_files import FileTensors
from agq.quantization.numbers import Numbers
from agq.quantization.plan import Plan
from agq.quantization.report import LayerReport
from agq.quantization.state import WorkFolder
from agq.quantization.transforms.finer import finer_recipe
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.plan import TransformPlan
from agq.quantization.transforms.search import make_plan
from agq.quantization.tuning.stage import TuningStage
from agq.quantization.walk import QuantizedLinear, walk
from agq.quantization.writer import module_schemes
from agq.reporting.progress import Progress
from agq.system.memory import available_memory

# The transformations of a run, in its work folder.
TRANSFORMS = "transforms.safetensors"


def compute_blocks(
    plan: Plan, work: WorkFolder, tokens: np.ndarray | None, progress: Progress, numbers: Numbers, started: float
) -> Computed:
    """Does all blocks that an earlier run has not finished. tokens: windows int64 [windows, n], None where none are
    read; started: when the run did (time.monotonic). Raises AgqError, among others for hidden states that are not
    finite."""
    windows = torch.from_numpy(tokens) if tokens is not None else None
    make = FileTensors(work.path, check_memory(plan.needs, available_memory()), torch.device(plan.device))
    try:
        transforms = _transforms(plan, work, windows, make, progress, numbers)
        plan = _finer(plan, transforms)
        parameters = TransformedParameters(plan.checkpoint, transforms, plan.device)
        plan, allocation = _allocated(plan, parameters, work, windows, make, progress)
        _walk(plan, parameters, work, windows, make, progress, numbers)
        statics = None
        if plan.recipe.agile.active:
            progress.stage("static activations", None)
            statics = static_activations(plan.recipe, plan.schemes, parameters, work, windows)
    finally:
        make.remove()
    layers = work.reports()
    tuned = None
    if plan.recipe.tune.active and windows is not None:
        stage = TuningStage(plan, parameters, work, windows, clips_of(layers), progress, numbers, make, started)
        try:
            tuned = stage.run()
        finally:
            make.remove()
    return Computed(plan, parameters, layers, statics, tuned, allocation)


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


def _allocated(
    plan: Plan,
    parameters: TransformedParameters,
    work: WorkFolder,
    windows: Tensor | None,
    make: FileTensors,
    progress: Progress,
) -> tuple[Plan, dict[str, Any] | None]:
    """The plan with the formats that are best for its target as overrides, and the record of the choice; an interrupted
    run's losses are not measured again."""
    if plan.problem is None:
        return plan, None
    assert windows is not None  # such a recipe is calibrated
    checkpoint, path = plan.checkpoint, work.path / ALLOCATION
    # Inputs may have become finer.
    problem = Problem.of(checkpoint, plan.recipe, parameters.plan, plan.problem.said, plan.problem.modules)
    losses = load(path)
    if losses is None:
        losses = measure(
            parameters,
            plan.recipe,
            problem.items,
            windows,
            lambda module: TORCH_DTYPES[checkpoint.dtype(f"{module}.weight")],
            make,
            progress,
        )
        make.remove()
        save(path, losses)
    choice = Choice.of(problem, losses)
    progress.decided(choice.lines())
    recipe = choice.recipe(plan.recipe, checkpoint.parts)
    schemes = module_schemes(checkpoint.parts, recipe)
    return replace(plan, recipe=recipe, schemes=schemes, problem=None), choice.record()


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
