"""The chosen formats: as overrides of a recipe, as a table, and as a record of why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agq.files import atomic_write_text
from agq.models import ModelParts
from agq.models.folding import spans
from agq.quantization.allocation.items import Item, all_schemes, overrides_of
from agq.quantization.allocation.problem import Problem
from agq.recipe import Recipe, Scheme, TargetOptions
from agq.structured import plain

# In the work folder: losses, which are all that was measured.
NAME = "allocation.json"


@dataclass(frozen=True)
class Choice:
    """A scheme for each item of a problem. losses: [items][schemes], nats per token. chosen: numbers of schemes."""

    problem: Problem
    losses: list[list[float]]
    chosen: list[int]

    @classmethod
    def of(cls, problem: Problem, losses: list[list[float]]) -> Choice:
        """The best one. Raises AgqError where there is none."""
        return cls(problem, losses, problem.solve(losses))

    @property
    def schemes(self) -> list[Scheme]:
        """Of the items."""
        return [item.schemes[number] for item, number in zip(self.problem.items, self.chosen, strict=True)]

    @property
    def loss(self) -> float:
        """Expected divergence of predictions, nats per token, of weights rounded to nearest."""
        return _sum(self.losses, self.chosen)

    def recipe(self, recipe: Recipe, parts: ModelParts) -> Recipe:
        """`recipe` with the choice as overrides in the place of its target."""
        overrides = (*overrides_of(parts, self.problem.items, self.schemes), *recipe.overrides)
        found = replace(recipe, overrides=overrides, target=TargetOptions(), sink_tokens=0)
        schemes = [found.scheme_for(linear.module) for linear in parts.block_linears()]
        coarse = any(scheme is not None and scheme.activations.coarse for scheme in schemes)
        return replace(found, sink_tokens=recipe.sink_tokens if coarse else 0)

    def uniform(self) -> list[tuple[str, int, float]]:
        """(format, cost in all, expected divergence) of each scheme where every item has it."""
        items = self.problem.items
        found = []
        for scheme in all_schemes(items):
            if all(scheme in item.schemes for item in items):
                numbers = [item.schemes.index(scheme) for item in items]
                found.append((scheme.describe(), self.problem.costs.total(numbers), _sum(self.losses, numbers)))
        return found

    def lines(self) -> list[str]:
        """For people: what was chosen, by place and range of blocks."""
        words, total = self.problem.costs.words, self.problem.costs.total(self.chosen)
        lines = [f"formats for {self.problem.describe()}: {words(total)}, expected divergence {self.loss:.3g} nats"]
        lines += [f"  all {name}: {words(cost)}, {loss:.3g} nats" for name, cost, loss in self.uniform()]
        rows = self._folded()
        width = max(len(", ".join(roles)) for roles, _ in rows)
        for (roles, scheme), blocks in rows.items():
            lines.append(f"  {', '.join(roles):{width}}  {scheme.describe()}: blocks {spans(blocks)}")
        return lines

    def _folded(self) -> dict[tuple[tuple[str, ...], Scheme], list[int]]:
        """Roles and scheme -> blocks, by place and scheme."""
        items = self.problem.items
        places, schemes = list(dict.fromkeys(item.place for item in items)), all_schemes(items)

        def rank(pair: tuple[Item, Scheme]) -> tuple[int, int]:
            return places.index(pair[0].place), schemes.index(pair[1])

        found: dict[tuple[tuple[str, ...], Scheme], list[int]] = {}
        for item, scheme in sorted(zip(items, self.schemes, strict=True), key=rank):
            found.setdefault((item.roles, scheme), []).append(item.block)
        return found

    def record(self) -> dict[str, Any]:
        """JSON for agq.json: the target, what was reached, and of each item the loss of every scheme."""
        costs = self.problem.costs
        items = [
            {
                "linears": item.name,
                "chosen": item.schemes[number].describe(),
                "losses": {scheme.describe(): _short(loss) for scheme, loss in zip(item.schemes, row, strict=True)},
            }
            for item, number, row in zip(self.problem.items, self.chosen, self.losses, strict=True)
        ]
        return {
            "target": {name: value for name, value in plain(self.problem.target).items() if value is not None},
            "reached": costs.figure(costs.total(self.chosen)),
            "loss": _short(self.loss),
            "uniform": [
                {"format": name, "reached": costs.figure(cost), "loss": _short(loss)}
                for name, cost, loss in self.uniform()
            ],
            "items": items,
        }


def save(path: Path, losses: list[list[float]]) -> None:
    """Keeps what was measured, for a run that goes on."""
    atomic_write_text(path, json.dumps(losses) + "\n")


def load(path: Path) -> list[list[float]] | None:
    """What `save` kept; None before that."""
    if not path.exists():
        return None
    found: list[list[float]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _sum(losses: Sequence[Sequence[float]], chosen: Sequence[int]) -> float:
    return sum(row[number] for row, number in zip(losses, chosen, strict=True))


def _short(value: float) -> float:
    return float(f"{value:.4g}")
