"""Tuning block by block, for models that do not fit into memory whole: each block, reading what the tuned blocks before
it put out, is trained towards the hidden states of the original (the block-wise training of EfficientQAT, arXiv
2407.11062, is the nearest relative). One block and the hidden states are in memory, or the latter in files.

A token's error counts by its share of the token's hidden state: a norm follows, which takes out the size, and a few
tokens have states that are hundreds of times as large as others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agq.models.parts import BlockParts
from agq.numerics.quantizers import Grid
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.tuning.descent import Descent, order_of_windows
from agq.quantization.tuning.linear import TrainedLinear, changed_codes, revert
from agq.quantization.tuning.student import ROWS, Make, kl_divergence, refresh, trained_block
from agq.quantization.tuning.whole import TuneReport, seconds_of
from agq.recipe import Recipe
from agq.reference.attention import Positions
from agq.reference.block import Block
from agq.reference.decoder import Embedding, finish, shaped_logits
from agq.reference.stream import HiddenStates
from agq.reporting.progress import Progress

Solved = dict[str, tuple[Tensor, Grid]]


@dataclass(frozen=True)
class BlockReport:
    """Of one block. before, after: mean relative squared error of its output on the judged windows, of those before it
    tuned; kept: the tuned block is better there and is used; changed: codes that are not the solver's."""

    before: float
    after: float
    kept: bool
    changed: int
    codes: int


class Streams:
    """Hidden states of the windows that are trained on and judged by: the original's, the tuned model's, and of the
    judged ones the solver's."""

    def __init__(self, parameters: TransformedParameters, windows: Tensor, judged: Tensor, make: Make) -> None:
        embedding, device = Embedding(parameters), parameters.device
        self.positions = Positions.of(parameters.spec, windows.shape[1], device)
        self.judged_positions = Positions.of(parameters.spec, judged.shape[1], device)

        def states(tokens: Tensor) -> HiddenStates:
            return HiddenStates(tokens, embedding, device, make)

        self.original, self.tuned = states(windows), states(windows)
        self.judged_original, self.judged_tuned, self.judged_solved = states(judged), states(judged), states(judged)


