"""The one walk over the decoder blocks: statistics of a block's inputs, quantization of its linears, hidden states
carried on.

One block is in memory at a time. Calibration windows pass through it in stages (agq/reference/block.py); between two
stages the linears that read the same input are quantized, so that later ones see what the earlier ones really put out
(GPTQ's "true-sequential"). Nothing is computed twice but the feed-forward's first half.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agq.models.parts import BlockParts
from agq.numerics.fp8 import fp8_grid, fp8_weight, round_fp8
from agq.numerics.quantizers import Grid, dequantize_weight, weight_grid
from agq.quantization.clip import search_clip
from agq.quantization.numbers import Numbers
from agq.quantization.report import LayerReport
from agq.quantization.solvers.hessian import Hessian, layer_loss, output_energy
from agq.quantization.solving import Solving
from agq.quantization.stages import gather_hessians, run_stages
from agq.recipe import METHODS, Recipe, Scheme
from agq.recipe.methods import FALLBACK
from agq.reference.attention import Positions
from agq.reference.block import Block, Linear
from agq.reference.decoder import Embedding, Parameters
from agq.reference.quantizers import activation_quantizer, kv_quantizer, kv_rotation
from agq.reference.stream import HiddenStates, Stream
from agq.reporting.progress import Progress


@dataclass(frozen=True)
class QuantizedLinear:
    """codes: int8 [out, in] (signed), of FP8 uint8; grid: scales [out, groups] and zeros of the same shape."""

    codes: Tensor
    grid: Grid
    scheme: Scheme


class BlockQuantizer:
    """Quantizes the linears of one block as a recipe says.

    importance: module -> mean square of its input channels, float32 [in], used by the clip search of RTN. numbers: is
        told of what is odd, and of what is rounded to nearest instead.
    """

    def __init__(
        self,
        recipe: Recipe,
        scale_dtype: Callable[[str], torch.dtype],
        progress: Progress,
        importance: dict[str, Tensor] | None = None,
        numbers: Numbers | None = None,
    ) -> None:
        self.numbers = numbers or Numbers(progress=progress)
        self.solving = Solving(recipe, self.numbers)
        self.recipe = recipe
        self.scale_dtype = scale_dtype
        self.progress = progress
        self.importance = importance or {}
        self.clips: dict[str, float] = {}

    def prepare(self, block: Block, parts: BlockParts, clips: dict[str, float] | None = None) -> None:
        """Sets the quantizers of activations and KV cache, as they are during calibration. clips: of modules, as an
        earlier run found them; by default the recipe's."""
        self.clips = clips or {}
        if not self.recipe.gptq.quantized_activations or self.recipe.agile.active:
            return  # static activations are calibrated on the quantized weights afterwards
        block.keys_values = kv_quantizer(self.recipe.kv_bits)
        block.queries_keys = kv_rotation(self.recipe.kv_bits, block.spec.head_dim)
        for role in block.linears:
            self._set_quantizer(block, parts, role)

    def _set_quantizer(self, block: Block, parts: BlockParts, role: str) -> None:
        module, linear = parts.linears[role].module, block.linears[role]
        scheme = self.recipe.scheme_for(module)
        activations = scheme.activations if scheme else None
        linear.transform = activation_quantizer(
            activations, self.clip(module), linear.hadamard, self.recipe.sink_tokens
        )

    def clip(self, module: str) -> float:
        """Share of the range that the codes of a module's input cover: less than 1 only for 4-bit activations."""
        scheme = self.recipe.scheme_for(module)
        if scheme is None or not scheme.activations.coarse:
            return 1.0
        return self.clips.get(module, self.recipe.act_clip)

    def choose_clip(self, block: Block, parts: BlockParts, roles: tuple[str, ...], sample: Tensor) -> None:
        """Sets the clip of the input that `roles` share by its effect on their outputs. sample: float32 [..., n,
        channels] of tokens from position 0 on; sink tokens, which have no clip, do not count."""
        scheme = self.recipe.scheme_for(parts.linears[roles[0]].module)
        if not self.recipe.act_clip_search or scheme is None or not scheme.activations.coarse:
            return
        clip = search_clip(
            sample[..., self.recipe.sink_tokens :, :],
            [block.linears[role].weight for role in roles],
            scheme.activations,
        )
        for role in roles:
            self.clips[parts.linears[role].module] = clip
            if self.recipe.gptq.quantized_activations:
                self._set_quantizer(block, parts, role)

    def group(
        self, block: Block, parts: BlockParts, roles: tuple[str, ...], hessian: Hessian | None
    ) -> tuple[dict[str, QuantizedLinear], list[LayerReport]]:
        """Quantizes the linears `roles` of a block, which share an input, and puts the quantized weights into the
        block."""
        modules = {role: parts.linears[role].module for role in roles}
        schemes = {role: self.recipe.scheme_for(module) for role, module in modules.items()}
        results: dict[str, QuantizedLinear] = {}
        reports: list[LayerReport] = []
        if all(scheme is None or not scheme.quantized for scheme in schemes.values()):
            return results, reports
        linears = [parts.linears[role] for role in roles]
        usable = self.solving.usable(linears, hessian)
        if usable is None and hessian is not None:
            rounding, fallback = self.solving.nearest(None), True
        else:
            rounding, fallback = self.solving.rounding(linears, usable)
        matrix = usable.matrix if usable is not None else None
        for role, scheme in schemes.items():
            if scheme is None or not scheme.quantized:
                continue
            linear, module = block.linears[role], modules[role]
            self.numbers.weight(module, *(float(value) for value in torch.aminmax(linear.weight)))
            energy = output_energy(linear.weight, matrix) if matrix is not None else float("nan")
            if not scheme.weights.format.integer:
                results[role], loss = self._floats(linear, module, scheme, matrix)
                report = LayerReport(
                    module, scheme.name, FALLBACK, loss, loss / energy if energy else 0.0, 0.0, False, self.clip(module)
                )
                reports.append(report)
                self.progress.layer(parts.index, report)
                continue
            importance = matrix.diagonal() if matrix is not None else self.importance.get(module)
            grid = weight_grid(
                linear.weight,
                scheme.weights.bits,
                scheme.weights.symmetric,
                scheme.weights.group_size.columns(linear.weight.shape[1]),
                self.recipe.gptq.mse,
                importance,
                self.scale_dtype(module),
            )
            solution, diverged = self.solving.solved(module, rounding, usable, linear.weight, grid, energy)
            linear.weight = dequantize_weight(solution.codes, grid)
            results[role] = QuantizedLinear(solution.codes, grid, scheme)
            report = LayerReport(
                module,
                scheme.name,
                FALLBACK if fallback or diverged else self.recipe.method,
                solution.loss,
                solution.loss / energy if energy else 0.0,
                rounding.damping,
                fallback or diverged,
                self.clip(module),
            )
            reports.append(report)
            self.progress.layer(parts.index, report)
        return results, reports

    def _floats(
        self, linear: Linear, module: str, scheme: Scheme, matrix: Tensor | None
    ) -> tuple[QuantizedLinear, float]:
        """Rounds the weights of a linear to floats of few bits, each by itself, and puts them into the block; the loss
        on the calibration inputs."""
        weight = linear.weight
        grid = fp8_grid(weight, self.scale_dtype(module))
        codes = round_fp8(weight, grid)
        linear.weight = fp8_weight(codes, grid)
        loss = float("nan") if matrix is None else layer_loss(weight, linear.weight, matrix)
        return QuantizedLinear(codes, grid, scheme), loss


