"""The width of the output head, chosen by what it costs: the narrowest that the model's predictions do not notice."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agq.checkpoint import open_checkpoint
from agq.formats.cache import DEFAULT_TABLE, TABLES
from agq.recipe import Recipe
from agq.reference.decoder import ReferenceModel
from agq.reporting.output import plain
from agq.reporting.progress import Progress

# A head may raise the perplexity by this share, beside one of 32-bit floats.
MOST = 0.002
# Windows of calibration text, and tokens of each, that it is measured on.
WINDOWS, LENGTH = 8, 512


@dataclass(frozen=True)
class Cost:
    """Of a width. cost: the perplexity's ratio to that with a head of floats, less 1; error: its standard error over
    the tokens. Both NaN where logits are not finite."""

    cost: float
    error: float


def head_costs(folder: Path, windows: np.ndarray, device: torch.device | str = "cpu") -> dict[int, Cost]:
    """What heads of codes cost, by their width. The embedding of a model that is tied, or is by its matrix, changes
    with the head.

    folder: a quantized one. windows: token ids int64 [windows, n], of which WINDOWS and LENGTH are used.
    """
    used = windows[:WINDOWS, :LENGTH]

    def losses(bits: int) -> np.ndarray:
        model = ReferenceModel(open_checkpoint(folder), True, head_bits=bits, device=device)
        return np.concatenate([model.nll(window) for window in used]).astype(np.float64)

    def cost(bits: int) -> Cost:
        more = losses(bits) - floats
        return Cost(math.expm1(more.mean()), float(more.std() / math.sqrt(more.size)))

    floats = losses(max(TABLES))
    return {row.bits: cost(row.bits) for row in TABLES.values() if row.integer}


def narrowest(costs: dict[int, Cost]) -> int:
    """The smallest width that costs less than MOST even with the error added, so that none is taken by luck;
    DEFAULT_TABLE's where none does."""
    return min((bits for bits, item in costs.items() if item.cost + item.error < MOST), default=DEFAULT_TABLE.bits)


def fit_head(
    recipe: Recipe,
    write: Callable[[Path, Recipe], object],
    folder: Path,
    windows: np.ndarray,
    device: torch.device | str,
    progress: Progress,
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with the width that measuring finds, and what agq.json's report says of it: width -> cost.

    write: writes the quantized folder of a recipe. folder: where it may stand for the time of the measuring.
    """
    progress.stage("output head", None)
    try:
        write(folder, replace(recipe, head_bits=DEFAULT_TABLE.bits))
        costs = head_costs(folder, windows, device)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bits = narrowest(costs)
    told = ", ".join(
        f"{width} bits {100 * item.cost:+.2f} +- {100 * item.error:.2f} %" for width, item in costs.items()
    )
    progress.note(f"output head of {bits} bits; perplexity on calibration text: {told}")
    return replace(recipe, head_bits=bits), plain({str(width): asdict(item) for width, item in costs.items()})
