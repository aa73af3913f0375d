"""Running a plan: the blocks, the output folder; resumable at every block."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agq.checkpoint import open_checkpoint
from agq.checkpoint.effective import effective_bits
from agq.errors import AgqError
from agq.files import exclusive
from agq.formats.cache import AUTO
from agq.quantization import nearest
from agq.quantization.numbers import NAME as NUMBERS
from agq.quantization.numbers import Numbers
from agq.quantization.plan import Plan
from agq.quantization.report import QuantizeReport
from agq.quantization.state import WorkFolder
from agq.quantization.writer import Written, write_folder
from agq.recipe import Recipe
from agq.reporting.progress import Progress
from agq.system.devices import kind_of
from agq.text.calibration import calibration_windows
from agq.version import __version__


def refuse_taken_back(plan: Plan, report: QuantizeReport) -> None:
    """AgqError for a strict run that took steps back. Its output is complete."""
    found = (report.numbers or {}).get("taken_back", [])
    if plan.strict and found:
        steps = f"{len(found)} step{'s' * (len(found) > 1)}"
        raise AgqError(
            f"{steps} of the run were taken back: {'; '.join(found[:3])}", hint="leave out `strict:` to accept"
        )


def execute(
    plan: Plan, resume: bool = True, progress: Progress | None = None, threads: int | None = None
) -> QuantizeReport:
    """Runs a plan. An interrupted run is continued unless `resume` is False. threads: of the clip search where nothing
    else is computed (nearest.py), by default as many as the machine has for this process; otherwise torch's.

    Raises AgqError, among others when an interrupted run of other settings left its work folder, or when another
    process writes the same output.
    """
    with exclusive(plan.output, "agq quantize"):
        return _execute(plan, resume, progress or Progress(), threads)


def _execute(plan: Plan, resume: bool, progress: Progress, threads: int | None) -> QuantizeReport:
    started = time.monotonic()
    checkpoint = plan.checkpoint
    tokens, record = text_of_run(plan)
    work = WorkFolder.open(plan.work, run_key(plan, record), resume)
    resumed = len(work.finished())
    numbers = Numbers(work.path / NUMBERS, progress)
    if nearest.suffices(plan):
        done = nearest.round_blocks(plan, work, progress, numbers, threads)
    else:
        from agq.quantization.compute import compute_blocks

        done = compute_blocks(plan, work, tokens, progress, numbers, started)
    plan, layers, tuned = done.plan, done.layers, done.tuned
    recipe = plan.recipe
    steps, blocks = (tuned["steps"], tuned["blocks"]) if tuned is not None else (0, False)
    recipe = replace(recipe, tune=replace(recipe.tune, auto=False, steps=steps, blocks=blocks))
    fallbacks = sum(bool(report["fallback"]) for report in layers)
    report: dict[str, Any] = {"layers": layers, "fallbacks": fallbacks}
    if tuned is not None:
        report["tune"] = tuned
    if done.allocation is not None:
        report["allocation"] = done.allocation

    def write(output: Path, recipe: Recipe) -> Written:
        document = {
            "version": __version__,
            "model_fingerprint": checkpoint.fingerprint(),
            "recipe": recipe.to_dict(),
            "scheme": recipe.scheme.to_dict(),
            "calibration": record,
            "report": report,
        }
        return write_folder(
            output,
            done.parameters,
            recipe,
            plan.schemes,
            plan.format,
            work,
            document,
            done.clips,
            plan.force,
            done.statics,
            numbers=numbers,
        )

    if recipe.head_bits == AUTO:
        from agq.quantization.head import fit_head

        assert tokens is not None  # such a recipe is calibrated
        recipe, report["head"] = fit_head(recipe, write, work.path / "head.tmp", tokens, plan.device, progress)
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
        done.parameters.plan,
        tuned,
        numbers.record(),
        effective_bits(made),
        done.allocation,
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
        "device": kind_of(plan.device),
        "calibration": record,
    }


def text_of_run(plan: Plan) -> tuple[np.ndarray | None, dict[str, Any] | None]:
    """Token windows int64 [windows, n] of a plan, None where none are read, and what agq.json says of the text."""
    if plan.recipe.calibrated:
        return calibration_tokens(plan)
    return None, dict(plan.statistics.calibration) if plan.statistics is not None else None


def calibration_tokens(plan: Plan) -> tuple[np.ndarray, dict[str, Any]]:
    """Token windows int64 [windows, n] of a plan, and what agq.json says of them."""
    spec = plan.recipe.calibration
    if plan.statistics is not None:
        return plan.statistics.tokens, dict(plan.statistics.calibration)
    return calibration_windows(spec, plan.checkpoint)
