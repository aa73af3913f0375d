"""What gets one format: the linears of a block that read one input, which the kernels and vLLM compute as one matrix;
and the schemes that it can have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agq.formats import INTEGERS, PER_ROW, Granularity, PerGroup
from agq.formats.activations import ACTIVATIONS
from agq.formats.groups import FITTED, FITTED_SIZES, fitting
from agq.formats.weights import WeightFormat
from agq.models import BlockParts, ModelParts
from agq.recipe import ActivationScheme, Override, Recipe, Scheme, WeightScheme

# Names of a packed file's linears, in the order of a block's groups (agq/artifact/sources.py, fused_linears).
PLACES = ("qkv", "out", "up", "down")


@dataclass(frozen=True)
class Item:
    """The linears of block `block` that read one input.

    Attributes:
        place: of PLACES. roles, modules: of the linears. columns: of their input. weights: of them all.
        schemes: that they can have. base: the recipe's own.
    """

    block: int
    place: str
    roles: tuple[str, ...]
    modules: tuple[str, ...]
    columns: int
    weights: int
    schemes: tuple[Scheme, ...]
    base: Scheme

    @property
    def name(self) -> str:
        """In a packed file: "blocks.3.qkv"."""
        return f"blocks.{self.block}.{self.place}"


def items_of(parts: ModelParts, recipe: Recipe, modules: Iterable[str], said: WeightScheme) -> list[Item]:
    """The items whose linears are among `modules`. recipe: with all group sizes fitted. said: the weights as the user
    asked for them, with groups that are not fitted."""
    wanted, found = set(modules), []
    for block in parts.blocks():
        for place, roles in zip(PLACES, block.groups, strict=True):
            linears = [block.linears[role] for role in roles]
            base = recipe.scheme_for(linears[0].module)
            if base is None or any(linear.module not in wanted for linear in linears):
                continue
            columns = linears[0].in_features
            found.append(
                Item(
                    block.index,
                    place,
                    roles,
                    tuple(linear.module for linear in linears),
                    columns,
                    sum(linear.in_features * linear.out_features for linear in linears),
                    schemes_of(base, said, columns),
                    base,
                )
            )
    return found


def all_schemes(items: Iterable[Item]) -> list[Scheme]:
    """The schemes that some item can have, in the items' order."""
    return list(dict.fromkeys(scheme for item in items for scheme in item.schemes))


def open_modules(parts: ModelParts, recipe: Recipe) -> list[str]:
    """The linears whose scheme is the recipe's own: no override names them, nor are they ignored."""
    named = replace(recipe, overrides=())
    return [
        linear.module
        for linear in parts.block_linears()
        if named.scheme_for(linear.module) is not None
        and not any(override.matches(linear.module) for override in recipe.overrides)
    ]


def schemes_of(base: Scheme, said: WeightScheme, columns: int) -> tuple[Scheme, ...]:
    """The schemes of linears with `columns` columns, narrow ones first and of one width those with large groups: all
    integer weights that go with the inputs of `base`, or with the next wider ones where there are none; with all group
    sizes that are fitted, or that which was said."""
    found = []
    for row in INTEGERS.values():
        same = row.bits == said.bits
        for group in _groups(row, said.group_size if same else row.group, columns):
            weights = WeightScheme(row.bits, base.weights.symmetric, group)
            found.append(Scheme(weights, _inputs(base.activations, row)))
    return tuple(found)


def _groups(row: WeightFormat, group: Granularity, columns: int) -> list[Granularity]:
    if group != FITTED:
        return [group] if group.problem(columns) is None else []
    return [PerGroup(size) for size in fitting([columns], FITTED_SIZES)] or [PER_ROW]


def _inputs(wanted: ActivationScheme, row: WeightFormat) -> ActivationScheme:
    """The inputs of linears with weights of `row`: `wanted`, or the narrowest of those that go with it."""
    if wanted.bits in row.activations:
        return wanted
    wider = ACTIVATIONS[min(bits for bits in row.activations if bits > wanted.bits)]
    return ActivationScheme(wider.bits, wider.symmetric, wider.group)


def overrides_of(parts: ModelParts, items: Sequence[Item], schemes: Sequence[Scheme]) -> tuple[Override, ...]:
    """Overrides that give each item its scheme, where that is not its own already: a pattern for each scheme and place,
    which names the blocks."""
    blocks: dict[tuple[Scheme, tuple[str, ...]], list[int]] = {}
    for item, scheme in zip(items, schemes, strict=True):
        if scheme != item.base:
            blocks.setdefault((scheme, item.roles), []).append(item.block)
    return tuple(Override(_pattern(parts, roles, numbers), scheme) for (scheme, roles), numbers in blocks.items())


def _pattern(parts: ModelParts, roles: tuple[str, ...], blocks: Sequence[int]) -> str:
    block: BlockParts = parts.block(blocks[0])
    before, after = (re.escape(part) for part in parts.block_pattern.split("{}"))
    leaves = [re.escape(block.linears[role].module.removeprefix(block.prefix)) for role in roles]
    numbers = "|".join(map(str, blocks))
    return f"re:{before}({numbers}){after}({'|'.join(leaves)})$"
