"""Lists of linears, modules and tensors in few words: the same thing of many blocks is one entry."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agq.models.parts import Linear

# Entries of a list before "and N more".
MOST = 5
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def fold_linears(linears: Iterable[Linear]) -> str:
    """Linears by role and block: "q, k, v of 30 blocks; down of block 2; `lm_head`"."""
    found = ((linear, _NUMBER.search(linear.module)) for linear in linears)
    return fold_roles(
        (linear.role, int(number[0])) if number else (f"`{linear.module}`", None) for linear, number in found
    )


def fold_roles(items: Iterable[tuple[str, int | None]]) -> str:
    """(role or place, block's number or None outside the blocks) in the words of `fold_linears`.

    Roles that stand in the same blocks share an entry. Blocks from the first on are counted, others are numbered.
    """
    blocks: dict[str, list[int]] = {}
    for role, number in items:
        blocks.setdefault(role, []).extend([] if number is None else [number])
    roles: dict[tuple[int, ...], list[str]] = {}
    for role, indices in blocks.items():
        roles.setdefault(tuple(sorted(set(indices))), []).append(role)
    return "; ".join(f"{', '.join(names)}{_of_blocks(indices)}" for indices, names in roles.items())


def _of_blocks(indices: tuple[int, ...]) -> str:
    if not indices:
        return ""
    if len(indices) == 1:
        return f" of block {indices[0]}"
    if indices == tuple(range(len(indices))):
        return f" of {len(indices)} blocks"
    return f" of blocks {spans(indices)}"


def fold_names(names: Iterable[str], most: int = MOST) -> str:
    """Names of modules or tensors, those that differ in their block's number as one: "`layers.0-11.mlp.up.weight`".

    At most `most` entries, then "and N more".
    """
    entries = folded(names)
    text = ", ".join(f"`{name}`" for name, _ in entries[:most])
    rest = sum(count for _, count in entries[most:])
    return f"{text} and {rest} more" if rest else text


def folded(names: Iterable[str]) -> list[tuple[str, int]]:
    """(name with the span of its numbers, how many names it stands for), in the order in which they first appear."""
    found: dict[str, list[int | None]] = {}
    for name in names:
        number = _NUMBER.search(name)
        pattern = name if number is None else f"{name[: number.start()]}{{}}{name[number.end() :]}"
        found.setdefault(pattern, []).append(int(number[0]) if number else None)
    return [
        (name.replace("{}", spans([item for item in items if item is not None]), 1), len(items))
        for name, items in found.items()
    ]


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers in order, runs of them as one: "0-3, 7"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
