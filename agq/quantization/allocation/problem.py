"""What is to be chosen and for what, put together and checked before any work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agq.checkpoint import Checkpoint
from agq.errors import AgqError
from agq.models import ModelParts
from agq.quantization.allocation.costs import Costs, File, bits_costs, size_costs, speed_costs
from agq.quantization.allocation.items import Item, items_of, open_modules
from agq.quantization.allocation.knapsack import solve
from agq.quantization.transforms.plan import TransformPlan
from agq.recipe import Recipe, TargetOptions, WeightScheme
from agq.reporting.output import human_size

# Windows of calibration text on which losses are measured, and tokens of each; rows of logits that stand in memory at
# once.
WINDOWS, LENGTH, ROWS = 8, 512, 512


def state_bytes(parts: ModelParts) -> int:
    """Hidden states that measuring keeps: those before each block."""
    return 4 * WINDOWS * LENGTH * parts.spec.layers * parts.spec.hidden


def working_bytes(parts: ModelParts) -> int:
    """What measuring takes beside them: a block's weights and those of a linear rounded, what its linears read and the
    gradients of what they put out, the activations of a window, the embedding, head and logits with their gradients."""
    spec, linears = parts.spec, list(parts.block(0).linears.values())
    sizes = [linear.in_features * linear.out_features for linear in linears]
    kept = WINDOWS * LENGTH * sum(linear.in_features + linear.out_features for linear in linears)
    window = LENGTH * (16 * spec.hidden + 8 * spec.ffn + 3 * spec.heads * LENGTH)
    tables = 2 * spec.vocab * spec.embed_dim + 4 * ROWS * spec.vocab
    return 4 * (sum(sizes) + 3 * max(sizes) + kept + window + tables + 2 * WINDOWS * LENGTH * spec.hidden)


@dataclass(frozen=True)
class Problem:
    """A choice of a scheme for each item.

    Attributes:
        target: as it was asked for. said: the weights that were asked for, before groups were fitted. modules: the
            linears that are open. costs: of the target. memory: on a board what must hold beside it.
    """

    target: TargetOptions
    said: WeightScheme
    modules: tuple[str, ...]
    items: tuple[Item, ...]
    costs: Costs
    memory: Costs | None = None

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        recipe: Recipe,
        transforms: TransformPlan,
        said: WeightScheme,
        modules: Sequence[str] | None = None,
    ) -> Problem:
        """The problem of a recipe with a target, all of whose group sizes are fitted.

        modules: the linears that are open; None: all that no override and no `ignore` names.

        Raises:
            AgqError: nothing is open, or no choice reaches the target; UsageError: no such board.
        """
        target, parts = recipe.target, checkpoint.parts
        if recipe.scheme.weights.floats:
            raise AgqError(
                "weights of FP8 all have 8 bits: there is nothing to choose for a target",
                hint="use a scheme of integers, such as W4A8",
            )
        wanted = open_modules(parts, recipe) if modules is None else list(modules)
        items = items_of(parts, recipe, wanted, said)
        if not items:
            raise AgqError(
                "overrides and `ignore` name every linear: there is nothing to choose for a target",
                hint="leave out some of them, or the target",
            )
        file, memory = File(checkpoint, recipe, transforms, items), None
        if target.bits is not None:
            costs = bits_costs(file, target.bits)
        elif target.bytes is not None:
            costs = size_costs(file, target.bytes)
        else:
            assert target.board is not None and target.min_tps is not None
            costs, memory = speed_costs(file, target.board, target.min_tps)
        found = cls(target, said, tuple(wanted), tuple(items), costs, memory)
        found.check()
        return found

    def check(self) -> None:
        """Raises AgqError where no choice reaches the target, with the nearest that one does."""
        least = self.costs.least
        if least > self.costs.most:
            reached = self.costs.words(least)
            if self.target.bits is not None:
                raise AgqError(
                    f"`target_bits: {self.target.bits:g}`: the least is {reached}",
                    hint=f"use `target_bits: {math.ceil(100 * self.costs.figure(least)) / 100:g}` or more",
                )
            if self.target.size is not None:
                raise AgqError(
                    f"`target_size: {self.target.size}`: the least that the packed file takes is {reached}",
                    hint=f"use `target_size: {_at_least(least)}` or more",
                )
            raise AgqError(
                f"`min_tps: {self.target.min_tps:g}`: no choice of formats makes this model faster than {reached} on "
                f"`{self.target.board}`",
                hint=f"use `min_tps: {_at_most(self.costs.figure(least)):g}` or less",
            )
        if self.memory is not None and self.memory.least > self.memory.most:
            raise AgqError(
                f"`board: {self.target.board}`: this model takes {human_size(self.memory.least)} of memory at least, "
                f"and {human_size(self.memory.most)} are free there",
                hint="name a board with more memory",
            )

    def solve(self, losses: Sequence[Sequence[float]]) -> list[int]:
        """The number of each item's scheme that together lose least within the target. losses: [items][schemes].
        Raises AgqError where speed and memory of a board contradict each other."""
        chosen = solve(self.costs.each, losses, self.costs.most - self.costs.rest)
        assert chosen is not None  # see `check`
        if self.memory is not None and self.memory.total(chosen) > self.memory.most:
            # Fewer bytes are fewer seconds, too.
            chosen = solve(self.memory.each, losses, self.memory.most - self.memory.rest)
            if chosen is None or self.costs.total(chosen) > self.costs.most:
                raise AgqError(
                    f"no formats were found with which the model fits into `{self.target.board}` and is as fast",
                    hint="ask for less speed, or name a board with more memory",
                )
        return chosen

    def describe(self) -> str:
        """The target for people: "at most 4.6 bits a weight", "at least 5 tokens/s on pi5"."""
        if self.target.min_tps is not None:
            return f"at least {self.target.min_tps:g} tokens/s on {self.target.board}"
        return f"at most {self.costs.words(self.costs.most)}"

    def bounds(self) -> str:
        """What can be reached, for people."""
        least = self.costs.words(self.costs.least)
        most = self.costs.words(self.costs.rest + sum(max(row) for row in self.costs.each))
        return f"{least} to {most}"


def _at_least(size: int) -> str:
    """A size that can be typed, with three digits, not below `size`."""
    unit = next((item for item in (("G", 10**9), ("M", 10**6), ("K", 10**3)) if size >= item[1]), ("", 1))
    value = size / unit[1]
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{math.ceil(value * 10**digits) / 10**digits:g}{unit[0]}"


def _at_most(value: float) -> float:
    """With three digits, not above `value`."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.floor(value / step) * step
