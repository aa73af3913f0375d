"""What a format of some linears loses: how far it moves the model's predictions, in nats.

The divergence of predictions is, for small errors, a square form of the errors (the Fisher information of the outputs
of the linears; Martens: "New insights and perspectives on the natural gradient method", 2014, section 9). With e[t, o]
the error of output o at token t, and g[t, o] the gradient there of -log p(y) for tokens y that are drawn from the
model's own predictions,

    KL = 1/2 sum over t and o of g[t, o]^2 e[t, o]^2

summed over a text. Products of different outputs are left out: the errors of rows that are rounded by themselves are
as often of one sign as of the other. So one pass through the model, forwards and backwards, serves all formats; the
errors are those of weights rounded to nearest and of inputs quantized as the format says, in the transformed model,
whose weights it is that are quantized. GPTQ and tuning make all of them smaller, by much the same factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agq.errors import AgqError
from agq.numerics.hadamard import random_words
from agq.numerics.quantizers import dequantize_weight, quantize_weight, weight_grid
from agq.quantization.allocation.items import Item
from agq.quantization.transforms.parameters import TransformedParameters
from agq.recipe import Recipe, Scheme
from agq.reference.attention import Positions
from agq.reference.block import Block, Linear
from agq.reference.decoder import Embedding, finish, shaped_logits
from agq.reference.quantizers import activation_quantizer
from agq.reporting.progress import Progress

# Windows of calibration text that are looked at, and tokens of each.
WINDOWS, LENGTH = 8, 512
# Rows of logits that stand in memory at once.
_ROWS = 512

Make = Callable[[tuple[int, ...]], Tensor]


@dataclass
class Watched(Linear):
    """A linear that keeps what it read, float32 [1, n, in], and the gradients of what it put out, [1, n, out], of every
    window that passed through it."""

    def __post_init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        y = super().__call__(x)
        self.inputs.append(x.detach())
        y.register_hook(self.gradients.append)
        return y


def measure(
    parameters: TransformedParameters,
    recipe: Recipe,
    items: Sequence[Item],
    windows: Tensor,
    scale_dtype: Callable[[str], torch.dtype],
    make: Make = torch.empty,
    progress: Progress | None = None,
) -> list[list[float]]:
    """The loss of each item with each of its schemes: mean divergence per token, nats.

    parameters: of the transformed model. windows: calibration tokens int64 [windows, n], of which WINDOWS and LENGTH
    are used. scale_dtype: of a module's scales. make: allocates hidden states. Raises AgqError where gradients are not
    finite.
    """
    progress = progress or Progress()
    spec, device = parameters.spec, parameters.device
    tokens = windows[:WINDOWS, :LENGTH].to(device)
    positions = Positions.of(spec, tokens.shape[1], device)
    progress.stage("weigh formats", 2 * spec.layers, "blocks")
    states, gradient = _forward(parameters, tokens, positions, recipe.seed, make, progress)
    of_block: dict[int, list[tuple[int, Item]]] = {}
    for index, item in enumerate(items):
        of_block.setdefault(item.block, []).append((index, item))
    losses: list[list[float]] = [[] for _ in items]
    for index in range(spec.layers - 1, -1, -1):
        block, watched = _watch(parameters.block(index))
        _backward(block, positions, states[index], gradient)
        if not torch.isfinite(gradient).all():
            raise AgqError(
                f"the gradients before block {index + 1} are not finite on the calibration text",
                hint="the model is damaged, or its activations are too large for float32",
            )
        for number, item in of_block.get(index, ()):
            seen = [(module, watched[role]) for role, module in zip(item.roles, item.modules, strict=True)]
            losses[number] = [
                sum(_loss(linear, recipe, scheme, scale_dtype(module)) for module, linear in seen) / tokens.numel()
                for scheme in item.schemes
            ]
        progress.advance(f"formats of block {index + 1} of {spec.layers} weighed")
    return losses


@torch.no_grad()
def _forward(
    parameters: TransformedParameters, tokens: Tensor, positions: Positions, seed: int, make: Make, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Hidden states before each block, float32 [layers, windows, n, hidden], and the gradient of the drawn tokens' loss
    by those after the last one, [windows, n, hidden]."""
    spec, parts, device = parameters.spec, parameters.parts, parameters.device
    embedding = Embedding(parameters)
    states = make((spec.layers, *tokens.shape, spec.hidden))
    last = torch.empty(*tokens.shape, spec.hidden, device=device)
    for index in range(spec.layers):
        block = parameters.block(index)
        for number, window in enumerate(tokens):
            h = embedding(window[None]) if index == 0 else last[number][None]
            states[index, number] = h[0].to(states.device)
            last[number] = block(h, positions)[0]
        progress.advance(f"block {index + 1} of {spec.layers} computed")
    norm = parameters.norm(parts.final_norm)
    project = parameters.linear(parts.project_out) if parts.project_out else None
    head = embedding.table if spec.tied else parameters.tensor(f"{parts.head}.weight")
    gradient = torch.empty_like(last)
    for number in range(len(tokens)):
        words = random_words(seed, f"allocation.draw.{number}", tokens.shape[1])
        draws = torch.from_numpy(words / 2.0**64).to(device, torch.float32)
        with torch.enable_grad():
            h = last[number].clone().requires_grad_()
            read = finish(h, norm, project)
            for start in range(0, read.shape[0], _ROWS):
                rows = slice(start, start + _ROWS)
                logits = shaped_logits(read[rows] @ head.t(), spec)
                drawn = _draw(logits.detach(), draws[rows])
                torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward(retain_graph=True)
        assert h.grad is not None
        gradient[number] = h.grad
    return states, gradient


