"""Tuning as a stage of a run: from the solver's blocks in the work folder to the tuned ones beside them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from torch import Tensor

from agq.files import atomic_write_text
from agq.quantization.encode import TORCH_DTYPES, decode_codes, encode
from agq.quantization.numbers import Numbers
from agq.quantization.plan import Plan
from agq.quantization.state import RawTensors, WorkFolder
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.tuning.blocks import BlockReport, BlockTuner, Solved
from agq.quantization.tuning.linear import TrainedLinear
from agq.quantization.tuning.student import Make, Tuner
from agq.quantization.tuning.text import TuningText, block_windows, training_length, window_count
from agq.quantization.tuning.whole import seconds_per_step, tune
from agq.quantization.walk import QuantizedLinear
from agq.recipe import TuneOptions
from agq.reporting.output import plain
from agq.reporting.progress import Progress
from agq.text.calibration import calibration_windows

# In the work folder: the steps that were chosen, and where the descent is.
_CHOSEN, _STATE = "tuning.json", "tuning-state.pt"


class TuningStage:
    """clips: of the inputs, by module. make: allocates hidden states. started: when the run did (time.monotonic)."""

    def __init__(
        self,
        plan: Plan,
        parameters: TransformedParameters,
        work: WorkFolder,
        windows: Tensor,
        clips: dict[str, float],
        progress: Progress,
        numbers: Numbers,
        make: Make,
        started: float,
    ) -> None:
        self.plan, self.parameters, self.work, self.clips = plan, parameters, work, clips
        self.progress, self.numbers, self.make, self.started = progress, numbers, make, started
        checkpoint = plan.checkpoint
        self.stored_dtypes = {module: checkpoint.dtype(f"{module}.weight") for module in plan.schemes}
        self.dtypes = {module: TORCH_DTYPES[dtype] for module, dtype in self.stored_dtypes.items()}
        draw = None if plan.statistics is not None else self._draw
        self.text = TuningText(windows, draw, training_length(checkpoint.spec, windows.shape[1]))

    def run(self) -> dict[str, Any] | None:
        """Tunes the finished blocks, if the recipe says so, and stores the result beside them; what agq.json says of
        it. None: there was no tuning."""
        if (done := self.work.tuned()) is not None:
            return done[1]
        if not self.plan.recipe.tune.active:
            return None
        self.progress.stage("prepare tuning", None)
        report = self._blocks() if self.plan.recipe.tune.blocks else self._whole()
        if report is None:
            self.progress.note(
                "no tuning: the run's time allows too few steps; `time:` gives it more, `tune: 100` does so many"
            )
        return report

    def _whole(self) -> dict[str, Any] | None:
        solved: Solved = {}
        for block in self.plan.checkpoint.parts.blocks():
            solved.update(self._solved(block.index))
        tuner = Tuner(self.parameters, self.plan.recipe, solved, self.dtypes, self.clips)
        text = self.text
        options = self._options(lambda batch: seconds_per_step(tuner, text.judged[:, : text.length], batch), 1)
        if not options.steps:
            return None
        tuner.recipe = replace(tuner.recipe, tune=options)
        state = self.work.path / _STATE
        windows = text.trained(window_count(self.parameters.spec, options, text.length))
        report = judged(asdict(tune(tuner, windows, text.judged, self.progress, self.make, state)), self.numbers)
        self.work.write_tuned(self._encoded(tuner.linears), report)
        state.unlink(missing_ok=True)
        return report

    def _blocks(self) -> dict[str, Any] | None:
        text = self.text

        def stored(index: int) -> tuple[Solved, BlockReport] | None:
            found = self.work.tuned_block(index)
            return None if found is None else (self._decoded(index, found[0]), BlockReport(**found[1]))

        def store(index: int, linears: dict[str, TrainedLinear], report: BlockReport) -> None:
            self.work.write_tuned_block(index, self._encoded(linears), asdict(report))

        tuner = BlockTuner(self.parameters, self.plan.recipe, self._solved, self.dtypes, self.clips, stored, store)
        options = self._options(
            lambda batch: tuner.seconds_per_step(text.judged[:, : text.length], batch), len(tuner.trained_blocks())
        )
        if not options.steps:
            return None
        tuner.recipe = replace(tuner.recipe, tune=options)
        # A block passes over its windows again, rather than have all of them in memory.
        count = block_windows(options, self.plan.recipe.calibration, text.length)
        report = judged(asdict(tuner.tune(text.trained(count), text.judged, self.progress, self.make)), self.numbers)
        self.work.finish_tuned_blocks(report, used=report["kept"])
        return report

    def _options(self, seconds: Callable[[int], float], times: int) -> TuneOptions:
        """The recipe's, or as many steps as the run's time allows, with which an interrupted run of the same time goes
        on; what one of another time left of tuning is removed. seconds(batch): of one; times: it is done."""
        options, budget = self.plan.recipe.tune, self.plan.budget
        asked = {"blocks": options.blocks, "budget": None if budget is None else [budget.seconds, budget.most]}
        path = self.work.path / _CHOSEN
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["asked"] == asked and found["steps"]:
                return replace(options, auto=False, steps=int(found["steps"]))
            self.work.forget_tuned_blocks()
            (self.work.path / _STATE).unlink(missing_ok=True)
        steps = options.steps
        if options.auto and budget is not None:
            left = budget.left(time.monotonic() - self.started)
            steps = budget.steps(left, seconds(options.batch) * times)
        atomic_write_text(path, json.dumps({"asked": asked, "steps": steps}) + "\n")
        return replace(options, auto=False, steps=steps)

    def _draw(self, count: int, length: int) -> np.ndarray:
        spec = self.plan.recipe.calibration
        more = replace(spec, samples=count, seq_len=length, seed=spec.seed + 1)
        return calibration_windows(more, self.plan.checkpoint)[0]

    def _solved(self, index: int) -> Solved:
        return self._decoded(index, self.work.read(index)[0])

    def _decoded(self, index: int, tensors: RawTensors) -> Solved:
        solved = {}
        for linear in self.plan.checkpoint.parts.block(index).linears.values():
            if scheme := self.plan.schemes.get(linear.module):
                solved[linear.module] = decode_codes(linear.module, tensors, scheme, linear.in_features)
        return solved

    def _encoded(self, linears: dict[str, TrainedLinear]) -> RawTensors:
        tensors: RawTensors = {}
        for module, trained in linears.items():
            quantized = QuantizedLinear(trained.codes.cpu(), trained.grid, self.plan.schemes[module])
            tensors.update(encode(module, quantized, self.plan.format, self.stored_dtypes[module]))
        return tensors


def judged(report: dict[str, Any], numbers: Numbers) -> dict[str, Any]:
    """A report of tuning in which what is not finite is None, without `looks` where there were none; numbers: is told
    of tuning that is not used."""
    if not report["kept"] and report["after"] != report["before"]:
        found = "its predictions are not finite" if not math.isfinite(report["after"]) else "it came no nearer"
        numbers.take_back("tuning", found, "the solver's weights")
    told: dict[str, Any] = plain(report)
    if not told.get("looks"):
        told.pop("looks", None)
    return told
