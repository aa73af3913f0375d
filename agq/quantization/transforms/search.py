"""The parts of a transformation that are decided on calibration text: exponents, the permutation, and the seed of the
rotations.

The float model is passed through once, one block in memory at a time; what is decided for a block changes nothing for
the next ones, because transformations keep the function. Candidates are compared by the error of the linears' outputs
on a sample of their inputs (inputs.py), with weights rounded to nearest and activations quantized as the recipe says.

What is computed for the channels of one input stands in channels.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from agq.checkpoint import Checkpoint
from agq.formats import Granularity
from agq.numerics.fp8 import fp8_grid, fp8_weight, round_fp8
from agq.numerics.quantizers import dequantize_weight, fake_quantize, quantize_weight, weight_grid
from agq.quantization.numbers import Numbers
from agq.quantization.transforms.channels import by_value_channel, channel_exponents, zigzag
from agq.quantization.transforms.finer import judge
from agq.quantization.transforms.inputs import Input, gather
from agq.quantization.transforms.learn import WHOLE, learn_residual, learn_values
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.plan import PLACES, SCALABLE, TransformPlan, feasible, shifted_places
from agq.recipe import Recipe, Scheme, WeightScheme
from agq.reference.attention import Positions
from agq.reference.decoder import Embedding
from agq.reference.stream import HiddenStates
from agq.reporting.progress import Progress

# Values of `a` that are tried besides no scaling at all.
ALPHAS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
# Tokens of calibration text that pass through the float model.
SEARCH_TOKENS = 32768
# Of a rotation that is learned.
_DIVERGED = "the learned rotation became worse"


def make_plan(
    checkpoint: Checkpoint,
    recipe: Recipe,
    windows: Tensor | None,
    device: torch.device | str = "cpu",
    make: Callable[[tuple[int, ...]], Tensor] = lambda shape: torch.empty(shape),
    progress: Progress | None = None,
    numbers: Numbers | None = None,
) -> TransformPlan:
    """The whole plan of a recipe's transformations.

    windows: calibration tokens int64 [windows, n], None where the recipe measures nothing; make: see HiddenStates;
    progress: a stage of as many steps as blocks; numbers: is told of rotations that are taken back. Raises AgqError for
    options that the model cannot have, and for activations that are not finite.
    """
    options = recipe.transforms
    plan = feasible(checkpoint, options)
    if not options.measured:
        return plan
    with torch.inference_mode():
        progress = progress or Progress()
        search = _Search(checkpoint, recipe, plan, torch.device(device), numbers or Numbers(progress=progress))
        return search.run(windows, make, progress)


class _Search:
    def __init__(
        self, checkpoint: Checkpoint, recipe: Recipe, plan: TransformPlan, device: torch.device, numbers: Numbers
    ) -> None:
        spec, self.numbers = checkpoint.spec, numbers
        self.checkpoint, self.recipe, self.plan, self.device = checkpoint, recipe, plan, device
        options = recipe.transforms
        widths = {"attention": spec.hidden, "o": spec.kv_size, "mlp": spec.hidden, "down": spec.ffn}
        places = ["o"] if options.scale else []
        if options.scale and spec.activation in SCALABLE:
            places.append("down")
        if options.scale_norms and "scale_norms" not in plan.skipped and plan.r1 is None:
            places += ["attention", "mlp"]
        self.exponents = {place: np.zeros((spec.layers, widths[place]), np.int8) for place in PLACES if place in places}
        self.permutation = np.tile(np.arange(spec.ffn, dtype=np.int32), (spec.layers, 1)) if options.permute else None
        shifted = (
            [place for place in shifted_places(spec) if self._scheme(0, place) is not None] if options.shift else []
        )
        self.shifts = {place: np.zeros((spec.layers, widths[place]), np.float32) for place in shifted}
        # What the rotation of the residual stream is learned on: a sample of each input and the weight of its error.
        self.residual: list[Tensor] = []
        self.weights: list[float] = []
        self.values: list[Tensor | None] = []
        self.formats: dict[str, str] = {}
        self.seeds: list[int] = []
        if options.seeds > 1 and (plan.r1 is not None or plan.r2 is not None):
            self.seeds = list(range(options.seed, options.seed + options.seeds))
        self.errors = dict.fromkeys(self.seeds, 0.0)

    def run(self, windows: Tensor, make: Callable[[tuple[int, ...]], Tensor], progress: Progress) -> TransformPlan:
        spec = self.checkpoint.spec
        source = TransformedParameters(self.checkpoint, replace(self.plan, r1=None, r2=None, hadamard=0), self.device)
        windows = windows[: max(1, SEARCH_TOKENS // windows.shape[1])]
        hidden = HiddenStates(windows, Embedding(source), self.device, make)
        positions = Positions.of(spec, windows.shape[1], self.device)
        progress.stage("transform", spec.layers, "blocks")
        for index in range(spec.layers):
            block = source.block(index)
            inputs = gather(block, hidden, positions, self.recipe.sink_tokens)
            hidden.check_finite(index)
            for place in self.shifts:
                self._choose_shift(index, place, inputs[place])
            for place in self.exponents:
                self._choose_exponents(source, index, place, inputs[place])
            if self.permutation is not None:
                self.permutation[index] = self._permutation_of(index, inputs["down"].energy)
            for seed in self.seeds:
                self.errors[seed] += self._error_of_seed(source, index, seed, inputs)
            if self.recipe.transforms.finer:
                self._judge(index, inputs, progress)
            if self.recipe.transforms.learn:
                self._keep(source, index, inputs)
            progress.advance(f"transformations of block {index + 1} of {spec.layers} decided")
        plan = self._current()
        if self.seeds:
            best = min(self.seeds, key=lambda seed: (self.errors[seed], seed))
            plan = replace(plan, r1=None if plan.r1 is None else best, r2=None if plan.r2 is None else best)
        return self._learn(plan, progress) if self.recipe.transforms.learn else plan

    def _current(self) -> TransformPlan:
        return replace(
            self.plan, exponents=self.exponents, shifts=self.shifts, permutation=self.permutation, formats=self.formats
        )

    def _scheme(self, index: int, place: str) -> Scheme | None:
        """The scheme of the linears at a place, where their inputs are quantized."""
        scheme = self.recipe.scheme_for(self._modules(index, place)[0])
        return scheme if scheme is not None and scheme.activations.quantized else None

    def _judge(self, index: int, inputs: dict[str, Input], progress: Progress) -> None:
        """Gives 4-bit inputs of a block a finer format where they need one, with rotations as the seed makes them."""
        candidate = TransformedParameters(self.checkpoint, self._current(), self.device)
        block = self.checkpoint.parts.block(index)
        for place in PLACES:
            scheme = self._scheme(index, place)
            if scheme is None or not scheme.activations.coarse:
                continue
            x = candidate.input(index, place, inputs[place].sample)
            if verdict := judge(candidate, block, place, x, scheme.activations, self._clip(scheme)):
                self.formats[f"{index}.{place}"] = verdict.format
                roles = ", ".join(block.groups[PLACES.index(place)])
                progress.step(f"block {index + 1}: input of {roles} in {verdict.format}: {verdict.reason}")

    # ---- learned rotations

    def _keep(self, source: TransformedParameters, index: int, inputs: dict[str, Input]) -> None:
        """Keeps what the rotations are learned on, before the rotations."""
        plan = replace(self._current(), r1=None, r2=None)
        candidate = TransformedParameters(self.checkpoint, plan, self.device)
        thin = max(1, self.checkpoint.spec.hidden // WHOLE)
        values = self.plan.r2 is not None and self._scheme(index, "o") is not None
        self.values.append(candidate.input(index, "o", inputs["o"].sample[::thin]).cpu() if values else None)
        for place in ("attention", "mlp"):
            if self.plan.r1 is None or self._scheme(index, place) is None:
                continue
            x = candidate.input(index, place, inputs[place].sample[::thin])
            weights = [source.tensor(f"{module}.weight") for module in self._modules(index, place)]
            noise = [_noise(w, x) for w in weights]
            self.residual.append(x.cpu())
            self.weights.append(sum(noise) / len(noise))

    def _learn(self, plan: TransformPlan, progress: Progress) -> TransformPlan:
        """Turns the rotations of a plan that is complete otherwise."""
        spec, steps = self.checkpoint.spec, self.recipe.transforms.learn
        rotated = TransformedParameters(self.checkpoint, plan, self.device)
        group = self.recipe.scheme.activations.group_size
        if self.residual:
            progress.stage("learn rotations", steps)
            samples = [sample.to(self.device) @ rotated.r1 for sample in self.residual]
            turns = learn_residual(
                samples, self.weights, _group(group, spec.hidden), steps, spec.layer_norm, lambda: progress.advance("")
            )
            if turns is None:
                self.numbers.take_back("the residual stream", _DIVERGED, "the rotation as its seed makes it")
            else:
                plan = replace(plan, turns1=turns.numpy())
                progress.step("rotation of the residual stream learned")
        if any(value is not None for value in self.values):
            rotations = []
            progress.stage("learn value rotations", spec.layers, "blocks")
            for index, sample in enumerate(self.values):
                turns = None
                if sample is not None:
                    x = rotated.turn_values(index, sample.to(self.device))
                    turns = learn_values(x, _group(group, x.shape[1]), steps, spec.kv_heads, spec.head_dim)
                    if turns is None:
                        place = f"the values of block {index + 1}"
                        self.numbers.take_back(place, _DIVERGED, "the rotation as its seed makes it")
                identity = torch.eye(spec.head_dim).expand(spec.kv_heads, -1, -1)
                rotations.append(identity if turns is None else turns)
                progress.advance(f"rotation of the values of block {index + 1} learned")
            plan = replace(plan, turns2=torch.stack(rotations).numpy())
            progress.step("rotations of the values learned")
        return plan

    # ---- one block

    def _choose_exponents(self, source: TransformedParameters, index: int, place: str, found: Input) -> None:
        spec = self.checkpoint.spec
        weights = torch.cat([source.tensor(f"{module}.weight") for module in self._modules(index, place)])
        energy = found.energy
        if place in self.shifts:  # of what is left: E[(x - c)^2] = E[x^2] - 2 c E[x] + c^2
            shift = torch.from_numpy(self.shifts[place][index]).double().to(energy.device)
            shift = source.to_query_heads(shift) if place == "o" else shift
            energy = (energy - 2 * shift * found.mean + shift.square()).clamp(min=0)
        columns = weights.square().sum(dim=0, dtype=torch.float64)
        if place == "o":
            energy = by_value_channel(energy, spec).mean(dim=1).reshape(-1)
            columns = by_value_channel(columns, spec).sum(dim=1).reshape(-1)
        best, least = self.exponents[place][index].copy(), self._error(source, index, place, found, self._tried(None))
        for alpha in ALPHAS:
            self.exponents[place][index] = channel_exponents(energy, columns, alpha)
            error = self._error(source, index, place, found, self._tried(None))
            if error < least:
                best, least = self.exponents[place][index].copy(), error
        self.exponents[place][index] = best

    def _choose_shift(self, index: int, place: str, found: Input) -> None:
        mean = found.mean
        if place == "o":
            mean = by_value_channel(mean, self.checkpoint.spec).mean(dim=1).reshape(-1)
        self.shifts[place][index] = mean.float().cpu().numpy()

    def _permutation_of(self, index: int, energy: Tensor) -> np.ndarray:
        """Channels in falling order of size; with a block transform dealt over its blocks forwards and backwards in
        turn (arXiv 2406.01721), without one left in that order, so that those of a group are of one size."""
        sizes = energy.cpu().numpy()
        if "down" in self.exponents:
            sizes = sizes * np.exp2(-2.0 * self.exponents["down"][index])
        return zigzag(sizes, self.plan.hadamard) if self.plan.hadamard else np.argsort(-sizes, kind="stable")

    def _error_of_seed(self, source: TransformedParameters, index: int, seed: int, inputs: dict[str, Input]) -> float:
        candidate = self._tried(seed)
        return sum(self._error(source, index, place, inputs[place], candidate) for place in PLACES)

    def _tried(self, seed: int | None) -> TransformPlan:
        """The plan as far as it is decided, with the rotations of `seed`; None: without the rotation of the residual
        stream, which has no part in the choice of exponents."""
        plan = self._current()
        if seed is None:
            return replace(plan, r1=None)
        return replace(plan, r1=None if plan.r1 is None else seed, r2=None if plan.r2 is None else seed)

    def _modules(self, index: int, place: str) -> list[str]:
        block = self.checkpoint.parts.block(index)
        return [block.linears[role].module for role in block.groups[PLACES.index(place)]]

    def _error(self, source: TransformedParameters, index: int, place: str, found: Input, plan: TransformPlan) -> float:
        """Squared error of the outputs of the quantized linears at a place over the outputs' squares."""
        candidate = TransformedParameters(self.checkpoint, plan, self.device)
        modules = self._modules(index, place)
        scheme = self.recipe.scheme_for(modules[0])
        if scheme is None:
            return 0.0
        x = candidate.input(index, place, found.sample)
        activations = scheme.activations
        columns = activations.group_size.columns(x.shape[-1])
        read = fake_quantize(x, activations.bits, activations.symmetric, columns, self._clip(scheme))
        error = energy = 0.0
        for module in modules:
            weight = candidate.tensor(f"{module}.weight")
            rounded = weight
            if scheme.quantized:
                rounded = _rounded(weight, scheme.weights)
            wanted = x @ weight.t()
            error += float((read @ rounded.t() - wanted).square().sum(dtype=torch.float64))
            energy += float(wanted.square().sum(dtype=torch.float64))
        return error / energy if energy else 0.0

    def _clip(self, scheme: Scheme) -> float:
        return self.recipe.act_clip if scheme.activations.coarse else 1.0


def _rounded(weight: Tensor, scheme: WeightScheme) -> Tensor:
    """Weights float32 [out, in] as they are when each is rounded by itself."""
    if not scheme.format.integer:
        grid = fp8_grid(weight)
        return fp8_weight(round_fp8(weight, grid), grid)
    grid = weight_grid(weight, scheme.bits, scheme.symmetric, scheme.group_size.columns(weight.shape[1]))
    return dequantize_weight(quantize_weight(weight, grid), grid)


def _noise(weight: Tensor, x: Tensor) -> float:
    """Energy that noise of 1 in the inputs gives the outputs, over their own on a sample x; 0 where they are all
    zero."""
    outputs = float((x @ weight.t()).square().mean(dim=0).sum())
    return float(weight.square().sum()) / outputs if outputs else 0.0


def _group(group: Granularity, channels: int) -> int:
    """Channels that share a scale; all of them where the groups do not divide these."""
    return channels if group.problem(channels) else group.columns(channels)