def quantize_block(
    block: Block, parts: BlockParts, quantizer: BlockQuantizer, stream: Stream | None, target: Stream | None
) -> tuple[dict[str, QuantizedLinear], list[LayerReport]]:
    """Quantizes one block and advances the streams through the result. Without a stream (RTN) nothing passes through.

    target: the float model's stream, for methods that need it. Returns the quantized linears by role, and reports in
    the order in which the layers were done.
    """
    results: dict[str, QuantizedLinear] = {}
    reports: list[LayerReport] = []

    def solve(roles: tuple[str, ...], hessian: Hessian | None) -> None:
        found, told = quantizer.group(block, parts, roles, hessian)
        results.update(found)
        reports.extend(told)

    def choose(roles: tuple[str, ...], sample: Tensor) -> None:
        quantizer.choose_clip(block, parts, roles, sample)

    quantizer.prepare(block, parts)
    if stream is None:
        for roles in parts.groups:
            solve(roles, None)
    elif quantizer.recipe.gptq.true_sequential:
        run_stages(stream, target, parts.groups, choose, solve)
    else:
        for roles, hessian in gather_hessians(stream, target, parts.groups, choose):
            solve(roles, hessian)
        stream.advance()
        if target is not None:
            target.advance()
    return results, reports


def walk(
    parameters: Parameters,
    recipe: Recipe,
    windows: Tensor | None,
    scale_dtype: Callable[[str], torch.dtype],
    load: Callable[[int], tuple[dict[str, Tensor], dict[str, float]] | None],
    save: Callable[[int, dict[str, QuantizedLinear], list[LayerReport]], None],
    progress: Progress,
    importance: dict[str, Tensor] | None = None,
    make: Callable[[tuple[int, ...]], Tensor] = lambda shape: torch.empty(shape),
    numbers: Numbers | None = None,
) -> None:
    """Quantizes all decoder blocks in order.

    windows: calibration tokens int64 [windows, n], None for methods without calibration; load(i): of a block that an
    earlier run finished the dequantized weights by role, float32 [out, in], and the activation clips by module, or
    None; save(i, linears by role, reports): stores a finished block; make: see HiddenStates; numbers: see
    BlockQuantizer. Raises AgqError where the hidden states are not finite.
    """
    spec, all_parts = parameters.spec, parameters.parts
    quantizer = BlockQuantizer(recipe, scale_dtype, progress, importance, numbers)
    progress.start(spec.layers)
    hidden = floats = positions = None
    with torch.inference_mode():
        if windows is not None:
            hidden = HiddenStates(windows, Embedding(parameters), parameters.device, make)
            positions = Positions.of(spec, windows.shape[1], parameters.device)
            if METHODS[recipe.method].float_model:
                floats = HiddenStates(windows, Embedding(parameters), parameters.device, make)
        for index in range(spec.layers):
            started = time.monotonic()
            parts = all_parts.block(index)
            found = load(index)
            stream = target = None
            if found is not None and hidden is None:
                progress.block(index, time.monotonic() - started, True)
                continue
            block = parameters.block(index)
            if hidden is not None and positions is not None:
                stream = Stream(block, hidden, positions)
                if floats is not None:
                    target = Stream(parameters.block(index), floats, positions)
            if found is None:
                save(index, *quantize_block(block, parts, quantizer, stream, target))
            elif stream is not None:
                weights, clips = found
                for role, weight in weights.items():
                    block.linears[role].weight = weight.to(parameters.device)
                quantizer.prepare(block, parts, clips)
                stream.advance()
                if target is not None:
                    target.advance()
            if hidden is not None:
                hidden.check_finite(index)
            progress.block(index, time.monotonic() - started, found is not None)
