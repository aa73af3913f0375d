"""Tuning after the solver: the scales of the weights and the rounding of the codes are trained so that the quantized
model's predictions come closest to the float model's on calibration windows (KL divergence). Zero points and clips
stay.

What is trained of a linear stands in trained.py. The objective is that of the whole model, which is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from agq.models import ModelParts, ModelSpec
from agq.numerics.hadamard import fwht, random_permutation, random_words
from agq.numerics.quantizers import Grid
from agq.quantization.trained import TrainedLinear, straight_through
from agq.quantization.transforms.parameters import TransformedParameters
from agq.recipe import Recipe
from agq.reference.attention import Positions
from agq.reference.block import Block, InputTransform, Linear
from agq.reference.decoder import Embedding, finish, shaped_logits
from agq.reference.quantizers import activation_quantizer, kv_quantizer, kv_rotation
from agq.reporting.progress import Progress

# Windows on which the result is judged.
JUDGED = 4
# `tune.auto`: at most so many steps, and so many for each calibration window; at most so many weights times tokens in
# all (a few minutes of two processor cores); none below the least, which would change next to nothing.
_AUTO_STEPS, _AUTO_SHARE, _AUTO_WORK, _AUTO_LEAST = 512, 4, 4e12, 48
# Most tokens of a training step.
_PIECE = 512
# Temperature at which replaced tokens are drawn.
_DRAW = 1.5
# Tokens that make a passage: two windows that share one overlap.
_PASSAGE = 32
# Rows of logits that stand in memory at once.
_ROWS = 512
# Activations up to this many bytes are kept for the backward pass; more are computed again, a block at a time.
KEPT_ACTIVATIONS = 1 << 30
# The share of the learning rate that is left at the end.
_FINAL_RATE = 0.1


@dataclass(frozen=True)
class TuneReport:
    """Mean KL divergence from the float model, nats per token, on windows that were not trained on where there are
    such; kept: the tuned model is better there and is used; changed: share of the codes that are not the solver's."""

    steps: int
    before: float
    after: float
    kept: bool
    changed: float


def _input(recipe: Recipe, module: str, clip: float, hadamard: int) -> InputTransform:
    scheme = recipe.scheme_for(module)
    quantizer = straight_through(
        activation_quantizer(scheme.activations if scheme else None, clip, sinks=recipe.sink_tokens)
    )
    return (lambda x: quantizer(fwht(x, hadamard))) if hadamard else quantizer


