"""Formats chosen for a target: the knapsack, what formats cost and lose, and whole runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agq.artifact.pack import pack
from agq.artifact.reader import open_artifact
from agq.checkpoint import open_checkpoint
from agq.errors import AgqError, UsageError
from agq.evaluation import evaluate_perplexity
from agq.formats import PER_ROW, PerGroup
from agq.numerics.quantizers import dequantize_weight, quantize_weight, weight_grid
from agq.planning.machines import estimate, machine
from agq.planning.roofline import forecast
from agq.planning.use_cases import DEFAULT
from agq.quantization.allocation import knapsack
from agq.quantization.allocation.choice import Choice
from agq.quantization.allocation.costs import File
from agq.quantization.allocation.items import items_of, open_modules, overrides_of, schemes_of
from agq.quantization.allocation.losses import Watched, measure
from agq.quantization.compute import ALLOCATION
from agq.quantization.plan import Plan
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.plan import feasible
from agq.recipe import Recipe, Scheme, TransformOptions
from agq.recipe.files import load_recipe
from agq.reference.decoder import ReferenceModel
from agq.reporting.progress import Progress
from tests.families import CASES, make
from tests.quantization.quantization_support import TEXT, Stop, differences, planned, quantized
from tests.runtime.runtime_support import save_with_tokenizer
from tests.runtime.test_head_matrix import model

QUICK: dict[str, Any] = {"data": str(TEXT), "samples": 2, "seq_len": 64, "tune": 0}


# ---- the knapsack


def brute(costs: list[list[int]], losses: list[list[float]], budget: int) -> float:
    """The least loss, by trying everything."""
    found = float("inf")
    for chosen in itertools.product(*(range(len(row)) for row in costs)):
        if sum(row[i] for row, i in zip(costs, chosen, strict=True)) <= budget:
            found = min(found, sum(row[i] for row, i in zip(losses, chosen, strict=True)))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_as_good_as_trying_everything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    step = int(rng.integers(1, 5))
    sizes = rng.integers(1, 5, rng.integers(1, 7))
    costs = [[step * int(cost) for cost in rng.integers(0, 60, size)] for size in sizes]
    losses = [rng.uniform(0, 1, size).tolist() for size in sizes]
    least, most = sum(map(min, costs)), sum(map(max, costs))
    for budget in (least, int(rng.integers(least, most + 1)), most, most + 7):
        chosen = knapsack.solve(costs, losses, budget)
        assert chosen is not None
        assert sum(row[i] for row, i in zip(costs, chosen, strict=True)) <= budget
        assert sum(row[i] for row, i in zip(losses, chosen, strict=True)) == pytest.approx(
            brute(costs, losses, budget), abs=1e-12
        )
    assert knapsack.solve(costs, losses, least - 1) is None


def test_coarse_units_hold_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs without a common divisor: rounded up, and what is left is used."""
    monkeypatch.setattr(knapsack, "UNITS", 50)
    rng = np.random.default_rng(3)
    for _ in range(30):
        costs = [sorted(map(int, rng.integers(10**9, 2 * 10**9, 3))) for _ in range(6)]
        losses = [sorted(rng.uniform(0, 1, 3).tolist(), reverse=True) for _ in range(6)]
        least, most = sum(map(min, costs)), sum(map(max, costs))
        budget = int(rng.integers(least, most))
        chosen = knapsack.solve(costs, losses, budget)
        assert chosen is not None
        spent = sum(row[i] for row, i in zip(costs, chosen, strict=True))
        assert spent <= budget
        found = sum(row[i] for row, i in zip(losses, chosen, strict=True))
        # Rounding takes at most six units of the room.
        assert found <= brute(costs, losses, budget - 6 * ((most - least) // 50 + 1)) + 1e-12
        for item, now in enumerate(chosen):  # nothing better is paid for by what is left
            for choice in range(3):
                cheaper = spent - costs[item][now] + costs[item][choice] <= budget
                assert not (cheaper and losses[item][choice] < losses[item][now])


def test_of_equal_losses_the_first() -> None:
    assert knapsack.solve([[5, 1, 1]], [[0.5, 0.5, 0.5]], 9) == [0]
    assert knapsack.solve([[1, 2], [1, 2]], [[1.0, 0.5], [1.0, 0.4]], 3) == [0, 1]


# ---- items


def bits(schemes: tuple[Scheme, ...]) -> list[str]:
    return [scheme.describe() for scheme in schemes]


def test_schemes_that_an_item_can_have() -> None:
    base = Scheme.parse("W4A8")
    assert bits(schemes_of(base, base.weights, 1536)) == [
        "W4 g128, A8 per token", "W4 g64, A8 per token", "W4 g32, A8 per token", "W8 per row, A8 per token",
    ]  # fmt: skip
    assert bits(schemes_of(base, base.weights, 576))[0] == "W4 g64, A8 per token"
    assert bits(schemes_of(base, base.weights, 40)) == ["W4 per row, A8 per token", "W8 per row, A8 per token"]
    said = Scheme.of(4, 16, PerGroup(64), symmetric=False)
    assert bits(schemes_of(said, said.weights, 256)) == [
        "W4 g64 asym, float activations", "W8 per row asym, float activations",
    ]  # fmt: skip
    # Bytes have no kernels for 4-bit inputs.
    four = Scheme.parse("W4A4").fit(PerGroup(128))
    assert bits(schemes_of(four, Scheme.parse("W4A4").weights, 128))[::3] == [
        "W4 g128, A4 g128 asym", "W8 per row, A8 per token",
    ]  # fmt: skip
    eight = Scheme.of(8, 8, PerGroup(64))
    assert bits(schemes_of(eight, eight.weights, 64))[-1] == "W8 g64, A8 per token"


@pytest.mark.parametrize("name", ["mistral", "phi4", "gpt_neox", "opt", "bloom"])
def test_overrides_name_exactly_the_linears(name: str, demo_model: Path) -> None:
    parts = published_parts(name)
    recipe = Recipe().fitted() if hasattr(Recipe, "fitted") else Recipe(scheme=Scheme.of(4, 8, PerGroup(32)))
    items = items_of(parts, recipe, open_modules(parts, recipe), Scheme.parse("W4A8").weights)
    assert sorted(module for item in items for module in item.modules) == sorted(
        linear.module for linear in parts.block_linears()
    )
    rng = np.random.default_rng(1)
    schemes = [item.schemes[int(rng.integers(len(item.schemes)))] for item in items]
    found = Recipe(scheme=recipe.scheme, overrides=overrides_of(parts, items, schemes))
    for item, scheme in zip(items, schemes, strict=True):
        assert {found.scheme_for(module) for module in item.modules} == {scheme}


def published_parts(name: str) -> Any:
    from agq.models import parts, spec_from_config
    from tests.checkpoint.folders import config

    known = {"mistral": "llama", "phi4": "llama", "gpt_neox": "llama"}
    try:
        return parts(spec_from_config(config(name)))
    except KeyError:
        return parts(spec_from_config(config(known[name])))