def _draw(logits: Tensor, draws: Tensor) -> Tensor:
    """A token for each row of logits [n, vocab] by its probability; draws: uniform numbers [n]."""
    total = torch.softmax(logits, dim=-1).cumsum(dim=-1)
    return torch.searchsorted(total, draws[:, None]).squeeze(-1).clamp_(max=logits.shape[-1] - 1)


def _watch(block: Block) -> tuple[Block, dict[str, Watched]]:
    """A block whose linears are watched, and these by role."""
    watched = {
        role: Watched(linear.weight, linear.bias, linear.transform, linear.hadamard)
        for role, linear in block.linears.items()
    }
    block.linears.update(watched)
    return block, watched


def _backward(block: Block, positions: Positions, states: Tensor, gradient: Tensor) -> None:
    """From the gradients behind a block to those before it, window by window. states: before it, float32 [windows, n,
    hidden]; gradient: of the same shape, changed in place."""
    for number in range(len(gradient)):
        h = states[number][None].to(gradient.device).clone().requires_grad_()
        with torch.enable_grad():
            block(h, positions).backward(gradient[number][None])
        assert h.grad is not None
        gradient[number] = h.grad[0]


@torch.no_grad()
def _loss(linear: Watched, recipe: Recipe, scheme: Scheme, dtype: torch.dtype) -> float:
    """Half the sum over tokens and outputs of the squares of gradient times error, for a linear with `scheme`."""
    weight, weights, inputs = linear.weight, scheme.weights, scheme.activations
    energy = sum(x.square().sum(dim=(0, 1)) for x in linear.inputs)
    grid = weight_grid(
        weight,
        weights.bits,
        weights.symmetric,
        weights.group_size.columns(weight.shape[1]),
        recipe.gptq.mse,
        torch.as_tensor(energy),
        dtype,
    )
    rounded = dequantize_weight(quantize_weight(weight, grid), grid)
    read = activation_quantizer(inputs, recipe.act_clip if inputs.coarse else 1.0, sinks=recipe.sink_tokens)
    total = 0.0
    for x, gradient in zip(linear.inputs, linear.gradients, strict=True):
        error = read(x) @ rounded.t() - x @ weight.t()
        total += float((error * gradient).square().sum(dtype=torch.float64))
    return total / 2