class Tuner:
    """The quantized model in a form that can be trained.

    solved: module -> codes and grid of every quantized linear; dtypes: module -> that its scales are stored in; clips:
    of the inputs, by module.
    """

    def __init__(
        self,
        parameters: TransformedParameters,
        recipe: Recipe,
        solved: dict[str, tuple[Tensor, Grid]],
        dtypes: dict[str, torch.dtype],
        clips: dict[str, float],
    ) -> None:
        self.parameters, self.recipe = parameters, recipe
        self.linears: dict[str, TrainedLinear] = {}
        spec, parts = parameters.spec, parameters.parts
        self.embedding = Embedding(parameters)
        self.final_norm = parameters.norm(parts.final_norm)
        self.project_out = parameters.linear(parts.project_out) if parts.project_out else None
        self.head = self.embedding.table if spec.tied else parameters.tensor(f"{parts.head}.weight")
        self.blocks: list[tuple[Block, dict[str, str]]] = []
        for part in parts.blocks():
            block = parameters.block(part.index)
            block.keys_values = straight_through(kv_quantizer(recipe.kv_bits))
            block.queries_keys = kv_rotation(recipe.kv_bits, spec.head_dim)
            for role, linear in part.linears.items():
                module, old = linear.module, block.linears[role]
                weight = old.weight
                if module in solved:
                    rounding = recipe.tune.rounding
                    self.linears[module] = TrainedLinear(*solved[module], weight, dtypes[module], rounding)
                    weight = torch.empty(0)
                transform = _input(recipe, module, clips.get(module, 1.0), old.hadamard)
                block.linears[role] = Linear(weight, old.bias, transform, old.hadamard)
            self.blocks.append((block, {role: linear.module for role, linear in part.linears.items()}))

    def student(self, tokens: Tensor, positions: Positions) -> Tensor:
        """What the head of the quantized model reads: float32 [batch, n, embed_dim]."""
        spec = self.parameters.spec
        kept = (
            4 * tokens.numel() * spec.layers * (16 * spec.hidden + 8 * spec.ffn + spec.heads * tokens.shape[-1])
            <= KEPT_ACTIVATIONS
        )
        h = self.embedding(tokens)
        for block, modules in self.blocks:
            if kept:
                h = self._block(block, modules, h, positions)
            else:
                h = recomputed(self._block, block, modules, h, positions, use_reentrant=False)
        return finish(h, self.final_norm, self.project_out)

    def _block(self, block: Block, modules: dict[str, str], h: Tensor, positions: Positions) -> Tensor:
        for role, module in modules.items():
            if module in self.linears:
                block.linears[role].weight = self.linears[module].weight()
        return block(h, positions)

    @torch.no_grad()
    def teacher(self, windows: Tensor, positions: Positions, progress: Progress | None = None) -> Tensor:
        """What the head of the float model reads for all windows: float32 [windows, n, embed_dim]. One block in memory
        at a time."""
        progress = progress or Progress()
        progress.stage("original's predictions", self.parameters.spec.layers, "blocks")
        hidden = torch.cat([self.embedding(window[None]) for window in windows])
        for index in range(self.parameters.spec.layers):
            block = self.parameters.block(index)
            for i in range(len(hidden)):
                hidden[i] = block(hidden[i : i + 1], positions)[0]
            progress.advance(f"block {index + 1} of the original")
        return torch.cat([finish(h[None], self.final_norm, self.project_out) for h in hidden])

    def divergence(self, wanted: Tensor, found: Tensor, temperatures: Sequence[float] = (1.0,)) -> Iterator[Tensor]:
        """Sums of KL(float || quantized) over rows of what the head reads, both [rows, embed_dim], a part at a time;
        the mean over `temperatures`, each times its square, which keeps the gradients' sizes alike."""
        for start in range(0, wanted.shape[0], _ROWS):
            part = slice(start, start + _ROWS)
            yield recomputed(_divergence, wanted[part], found[part], self.logits, temperatures, use_reentrant=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [rows, embed_dim] -> [rows, vocab]."""
        return shaped_logits(hidden @ self.head.t(), self.parameters.spec)

    @torch.no_grad()
    def varied(self, windows: Tensor, positions: Positions, share: float, progress: Progress | None = None) -> Tensor:
        """`windows`, int64 [count, n], with a share of the tokens drawn from the float model's predictions for their
        places. The first of each stays."""
        if not share:
            return windows
        progress = progress or Progress()
        result, wanted = windows.clone(), self.teacher(windows, positions, progress)
        progress.stage("draw tokens", len(windows), "windows")
        for index, (window, hidden) in enumerate(zip(result, wanted, strict=True)):
            draws = random_words(self.recipe.seed, f"tune.draw.{index}", 2 * (len(window) - 1)) / 2.0**64
            replace, draw = torch.from_numpy(draws).to(window.device, torch.float32).chunk(2)
            for start in range(0, len(window) - 1, _ROWS):
                part = slice(start, min(start + _ROWS, len(window) - 1))
                total = torch.softmax(self.logits(hidden[part]) / _DRAW, dim=-1).cumsum(dim=-1)
                drawn = torch.searchsorted(total, draw[part, None]).squeeze(-1).clamp_(max=total.shape[-1] - 1)
                follows = window[part.start + 1 : part.stop + 1]
                follows.copy_(torch.where(replace[part] < share, drawn, follows))
            progress.advance(f"tokens of window {index + 1} drawn")
        return result


def _divergence(
    wanted: Tensor, found: Tensor, head: Callable[[Tensor], Tensor], temperatures: Sequence[float]
) -> Tensor:
    wanted, found = head(wanted), head(found)
    total = wanted.new_zeros(())
    for temperature in temperatures:
        target, logits = (F.log_softmax(x / temperature, dim=-1) for x in (wanted, found))
        total = total + temperature**2 * F.kl_div(logits, target, reduction="sum", log_target=True)
    return total / len(temperatures)


def training_length(spec: ModelSpec, length: int) -> int:
    """Tokens in a step where calibration windows have `length`. More steps of fewer tokens train better, but learned
    positions have to be met to be served."""
    return length if spec.position == "learned" else min(length, _PIECE)


def steps_worth(parts: ModelParts, windows: int, length: int) -> int:
    """Steps that recipes with `tune.auto` do: what a small model gains much by at little cost, 0 for large ones.
    windows, length: of the calibration, in count and tokens; who calibrates by little text wants to wait for little."""
    spec = parts.spec
    length = training_length(spec, length)
    weights = (
        sum(linear.out_features * linear.in_features for linear in parts.block_linears()) + spec.vocab * spec.embed_dim
    )
    steps = min(_AUTO_STEPS, _AUTO_SHARE * windows, int(_AUTO_WORK / (weights * length)))
    return steps if steps >= _AUTO_LEAST else 0


def apart(windows: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Those of `windows` (tokens, int64 [count, n]) that share no passage of text with `judged` ([count, m])."""
    if windows.shape[1] < 2 * _PASSAGE:
        return windows

    def passages(rows: np.ndarray, stride: int) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(rows, _PASSAGE, axis=1)[:, ::stride]

    known = {passage.tobytes() for row in passages(judged, 1) for passage in row}
    shared = [any(passage.tobytes() in known for passage in row) for row in passages(windows, _PASSAGE)]
    return windows[~np.array(shared, dtype=bool)]


def tune(tuner: Tuner, windows: Tensor, judged: Tensor, progress: Progress | None = None) -> TuneReport:
    """Trains `tuner.linears` as the recipe's `tune` says. Where the result, rounded as it is stored, is no better than
    the start, they stay what they were.

    windows: of text, one for each step, anew in another order where there are more steps; judged: what the result is
    judged by. Tokens, int64 [count, n], [count, m].
    """
    options, device = tuner.recipe.tune, tuner.parameters.device
    progress = progress or Progress()
    windows, judged = windows.to(device), judged.to(device)
    positions = Positions.of(tuner.parameters.spec, windows.shape[1], device)
    linears = tuner.linears.values()
    judge = _judge(tuner, judged, progress)
    before = judge()
    windows = tuner.varied(windows, positions, options.drawn, progress)
    wanted = tuner.teacher(windows, positions, progress)
    temperatures = (1.0,) if options.temperature == 1 else (1.0, options.temperature)
    groups = [{"params": [linear.log for linear in linears], "rate": options.learning_rate}]
    if options.rounding:
        groups.append({"params": [linear.steps for linear in linears], "rate": options.rounding_rate})
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    rounds = -(-options.steps // len(windows))
    order = torch.cat([random_permutation(tuner.recipe.seed, f"tune.{i}", len(windows)) for i in range(rounds)])
    progress.stage("tune", options.steps)
    for step, index in enumerate(order[: options.steps].tolist()):
        for group in optimizer.param_groups:
            share = 0.5 * (1 + np.cos(np.pi * step / options.steps))
            group["lr"] = group["rate"] * (_FINAL_RATE + (1 - _FINAL_RATE) * share)
        optimizer.zero_grad(set_to_none=True)
        found = tuner.student(windows[index : index + 1], positions)[0]
        loss = sum(tuner.divergence(wanted[index], found, temperatures)) / windows.shape[1]
        loss.backward()
        optimizer.step()
        progress.advance(f"weights tuned: step {step + 1} of {options.steps}, loss {float(loss.detach()):.5f}")
    solved = [linear.settle() for linear in linears]
    after = judge()
    kept = after < before
    changed = sum(int((linear.codes != codes).sum()) for linear, (codes, _) in zip(linears, solved, strict=True))
    share = changed / sum(linear.codes.numel() for linear in linears)
    if not kept:
        for linear, before_tuning in zip(linears, solved, strict=True):
            linear.codes, linear.grid = before_tuning
    return TuneReport(options.steps, before, after, kept, share if kept else 0.0)


def _judge(tuner: Tuner, windows: Tensor, progress: Progress) -> Callable[[], float]:
    """Mean divergence of the quantized model as it is at each call; the float model is computed once."""
    positions = Positions.of(tuner.parameters.spec, windows.shape[1], tuner.parameters.device)
    wanted = tuner.teacher(windows, positions, progress)

    @torch.no_grad()
    def mean() -> float:
        total = 0.0
        progress.stage("judge weights", len(windows), "windows")
        for window, target in zip(windows, wanted, strict=True):
            total += sum(float(part) for part in tuner.divergence(target, tuner.student(window[None], positions)[0]))
            progress.advance(f"divergence after {total / windows.shape[1]:.4f}")
        return total / (windows.shape[0] * windows.shape[1])

    return mean
