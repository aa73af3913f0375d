"""Rounding to nearest without PyTorch, where a run does nothing else: no calibration, no transformations, no tuning.

The arithmetic is that of agq/numerics/quantizers.py in float32, operation by operation, so a folder is the same byte
for byte whichever of the two made it. PyTorch alone takes two seconds to be imported.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from agq.checkpoint import Checkpoint
from agq.formats.clips import SHARES
from agq.native.clip_search import STEP, Grids, clip_search, least_error, library
from agq.quantization.checks import check_memory
from agq.quantization.computed import Computed
from agq.quantization.numbers import Numbers
from agq.quantization.plan import Plan, rounds_only
from agq.quantization.report import LayerReport
from agq.quantization.state import RawTensors, WorkFolder
from agq.quantization.stored import stored_linear
from agq.quantization.written import Untransformed
from agq.recipe import WeightScheme
from agq.recipe.methods import FALLBACK
from agq.reporting.progress import Progress
from agq.safetensors.scales import round_scale
from agq.system.devices import PROCESSOR
from agq.system.memory import available_memory
from agq.system.threads import resolve_threads

# Values that are looked at at once: what is made of them stays in a core's cache.
_AT_ONCE = 1 << 16
_SHARES = np.array(SHARES, np.float32)


def suffices(plan: Plan) -> bool:
    """Whether this module can do the run."""
    if plan.device != PROCESSOR or not rounds_only(plan.recipe, plan.schemes, plan.transforms, plan.statistics):
        return False
    return not plan.recipe.gptq.mse or (library() is not None and all(_in_vectors(plan, name) for name in plan.schemes))


def _in_vectors(plan: Plan, module: str) -> bool:
    """The library searches groups of whole vectors only."""
    columns = plan.checkpoint.shape(f"{module}.weight")[1]
    return plan.schemes[module].weights.group_size.columns(columns) % STEP == 0


def round_blocks(
    plan: Plan, work: WorkFolder, progress: Progress, numbers: Numbers, threads: int | None = None
) -> Computed:
    """Rounds the linears of all blocks that an earlier run has not finished, and stores them in the work folder.
    threads: None: as many as the machine has for this process."""
    check_memory(plan.needs, available_memory())
    threads = resolve_threads(threads)
    checkpoint = plan.checkpoint
    progress.start(checkpoint.spec.layers)
    finished = set(work.finished())
    for parts in checkpoint.parts.blocks():
        started = time.monotonic()
        if parts.index not in finished:
            tensors: RawTensors = {}
            reports = []
            for role in (role for roles in parts.groups for role in roles):
                module = parts.linears[role].module
                if (scheme := plan.schemes.get(module)) is None:
                    continue
                stored = checkpoint.dtype(f"{module}.weight")
                rounding = Rounding(scheme.weights, plan.recipe.gptq.mse, stored, threads)
                codes, scale, zero = _rounded(checkpoint, module, rounding, numbers)
                tensors.update(stored_linear(module, codes, scale, zero, scheme.weights.bits, plan.format, stored))
                clip = plan.recipe.act_clip if scheme.activations.coarse else 1.0
                nothing = float("nan")  # no inputs, so no errors of outputs
                report = LayerReport(module, scheme.name, FALLBACK, nothing, nothing, 0.0, False, clip)
                reports.append(report)
                progress.layer(parts.index, report)
            work.write(parts.index, tensors, [report.to_dict() for report in reports])
        progress.block(parts.index, time.monotonic() - started, parts.index in finished)
    return Computed(plan, Untransformed(checkpoint, plan.transforms), work.reports())


def _rounded(
    checkpoint: Checkpoint, module: str, rounding: Rounding, numbers: Numbers
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes, scales and zero points of a linear, a few rows at a time: they stay in a core's cache meanwhile."""
    name = f"{module}.weight"
    rows, columns = checkpoint.shape(name)
    groups = columns // rounding.scheme.group_size.columns(columns)
    codes, scale = np.empty((rows, columns), np.int8), np.empty((rows, groups), np.float32)
    zero = None if rounding.scheme.symmetric else np.empty((rows, groups), np.float32)
    low, high = np.inf, -np.inf
    step = max(1, _AT_ONCE // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        weight = checkpoint.read_rows(name, part)
        codes[part], scale[part], zeros, bounds = rounding.of(weight)
        low, high = min(low, bounds[0]), max(high, bounds[1])
        if zero is not None:
            zero[part] = zeros
    checkpoint.release(name)
    numbers.weight(module, low, high)
    return codes, scale, zero


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded. mse: ranges are shrunk as the clip search finds best; stored: safetensors dtype that the
    scales get; threads: of the search."""

    scheme: WeightScheme
    mse: bool
    stored: str
    threads: int = 1

    def of(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, tuple[float, float]]:
        """(codes int8 [rows, columns], scales float32 [rows, groups], zero points of the same shape or None, the least
        and the largest weight) of a finite weight, float32 [rows, columns]."""
        rows, columns = weight.shape
        size = self.scheme.group_size.columns(columns)
        values = np.ascontiguousarray(weight).reshape(-1, size)
        low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
        scales, zeros = self._grids(np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0)))
        chosen = np.arange(len(values)), self._best(values, scales, zeros)
        scale, zero = scales[chosen], None if zeros is None else zeros[chosen]
        codes = values / scale[:, None]
        np.rint(codes, out=codes)
        if zero is not None:
            codes += zero[:, None]
        np.clip(codes, *self.scheme.format.limits(self.scheme.symmetric), out=codes)
        shape = rows, columns // size
        return (
            codes.astype(np.int8).reshape(rows, columns),
            scale.reshape(shape),
            None if zero is None else zero.reshape(shape),
            (float(low.min()), float(high.max())),
        )

    def _grids(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Scales and zero points, float32 [groups, shares], of grids that cover shares of each group's range, the whole
        range first. low, high: [groups, 1], the range, which contains 0. Symmetric grids have no zero points."""
        shares = _SHARES if self.mse else _SHARES[:1]
        smallest, largest = self.scheme.format.limits(self.scheme.symmetric)
        if self.scheme.symmetric:
            ranges = np.maximum(-low, high) * shares
            ranges /= np.float32((largest - smallest) / 2)
            return round_scale(ranges, self.stored), None
        low, high = low * shares, high * shares
        scale = round_scale((high - low) / np.float32(largest - smallest), self.stored)
        zero = np.clip(np.float32(smallest) - np.rint(low / scale), np.float32(smallest), np.float32(largest))
        return scale, zero

    def _best(self, values: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None) -> np.ndarray:
        """Of each group the number of the grid with the least error, int32 [groups]."""
        if not self.mse:
            return np.zeros(len(values), np.int32)
        found, limits = library(), self.scheme.format.limits(self.scheme.symmetric)
        assert found is not None  # see `suffices`
        best, sure = clip_search(found, Grids(values, scales, limits, zeros), self.threads)
        if len(left := np.flatnonzero(~sure)):
            of_left = None if zeros is None else zeros[left]
            best[left] = least_error(found, Grids(values[left], scales[left], limits, of_left))
        return best