class BlockTuner:
    """solved(i): codes and grids of block i's quantized linears by module; dtypes, clips: as for Tuner; stored(i): what
    an interrupted run stored of block i, and its report; store(i, linears, report)."""

    def __init__(
        self,
        parameters: TransformedParameters,
        recipe: Recipe,
        solved: Callable[[int], Solved],
        dtypes: dict[str, torch.dtype],
        clips: dict[str, float],
        stored: Callable[[int], tuple[Solved, BlockReport] | None],
        store: Callable[[int, dict[str, TrainedLinear], BlockReport], None],
    ) -> None:
        self.parameters, self.recipe = parameters, recipe
        self.solved, self.dtypes, self.clips, self.stored, self.store = solved, dtypes, clips, stored, store

    def seconds_per_step(self, windows: Tensor, batch: int) -> float:
        """Seconds of a step of the first block that is trained, the passes of its windows included."""
        parameters = self.parameters
        part = self.trained_blocks()[0]
        block, linears = self._block(part, self.solved(part.index))
        tokens = windows[torch.arange(batch) % len(windows)]
        positions = Positions.of(parameters.spec, windows.shape[1], parameters.device)
        hidden = Embedding(parameters)(tokens.to(parameters.device))
        lesson = _Lesson(block, part, linears, positions, hidden.shape)
        lesson.inputs.copy_(hidden)
        lesson.wanted.copy_(hidden)
        return 2.0 * seconds_of(linears, self.recipe.tune, lesson.loss, parameters.device)

    def trained_blocks(self) -> list[BlockParts]:
        """Those that have quantized linears."""
        blocks = self.parameters.parts.blocks()
        return [part for part in blocks if any(linear.module in self.dtypes for linear in part.linears.values())]

    def _block(self, part: BlockParts, solved: Solved) -> tuple[Block, dict[str, TrainedLinear]]:
        return trained_block(self.parameters, self.recipe, part, solved, self.dtypes, self.clips)

    def tune(
        self, windows: Tensor, judged: Tensor, progress: Progress | None = None, make: Make = torch.empty
    ) -> TuneReport:
        """Trains block after block, `tune.steps` steps each. windows, judged: tokens, int64 [count, n], [count, m]."""
        progress = progress or Progress()
        layers, steps = self.parameters.spec.layers, self.recipe.tune.steps
        streams = Streams(self.parameters, windows, judged, make)
        progress.stage("tune blocks", layers, "blocks")
        reports = []
        for index in range(layers):
            report = self._pass(index, streams, self.stored(index))
            reports.append(report)
            progress.advance(
                f"block {index + 1} of {layers} tuned: relative error {report.before:.2e} -> {report.after:.2e}"
            )
        before = self._divergence(streams.judged_original, streams.judged_solved)
        after = self._divergence(streams.judged_original, streams.judged_tuned)
        kept = after < before
        share = sum(report.changed for report in reports) / sum(report.codes for report in reports)
        return TuneReport(steps, before, after, kept, share if kept else 0.0, self.recipe.tune.batch, blocks=True)

    def _pass(self, index: int, streams: Streams, found: tuple[Solved, BlockReport] | None) -> BlockReport:
        """Takes all streams through block `index`, trained first unless an interrupted run did."""
        part = self.parameters.parts.block(index)
        original = self.parameters.block(index)
        with torch.no_grad():
            streams.original.advance(original, streams.positions)
            streams.judged_original.advance(original, streams.judged_positions)
        del original
        block, linears = self._block(part, self.solved(index))
        with torch.no_grad():
            streams.judged_solved.advance(refresh(block, part, linears), streams.judged_positions)
        if not linears:
            report = BlockReport(0.0, 0.0, True, 0, 0)
        elif found is not None:
            block, linears = self._block(part, found[0])
            report = found[1]
        else:
            report = self._train(index, block, part, linears, streams)
            self.store(index, linears, report)
            if not report.kept:
                block, linears = self._block(part, self.solved(index))
        with torch.no_grad():
            refresh(block, part, linears)
            streams.tuned.advance(block, streams.positions)
            streams.judged_tuned.advance(block, streams.judged_positions)
        return report

    def _train(
        self, index: int, block: Block, part: BlockParts, linears: dict[str, TrainedLinear], streams: Streams
    ) -> BlockReport:
        options, device = self.recipe.tune, self.parameters.device
        before = self._error(block, part, linears, streams)
        shape = (options.batch, *streams.tuned.states.shape[1:])
        lesson = _Lesson(block, part, linears, streams.positions, torch.Size(shape))
        descent = Descent(linears.values(), options, options.steps, lesson.loss, device)
        count, needed = len(streams.tuned.states), options.steps * options.batch
        order = order_of_windows(self.recipe.seed, f"tune.block{index}", count, needed)
        for step in range(options.steps):
            chosen = order[step * options.batch : (step + 1) * options.batch].to(streams.tuned.states.device)
            lesson.inputs.copy_(streams.tuned.states[chosen])
            lesson.wanted.copy_(streams.original.states[chosen])
            descent.step()
        trained = list(linears.values())
        solved = [linear.settle() for linear in trained]
        after = self._error(block, part, linears, streams)
        changed = changed_codes(trained, solved)
        codes = sum(linear.codes.numel() for linear in trained)
        kept = after < before
        if not kept:
            revert(trained, solved)
        return BlockReport(before, after, kept, changed if kept else 0, codes)

    @torch.no_grad()
    def _error(self, block: Block, part: BlockParts, linears: dict[str, TrainedLinear], streams: Streams) -> float:
        """Mean relative error of the judged windows' outputs."""
        refresh(block, part, linears)
        total, inputs, wanted = 0.0, streams.judged_tuned, streams.judged_original
        for rows in inputs.parts():
            found = block(inputs.get(rows), streams.judged_positions)
            total += float(_relative(found, wanted.get(rows)).sum())
        return total / (inputs.states.shape[0] * inputs.length)

    @torch.no_grad()
    def _divergence(self, original: HiddenStates, found: HiddenStates) -> float:
        """Mean KL divergence, nats per token, of the predictions of final hidden states."""
        parameters, spec = self.parameters, self.parameters.spec
        norm = parameters.norm(parameters.parts.final_norm)
        out = parameters.linear(parameters.parts.project_out) if parameters.parts.project_out else None
        name = parameters.parts.embed if spec.tied else parameters.parts.head
        head = parameters.tensor(f"{name}.weight")

        def logits(hidden: Tensor) -> Tensor:
            return shaped_logits(finish(hidden, norm, out) @ head.t(), spec)

        total, rows = 0.0, ROWS[original.device.type]
        for window in zip(original.states, found.states, strict=True):
            for start in range(0, original.length, rows):
                wanted, tuned = (states[start : start + rows].to(original.device) for states in window)
                total += float(kl_divergence(wanted, tuned, logits))
        return total / (original.states.shape[0] * original.length)


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared error of each token over the square of its wanted state, float32 [...]."""
    return (found - wanted).square().sum(-1) / wanted.square().sum(-1).clamp_min(1e-12)


class _Lesson:
    """The loss of one step of a block, from buffers that stay where they are."""

    def __init__(
        self,
        block: Block,
        part: BlockParts,
        linears: dict[str, TrainedLinear],
        positions: Positions,
        shape: torch.Size,
    ) -> None:
        self.block, self.part, self.linears, self.positions = block, part, linears, positions
        device = next(iter(linears.values())).log.device
        self.inputs, self.wanted = torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    def loss(self) -> Tensor:
        found = refresh(self.block, self.part, self.linears)(self.inputs, self.positions)
        return _relative(found, self.wanted).mean()
