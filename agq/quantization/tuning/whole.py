"""Tuning of the whole model, which is in memory, towards the original's predictions."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from agq.errors import AgqError
from agq.quantization.tuning.descent import Descent, order_of_windows
from agq.quantization.tuning.linear import TrainedLinear, changed_codes, revert, values_of
from agq.quantization.tuning.student import Make, Tuner
from agq.recipe import TuneOptions
from agq.reference.attention import Positions
from agq.reporting.progress import Progress

# Shares of the steps after which the held-out windows are looked at, where there are at least so many steps.
_LOOKS, _LOOKED_AT = (0.25, 0.5, 0.75), 64
# Tuning ends where the held-out divergence is more than this above its best so far: less is noise.
_WORSE = 1.02
# Steps that are timed, after those that a GPU does before it plays graphs.
_TIMED, _WARM = 2, {"cpu": 1, "cuda": 4}
# Time of the float model's predictions over a step's: a pass without gradients; drawn tokens need another.
_TEACHER = 0.4


@dataclass(frozen=True)
class TuneReport:
    """steps: that were to be done, each on `batch` windows. before, after: mean KL divergence from the float model,
    nats per token, on windows that were not trained on where there are such; kept: the tuned model is better there and
    is used; changed: share of the codes that are not the solver's; blocks: block by block; stopped: the step after
    which held-out text got worse, None where it did not. looks: (step, divergence) of the looks at held-out windows on
    the way, the scales and codes not yet rounded as they are stored."""

    steps: int
    before: float
    after: float
    kept: bool
    changed: float
    batch: int = 1
    blocks: bool = False
    stopped: int | None = None
    looks: tuple[tuple[int, float], ...] = ()


class Lesson:
    """The loss of one step: buffers of the step's windows, which stay where they are, and what is computed from
    them."""

    def __init__(self, tuner: Tuner, batch: int, length: int) -> None:
        options, device, spec = tuner.recipe.tune, tuner.parameters.device, tuner.parameters.spec
        self.tuner = tuner
        self.positions = Positions.of(spec, length, device)
        self.hidden = torch.zeros(batch, length, spec.hidden, device=device)
        self.wanted = torch.zeros(batch, length, spec.embed_dim, device=device)
        self.temperatures = (1.0,) if options.temperature == 1 else (1.0, options.temperature)

    @torch.no_grad()
    def fill(self, windows: Tensor, wanted: Tensor | None) -> None:
        """windows: tokens, int64 [batch, n]. wanted: what the head of the float model reads, float32 [batch, n,
        embed_dim]; None: as it is."""
        self.hidden.copy_(self.tuner.embedding(windows.to(self.hidden.device)))
        if wanted is not None:
            self.wanted.copy_(wanted)

    def loss(self) -> Tensor:
        """Mean divergence per token."""
        found = self.tuner.decoded(self.hidden, self.positions)
        total = sum(self.tuner.divergence(self.wanted.flatten(0, 1), found.flatten(0, 1), self.temperatures))
        return torch.as_tensor(total / self.hidden.shape[:2].numel())


def seconds_per_step(tuner: Tuner, windows: Tensor, batch: int) -> float:
    """Seconds of a step on `batch` windows like `windows` (tokens, int64 [count, n]), the float model's share included.
    Nothing is changed."""
    options = tuner.recipe.tune
    lesson = Lesson(tuner, batch, windows.shape[1])
    lesson.fill(windows[torch.arange(batch) % len(windows)], None)
    seconds = seconds_of(tuner.linears, options, lesson.loss, tuner.parameters.device)
    return seconds * (1 + _TEACHER * (1 + (options.drawn > 0)))


def seconds_of(
    linears: dict[str, TrainedLinear], options: TuneOptions, loss: Callable[[], Tensor], device: torch.device
) -> float:
    """Seconds of a step that trains `linears` by `loss`; they stay what they are."""
    values = values_of(linears.values())
    before = [value.detach().clone() for value in values]
    still = replace(options, learning_rate=1e-12, rounding_rate=1e-12)
    descent = Descent(linears.values(), still, 1 << 20, loss, device)
    for _ in range(_WARM[device.type]):
        descent.step()
    started = _now(device)
    for _ in range(_TIMED):
        descent.step()
    seconds = (_now(device) - started) / _TIMED
    with torch.no_grad():
        for value, old in zip(values, before, strict=True):
            value.copy_(old)
            value.grad = None
    return seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def tune(
    tuner: Tuner,
    windows: Tensor,
    judged: Tensor,
    progress: Progress | None = None,
    make: Make = torch.empty,
    state: Path | None = None,
) -> TuneReport:
    """Trains `tuner.linears` as the recipe's `tune` says. Where the result, rounded as it is stored, is no better than
    the start, they stay what they were.

    windows: of text, anew in another order where the steps need more; judged: what the result is judged by. Tokens,
    int64 [count, n], [count, m]. make: allocates what the float model predicts. state: where the descent is stored, so
    that an interrupted one goes on.
    """
    options, device = tuner.recipe.tune, tuner.parameters.device
    progress = progress or Progress()
    lesson = Lesson(tuner, options.batch, windows.shape[1])
    linears = list(tuner.linears.values())
    judge = _judge(tuner, judged.to(device), progress)
    before = judge()
    windows = tuner.varied(windows, lesson.positions, options.drawn, progress, make)
    wanted = tuner.teacher(windows, lesson.positions, progress, make)
    descent = Descent(linears, options, options.steps, lesson.loss, device)
    course = _Course(tuner, descent, options, before, judge, state)
    order = order_of_windows(tuner.recipe.seed, "tune", len(windows), options.steps * options.batch)
    progress.stage("tune", options.steps - descent.done)
    while descent.done < options.steps and course.stopped is None:
        start = descent.done * options.batch
        chosen = order[start : start + options.batch]
        lesson.fill(windows[chosen], wanted[chosen.to(wanted.device)])
        loss = descent.step()
        text = f"weights tuned: step {descent.done} of {options.steps}"
        if device.type == "cpu" or descent.done % 16 == 0:  # reading a number of a GPU makes it wait
            text += f", loss {float(loss):.5f}"
        progress.advance(text)
        if course.looks():
            course.look(progress)
    solved = [linear.settle() for linear in linears]
    after = course.judged_best(judge())
    kept = after < before
    share = changed_codes(linears, solved) / sum(linear.codes.numel() for linear in linears)
    if not kept:
        revert(linears, solved)
    share = share if kept else 0.0
    looks = tuple(course.seen)
    return TuneReport(options.steps, before, after, kept, share, options.batch, stopped=course.stopped, looks=looks)


class _Course:
    """How a descent goes: looks at the held-out windows, the best state so far, and when to stop."""

    def __init__(
        self,
        tuner: Tuner,
        descent: Descent,
        options: TuneOptions,
        before: float,
        judge: Callable[[], float],
        state: Path | None,
    ) -> None:
        self.tuner, self.descent, self.judge, self.state = tuner, descent, judge, state
        self.best, self.stopped = before, None
        self.seen: list[tuple[int, float]] = []
        self.kept: list[Tensor] | None = None
        self.scales = [linear.scale for linear in tuner.linears.values()]
        self.at = {round(share * options.steps) for share in _LOOKS} if options.steps >= _LOOKED_AT else set()
        if state is not None and state.exists():
            stored = descent.load(state)
            self.best, self.kept, self.stopped = stored["best"], stored["kept"], stored["stopped"]
            self.seen = [(step, found) for step, found in stored.get("seen", [])]

    def _values(self) -> list[Tensor]:
        return values_of(self.tuner.linears.values())

    def looks(self) -> bool:
        return self.descent.done in self.at

    def look(self, progress: Progress) -> None:
        """Judges the present weights, remembers the best ones, stops where it gets worse, and stores the state."""
        found = self.judge()
        self.seen.append((self.descent.done, found))
        progress.stage("tune", self.descent.steps - self.descent.done)
        if found < self.best:
            self.best, self.kept = found, [value.detach().to("cpu", copy=True) for value in self._values()]
        elif not found <= _WORSE * self.best:
            self.stopped = self.descent.done
        if self.state is not None:
            # Only an interrupted run needs it.
            size = 24 * sum(value.numel() for value in self._values())
            if shutil.disk_usage(self.state.parent).free > 2 * size:
                with contextlib.suppress(AgqError, OSError):
                    state = {"best": self.best, "kept": self.kept, "stopped": self.stopped, "seen": self.seen}
                    self.descent.save(self.state, state)

    def judged_best(self, after: float) -> float:
        """Divergence of the best weights, which the linears have afterwards. after: of the last ones, settled."""
        if self.kept is None or after <= self.best or not math.isfinite(self.best):
            return after
        linears = list(self.tuner.linears.values())
        last = [(linear.codes, linear.grid, linear.scale) for linear in linears]
        self.restore()
        for linear in linears:
            linear.settle()
        found = self.judge()
        if math.isfinite(after) and not found < after:
            for linear, (codes, grid, scale) in zip(linears, last, strict=True):
                linear.codes, linear.grid, linear.scale = codes, grid, scale
            return after
        return found

    def restore(self) -> None:
        """The best weights, not settled."""
        assert self.kept is not None
        for linear, scale in zip(self.tuner.linears.values(), self.scales, strict=True):
            linear.scale = scale
        with torch.no_grad():
            for value, kept in zip(self._values(), self.kept, strict=True):
                value.copy_(kept)


def _judge(tuner: Tuner, windows: Tensor, progress: Progress) -> Callable[[], float]:
    """Mean divergence of the quantized model as it is at each call; the float model is computed once."""
    positions = Positions.of(tuner.parameters.spec, windows.shape[1], tuner.parameters.device)
    wanted = tuner.teacher(windows, positions, progress).to(tuner.parameters.device)

    @torch.no_grad()
    def mean() -> float:
        total = 0.0
        progress.stage("judge weights", len(windows), "windows")
        for window, target in zip(windows, wanted, strict=True):
            total += sum(float(part) for part in tuner.divergence(target, tuner.student(window[None], positions)[0]))
            progress.advance(f"divergence after {total / windows.shape[1]:.4f}")
        return total / (windows.shape[0] * windows.shape[1])

    return mean
