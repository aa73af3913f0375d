"""Tuning of the weights' scales after the solver. Codes, zero points and clips stay; each scale is multiplied by exp(t), and the t are
trained so that the quantized model's predictions come closest to the float model's on calibration windows (KL divergence).

Activations and KV cache are quantized as at run time; their rounding is passed through by the gradient as if it were not there
(straight-through estimator). The whole model is in memory; each block is computed again in the backward pass, so that the activations
of one block only stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from agq.quantization.quantizers import Grid, round_scale
from agq.quantization.transforms.hadamard import fwht, random_permutation
from agq.quantization.transforms.parameters import TransformedParameters
from agq.recipe import Recipe
from agq.reference.attention import Positions
from agq.reference.block import Block, InputTransform, Linear
from agq.reference.decoder import Embedding, activation_quantizer, finish, kv_quantizer, kv_rotation

# Windows beyond the trained ones on which the result is judged (the first trained ones where there are no others).
JUDGED = 4
# Rows of logits that stand in memory at once.
_ROWS = 512
# The share of the learning rate that is left at the end.
_FINAL_RATE = 0.1


@dataclass
class TunedLinear:
    """steps: codes minus zero points, int16 [out, groups, columns of a group]; scale: float32 [out, groups]; log: the trained
    logarithm of the factor on it; dtype: that scales are stored in."""

    steps: Tensor
    scale: Tensor
    log: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, codes: Tensor, grid: Grid, dtype: torch.dtype, device: torch.device) -> TunedLinear:
        """codes: int8 [out, in]."""
        scale, zero = grid.scale.to(device), grid.zero.to(device)
        grouped = codes.to(device).reshape(*scale.shape, -1).to(torch.int16) - zero.to(torch.int16).unsqueeze(-1)
        return cls(grouped, scale.clone(), torch.zeros_like(scale).requires_grad_(), dtype)

    def weight(self) -> Tensor:
        """float32 [out, in], differentiable in `log`."""
        return (self.steps * (self.scale * self.log.exp()).unsqueeze(-1)).reshape(self.scale.shape[0], -1)

    def settle(self) -> None:
        """Makes what was trained the scale, rounded as it will be stored."""
        with torch.no_grad():
            self.scale = round_scale(self.scale * self.log.exp(), self.dtype)
            self.log.zero_()


@dataclass(frozen=True)
class TuneReport:
    """Mean KL divergence from the float model, nats per token, on windows that were not trained on where there are such; kept: the
    tuned scales are better there and are used."""

    before: float
    after: float
    windows: int
    kept: bool


def straight_through(transform: InputTransform) -> InputTransform:
    """`transform` with the gradient of the identity."""
    return lambda x: x + (transform(x.detach()) - x).detach()


def _input(recipe: Recipe, module: str, clip: float, hadamard: int) -> InputTransform:
    scheme = recipe.scheme_for(module)
    quantizer = straight_through(activation_quantizer(scheme.activations if scheme else None, clip))
    return (lambda x: quantizer(fwht(x, hadamard))) if hadamard else quantizer


class ScaleTuner:
    """The quantized model in a form whose scales can be trained.

    linears: module -> TunedLinear of all quantized linears; clips: of their inputs by module.
    """

    def __init__(
        self,
        parameters: TransformedParameters,
        recipe: Recipe,
        linears: dict[str, TunedLinear],
        clips: dict[str, float],
    ) -> None:
        self.parameters, self.recipe, self.linears = parameters, recipe, linears
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
                old = block.linears[role]
                weight = torch.empty(0) if linear.module in linears else old.weight
                transform = _input(recipe, linear.module, clips.get(linear.module, 1.0), old.hadamard)
                block.linears[role] = Linear(weight, old.bias, transform, old.hadamard)
            self.blocks.append((block, {role: linear.module for role, linear in part.linears.items()}))

    def student(self, tokens: Tensor, positions: Positions) -> Tensor:
        """What the head of the quantized model reads: float32 [batch, n, embed_dim]."""
        h = self.embedding(tokens)
        for block, modules in self.blocks:
            h = recomputed(self._block, block, modules, h, positions, use_reentrant=False)
        return finish(h, self.final_norm, self.project_out)

    def _block(self, block: Block, modules: dict[str, str], h: Tensor, positions: Positions) -> Tensor:
        for role, module in modules.items():
            if module in self.linears:
                block.linears[role].weight = self.linears[module].weight()
        return block(h, positions)

    @torch.no_grad()
    def teacher(self, windows: Tensor, positions: Positions) -> Tensor:
        """What the head of the float model reads for all windows: float32 [windows, n, embed_dim]. One block in memory at a time."""
        hidden = torch.cat([self.embedding(window[None]) for window in windows])
        for index in range(self.parameters.spec.layers):
            block = self.parameters.block(index)
            for i in range(len(hidden)):
                hidden[i] = block(hidden[i : i + 1], positions)[0]
        return torch.cat([finish(h[None], self.final_norm, self.project_out) for h in hidden])

    def divergence(self, wanted: Tensor, found: Tensor) -> Iterator[Tensor]:
        """Sums of KL(float || quantized) over rows of what the head reads, both [rows, embed_dim], a part at a time."""
        for start in range(0, wanted.shape[0], _ROWS):
            part = slice(start, start + _ROWS)
            yield recomputed(_divergence, wanted[part], found[part], self.head, use_reentrant=False)


def _divergence(wanted: Tensor, found: Tensor, head: Tensor) -> Tensor:
    target = F.log_softmax(wanted @ head.t(), dim=-1)
    return F.kl_div(F.log_softmax(found @ head.t(), dim=-1), target, reduction="sum", log_target=True)


def tune_scales(
    tuner: ScaleTuner, windows: Tensor, progress: Callable[[str], None] = lambda text: None
) -> TuneReport:
    """Trains the scales in `tuner.linears` as the recipe's `tune` says. Where the result, its scales
    rounded as they are stored, is no better than the start, the scales stay what they were.

    windows: calibration tokens int64 [windows, n].
    """
    options, device = tuner.recipe.tune, tuner.parameters.device
    windows = windows.to(device)
    trained = windows[: options.windows]
    judged = windows[options.windows : options.windows + JUDGED]
    if not len(judged):
        judged = trained[:JUDGED]
    positions = Positions.of(tuner.parameters.spec, windows.shape[1], device)
    logs = [linear.log for linear in tuner.linears.values()]
    solved = {module: linear.scale for module, linear in tuner.linears.items()}
    before = _mean_divergence(tuner, judged, positions)
    wanted = tuner.teacher(trained, positions)
    optimizer = torch.optim.Adam(logs, lr=options.learning_rate, betas=(0.9, 0.95))
    batches = [
        order[start : start + options.batch]
        for order in (random_permutation(tuner.recipe.seed, f"tune.{epoch}", len(trained)) for epoch in range(options.epochs))
        for start in range(0, len(trained), options.batch)
    ]
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            share = 0.5 * (1 + np.cos(np.pi * step / len(batches)))
            group["lr"] = options.learning_rate * (_FINAL_RATE + (1 - _FINAL_RATE) * share)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for index in batch.tolist():
            found = tuner.student(trained[index : index + 1], positions)[0]
            loss = sum(tuner.divergence(wanted[index], found)) / (len(batch) * windows.shape[1])
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        progress(f"scales tuned: step {step + 1} of {len(batches)}, divergence {total:.5f}")
    for linear in tuner.linears.values():
        linear.settle()
    after = _mean_divergence(tuner, judged, positions)
    kept = after < before
    if not kept:
        for module, linear in tuner.linears.items():
            linear.scale = solved[module]
    return TuneReport(before, after, len(judged), kept)


@torch.no_grad()
def _mean_divergence(tuner: ScaleTuner, windows: Tensor, positions: Positions) -> float:
    wanted = tuner.teacher(windows, positions)
    total = 0.0
    for window, target in zip(windows, wanted, strict=True):
        total += sum(float(part) for part in tuner.divergence(target, tuner.student(window[None], positions)[0]))
    return total / (windows.shape[0] * windows.shape[1])
