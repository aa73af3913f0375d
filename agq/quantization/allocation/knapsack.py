"""The multiple-choice knapsack problem (Kellerer, Pferschy, Pisinger: "Knapsack Problems", 2004, chapter 11): of each
item one choice, so that the losses' sum is least and the costs' sum at most a budget. Numpy only.

Solved by dynamic programming over costs in units of their greatest common divisor, so exactly, where these are few
enough. Otherwise units are coarser and costs are rounded up, so that the budget holds; what rounding left of it is
given to the best exchanges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Units of a budget, at most.
UNITS = 1 << 16


def solve(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: int) -> list[int] | None:
    """The choice of each item; None where even the cheapest ones cost more than `budget`.

    costs, losses: [items][choices], costs not negative. Of choices that lose the same the first is taken.
    """
    least = [min(row) for row in costs]
    room = budget - sum(least)
    if room < 0:
        return None
    more = [[cost - low for cost in row] for row, low in zip(costs, least, strict=True)]
    unit = math.gcd(*(extra for row in more for extra in row)) or 1
    room = min(room, sum(max(row) for row in more))
    unit = max(unit, -(-room // UNITS))
    chosen = _chosen([[-(-extra // unit) for extra in row] for row in more], losses, room // unit)
    spent = sum(row[choice] for row, choice in zip(more, chosen, strict=True))
    _exchange(more, losses, chosen, room - spent)
    return chosen


def _chosen(units: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], room: int) -> list[int]:
    """The exact solution for whole costs of which each item has a 0."""
    best = np.zeros(room + 1)  # the least loss of the items so far with at most so many units
    taken = np.zeros((len(units), room + 1), np.uint8)
    for index, (row, lost) in enumerate(zip(units, losses, strict=True)):
        found = np.full(room + 1, np.inf)
        for choice, (extra, loss) in enumerate(zip(row, lost, strict=True)):
            if extra > room:
                continue
            tried = best[: room + 1 - extra] + loss
            better = tried < found[extra:]
            found[extra:][better] = tried[better]
            taken[index, extra:][better] = choice
        best = found
    chosen = [0] * len(units)
    for index in range(len(units) - 1, -1, -1):
        chosen[index] = int(taken[index, room])
        room -= units[index][chosen[index]]
    return chosen


def _exchange(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], chosen: list[int], left: int) -> None:
    """Takes better choices as long as `left` pays for one, that which loses most less first."""
    while True:
        found = [
            (losses[item][choice] - losses[item][now], item, choice)
            for item, now in enumerate(chosen)
            for choice, cost in enumerate(costs[item])
            if cost - costs[item][now] <= left and losses[item][choice] < losses[item][now]
        ]
        if not found:
            return
        _, item, choice = min(found)
        left -= costs[item][choice] - costs[item][chosen[item]]
        chosen[item] = choice
