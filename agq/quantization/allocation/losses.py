"""What a format of some linears loses: how far it moves the model's predictions, in nats.

The divergence of predictions is, for small errors, a square form of the errors: the Fisher information of outputs of
the linears (Martens: "New insights and perspectives on the natural gradient method", 2014, section 9). With e[t, o] the
error of output o at token t, and g[t, o] the gradient there of -log p(y), added up over a text whose next tokens y are
drawn from the model's own predictions,

    KL of the text = 1/2 E[(sum over t and o of g[t, o] e[t, o])^2]

Errors of weights that are rounded by themselves are as often of one sign as of the other, row by row, so products of
different outputs o fall out, while those of different tokens stay: an error in the rows of k moves all keys. The errors
that quantized inputs make are as often of one sign as of the other token by token, so there it is the other way round.
What is left needs one pass through the model, forwards and backwards, for all formats together. The model is the
transformed one, whose weights it is that are rounded. They are rounded to nearest; where a solver follows, losses are
multiplied by the share that GPTQ leaves of them (`solver_share`), which depends on how much the channels of an input
have in common. Tuning makes all losses smaller by much the same factor.
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
from agq.quantization.allocation.problem import LENGTH, ROWS, WINDOWS
from agq.quantization.solvers.gptq import factorize
from agq.quantization.solvers.hessian import Hessian
from agq.quantization.transforms.parameters import TransformedParameters
from agq.recipe import METHODS, ActivationScheme, GptqOptions, Recipe, WeightScheme
from agq.reference.attention import Positions
from agq.reference.block import Block, InputTransform, Linear
from agq.reference.decoder import Embedding, finish, shaped_logits
from agq.reference.quantizers import activation_quantizer
from agq.reporting.progress import Progress

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
        return y.clone()  # what is added to the outputs in place would take the hook away


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
            losses[number] = [loss / tokens.numel() for loss in _losses(item, watched, recipe, scale_dtype)]
        progress.advance(f"formats of block {index + 1} of {spec.layers} weighed")
    return losses


def _forward(
    parameters: TransformedParameters, tokens: Tensor, positions: Positions, seed: int, make: Make, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Hidden states before each block, float32 [layers, windows, n, hidden], and the gradient of the drawn tokens' loss
    by those after the last one, [windows, n, hidden]."""
    with torch.no_grad():
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
                for start in range(0, read.shape[0], ROWS):
                    rows = slice(start, start + ROWS)
                    logits = shaped_logits(read[rows] @ head.t(), spec)
                    drawn = drawn_tokens(logits.detach(), draws[rows])
                    torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward(retain_graph=True)
            assert h.grad is not None
            gradient[number] = h.grad
        return states, gradient


def drawn_tokens(logits: Tensor, draws: Tensor) -> Tensor:
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
            # A copy: what watches the last linear keeps it.
            block(h, positions).backward(gradient[number][None].clone())
        assert h.grad is not None
        gradient[number] = h.grad[0]


def weight_loss(linear: Watched, scheme: WeightScheme, mse: bool, dtype: torch.dtype) -> float:
    """What rounding the weights to `scheme` loses, summed over the windows' tokens. mse: the clips of the scales are
    searched; dtype: of the scales."""
    with torch.no_grad():
        weight, energy = linear.weight, sum(x.square().sum(dim=(0, 1)) for x in linear.inputs)
        columns = scheme.group_size.columns(weight.shape[1])
        grid = weight_grid(weight, scheme.bits, scheme.symmetric, columns, mse, torch.as_tensor(energy), dtype)
        error = dequantize_weight(quantize_weight(weight, grid), grid) - weight
        total = 0.0
        for x, gradient in zip(linear.inputs, linear.gradients, strict=True):
            moved = ((x[0] @ error.t()) * gradient[0]).sum(dim=0)
            total += float(moved.square().sum(dtype=torch.float64))
        return total / 2


def input_loss(linears: Sequence[Watched], read: InputTransform) -> float:
    """What quantizing the input that `linears` share by `read` loses, summed over the windows' tokens."""
    with torch.no_grad():
        total = 0.0
        for number, x in enumerate(linears[0].inputs):
            gradient = torch.zeros_like(x[0])
            for linear in linears:
                gradient.addmm_(linear.gradients[number][0], linear.weight)
            moved = ((read(x) - x)[0] * gradient).sum(dim=1)
            total += float(moved.square().sum(dtype=torch.float64))
        return total / 2


def solver_share(linear: Watched, options: GptqOptions) -> float:
    """Share of the error of rounding to nearest that GPTQ leaves on the inputs that a linear read.

    Rounding a column adds delta^2 / U_jj^2 to the error, U the upper Cholesky factor of the inverse Hessian H, where
    rounding to nearest adds delta^2 H_jj (arXiv 2210.17323, section 3): the ratio of their means over the columns. 1
    where H has no factor.
    """
    with torch.no_grad():
        hessian = Hessian(linear.weight.shape[1], linear.weight.device)
        for x in linear.inputs:
            hessian.add(x)
        diagonal = hessian.finish().diagonal().double()
        factor = factorize(hessian.matrix, options.damping, options.act_order)
        live = diagonal > 0
        if factor is None or not bool(live.any()):
            return 1.0
        pivots = factor.upper.diagonal().double()[live[factor.order]].pow(-2)
        return float(pivots.mean() / ((1 + factor.damping) * diagonal[live].mean()))


def _losses(
    item: Item, watched: dict[str, Watched], recipe: Recipe, dtype: Callable[[str], torch.dtype]
) -> list[float]:
    """Of each scheme of an item, summed over the windows' tokens."""
    linears = [(dtype(module), watched[role]) for role, module in zip(item.roles, item.modules, strict=True)]
    # Linears that read one input share its quantizer: their errors add up token by token.
    inputs: dict[ActivationScheme, float] = {}
    for scheme in dict.fromkeys(scheme.activations for scheme in item.schemes):
        read = activation_quantizer(scheme, recipe.act_clip if scheme.coarse else 1.0, sinks=recipe.sink_tokens)
        inputs[scheme] = input_loss([linear for _, linear in linears], read) if scheme.quantized else 0.0
    share = solver_share(linears[0][1], recipe.gptq) if METHODS[recipe.method].calibrated else 1.0
    return [
        inputs[scheme.activations]
        + share * sum(weight_loss(linear, scheme.weights, recipe.gptq.mse, scales) for scales, linear in linears)
        for scheme in item.schemes
    ]
