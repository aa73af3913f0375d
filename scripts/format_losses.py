#!/usr/bin/env python3
"""How well losses of formats are foretold: for each input of a model the divergence that a target's choice reckons with
(agq/quantization/allocation/losses.py), and that of the model whose linears at this place alone have the format.

    python3 scripts/format_losses.py demo/llama-demo demo/text/calibration.txt [--seq-len 128] [--scheme W4A8]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agq.numerics.quantizers import dequantize_weight, quantize_weight, weight_grid
from agq.quantization.allocation.items import Item
from agq.quantization.allocation.losses import measure
from agq.quantization.allocation.problem import LENGTH, WINDOWS
from agq.quantization.execute import text_of_run
from agq.quantization.plan import plan
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.search import make_plan
from agq.recipe import Recipe, Scheme
from agq.recipe.changes import RecipeChanges
from agq.recipe.methods import FALLBACK
from agq.reference.block import Linear
from agq.reference.decoder import ReferenceModel
from agq.reference.quantizers import activation_quantizer


def predictions(model: ReferenceModel, tokens: Tensor) -> list[Tensor]:
    """Log probabilities [n, vocab] of each window."""
    return [torch.log_softmax(torch.from_numpy(model.logits(window)), -1) for window in tokens]


def with_format(model: ReferenceModel, recipe: Recipe, item: Item, scheme: Scheme) -> dict[str, Linear]:
    """Gives an item's linears a scheme, rounded to nearest; what they were."""
    linears = model.blocks[item.block].linears
    before = {role: linears[role] for role in item.roles}
    for role, linear in before.items():
        weights = scheme.weights
        columns = weights.group_size.columns(linear.weight.shape[1])
        grid = weight_grid(linear.weight, weights.bits, weights.symmetric, columns, recipe.gptq.mse)
        read = activation_quantizer(scheme.activations, 1.0, linear.hadamard)
        linears[role] = replace(
            linear, weight=dequantize_weight(quantize_weight(linear.weight, grid), grid), transform=read
        )
    return before


def main() -> None:
    """Prints a line for each input, then the ratios' least, median and largest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--scheme", default="W4A8")
    options = parser.parse_args()
    changes = RecipeChanges(
        scheme=options.scheme, data=options.data, samples=WINDOWS, seq_len=options.seq_len, tune=0, target_bits=16.0
    )
    made = plan(options.model, "no output", changes, check_space=False)
    windows = torch.from_numpy(text_of_run(made)[0])
    parameters = TransformedParameters(made.checkpoint, make_plan(made.checkpoint, made.recipe, windows))
    assert made.problem is not None
    items = made.problem.items
    # What is compared is rounded to nearest, as losses are without a solver.
    foretold = measure(parameters, replace(made.recipe, method=FALLBACK), items, windows, lambda _: torch.bfloat16)
    tokens = windows[:WINDOWS, :LENGTH]
    model = ReferenceModel(made.checkpoint, parameters=parameters)
    base = predictions(model, tokens)
    ratios = []
    for item, losses in zip(items, foretold, strict=True):
        before = with_format(model, made.recipe, item, item.schemes[0])
        pairs = zip(base, predictions(model, tokens), strict=True)
        found = statistics.mean(float((one.exp() * (one - other)).sum(-1).mean()) for one, other in pairs)
        model.blocks[item.block].linears.update(before)
        ratios.append(losses[0] / found)
        print(f"{item.name:16} {item.schemes[0].describe():24} foretold {losses[0]:.5f} computed {found:.5f}")
    print(f"ratio: {min(ratios):.2f} to {max(ratios):.2f}, median {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
