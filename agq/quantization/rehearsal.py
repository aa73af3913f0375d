"""What a dry run finds out beyond the plan: whether the calibration text is there and long enough, whether memory and
disk are, and roughly how long the run takes."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from agq.checkpoint import Checkpoint
from agq.files import ensure_free_space
from agq.quantization.checks import check_memory
from agq.quantization.execute import run_key, text_of_run
from agq.quantization.nearest import suffices
from agq.quantization.plan import Plan
from agq.quantization.state import WorkFolder
from agq.quantization.tuning.effort import Budget
from agq.quantization.tuning.text import training_length
from agq.recipe import Recipe
from agq.system.devices import kind_of
from agq.system.memory import available_memory

# Seconds of a run over those that its matrix products take at the rate of a large one: small products, attention,
# element-wise work, files. Measured on models of 30 to 135 million parameters.
_OVERHEAD, _ROUNDING_OVERHEAD = 2.0, 16.0
# In the place of a kind of device: the processor without torch.
ROUNDING = "rounding"
# Seconds before the first block and after the last one: imports, reading, writing; and what a GPU waits for being told
# what to do, in models of some 30 blocks.
_FIXED = {"cpu": 5.0, "cuda": 40.0, ROUNDING: 1.0}
# Passes of a sample through a block in which formats of its inputs are compared.
_JUDGED = 10.0
# Passes of the text on which losses of formats are measured: forwards twice, backwards, and a product for each format.
_WEIGHED = 8.0
_SIZE = {"cpu": 768, "cuda": 8192, ROUNDING: 768}


def rehearse(plan: Plan, resume: bool = True) -> float:
    """Raises AgqError for everything that would end the run and can be known, an interrupted run of other settings
    among it, unless `resume` is False; else the seconds that it will take, a rough figure: the operations of its
    products at the rate of one product of this machine."""
    _, record = text_of_run(plan)
    if resume:
        WorkFolder.check(plan.work, run_key(plan, record))
    in_memory = check_memory(plan.needs, available_memory())
    ensure_free_space(plan.output, plan.needs.output + (0 if in_memory else plan.needs.hidden))
    recipe, transformed, device = plan.recipe, not plan.transforms.empty, kind_of(plan.device)
    if plan.budget is not None:
        recipe = with_steps(plan.checkpoint, recipe, transformed, plan.budget, device)
    kind = ROUNDING if suffices(plan) else device
    return seconds(operations_of(plan.checkpoint, recipe, transformed), kind)


def with_steps(checkpoint: Checkpoint, recipe: Recipe, transformed: bool, budget: Budget, device: str) -> Recipe:
    """The recipe with as many steps of tuning as the run's time is expected to allow."""
    untuned = replace(recipe, tune=replace(recipe.tune, steps=0, auto=False))
    other = seconds(operations_of(checkpoint, untuned, transformed), device)
    step = seconds(step_operations(checkpoint, recipe), device) - seconds(0.0, device)
    steps = budget.steps(budget.left(other), step)
    return replace(recipe, tune=replace(recipe.tune, steps=steps, auto=False))


def seconds(work: float, device: str) -> float:
    """What so many operations take on a kind of device, with all that surrounds them."""
    overhead = _ROUNDING_OVERHEAD if device == ROUNDING else _OVERHEAD
    return _FIXED[device] + overhead * work / _rate(device)


def operations_of(checkpoint: Checkpoint, recipe: Recipe, transformed: bool) -> float:
    """Multiplications and additions of the products of a run. transformed: anything is."""
    parts = checkpoint.parts
    linears = list(parts.block_linears())
    weights = float(sum(linear.in_features * linear.out_features for linear in linears))
    total = 60.0 * weights  # the clip search
    if not recipe.calibrated:
        return total
    from agq.quantization.transforms.inputs import SAMPLE_TOKENS
    from agq.quantization.transforms.search import SEARCH_TOKENS

    length = recipe.calibration.seq_len
    tokens = recipe.calibration.samples * length
    passes = 0.0
    if transformed:
        searched = min(tokens, SEARCH_TOKENS)
        passes += 2.0 * searched + _JUDGED * SAMPLE_TOKENS * recipe.transforms.finer
        total += recipe.transforms.learn * _learning_operations(checkpoint)
    if recipe.target.active:
        from agq.quantization.allocation.problem import LENGTH, WINDOWS

        passes += _WEIGHED * min(tokens, WINDOWS * LENGTH)
        total += 3 * 60.0 * weights  # clip searches of the formats
    if recipe.solver:
        passes += 1.5 * tokens  # the first half of the feed-forward part is computed twice
        columns = [block.linears[roles[0]].in_features for block in parts.blocks() for roles in block.groups]
        total += 2.0 * tokens * sum(size * size for size in columns)  # the Hessians
        total += 4.0 * sum(linear.out_features * linear.in_features**2 for linear in linears)
    return total + 2.0 * passes * weights + recipe.tune.steps * step_operations(checkpoint, recipe)


def _learning_operations(checkpoint: Checkpoint) -> float:
    """Of one step of learning rotations: each input's rows turned, forwards and backwards, and the rotation made."""
    from agq.quantization.transforms.learn import BATCH, block_size

    spec, block = checkpoint.spec, block_size(checkpoint.spec.hidden)
    rows = 2.0 * spec.layers * BATCH
    return 6.0 * rows * spec.hidden * block + 10.0 * spec.hidden * block**2


def step_operations(checkpoint: Checkpoint, recipe: Recipe) -> float:
    """Of one step of tuning: the original's pass, the quantized model's, and twice as much backwards; block by block
    the windows' passes are as much again, and there is no head."""
    spec = checkpoint.spec
    weights = float(sum(linear.in_features * linear.out_features for linear in checkpoint.parts.block_linears()))
    tokens = recipe.tune.batch * training_length(spec, recipe.calibration.seq_len)
    return 8.0 * tokens * (2.0 * weights if recipe.tune.blocks else weights + spec.vocab * spec.embed_dim)


@cache
def _rate(device: str) -> float:
    """Operations a second of a float32 product on the device."""
    size = _SIZE[device]
    a: Any
    if device == ROUNDING:
        a = np.ones((size, size), np.float32)
    else:
        import torch

        a = torch.ones(size, size, device=device)
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        float((a @ a)[0, 0])
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best
