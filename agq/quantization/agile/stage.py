"""Static activations as a stage of a quantization run: calibrated on the finished blocks, written beside agq.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from agq.checkpoint.static import StaticRecord
from agq.formats import PER_ROW, groups
from agq.quantization.agile.calibrate import calibrate
from agq.quantization.encode import decode
from agq.quantization.state import WorkFolder
from agq.recipe import Recipe, Scheme
from agq.reference.decoder import Parameters


def static_activations(
    recipe: Recipe, schemes: Mapping[str, Scheme], parameters: Parameters, work: WorkFolder, windows: Tensor
) -> StaticRecord:
    """The static quantizers of a run whose blocks are all finished. windows: int64 [windows, n], of which the first
    `recipe.agile.windows` are used."""

    def weights(index: int) -> dict[str, Tensor]:
        tensors, _ = work.read(index)
        linears = parameters.parts.block(index).linears
        return {
            role: decode(linear.module, tensors, schemes[linear.module], linear.in_features)
            for role, linear in linears.items()
            if linear.module in schemes
        }

    return calibrate(
        parameters,
        weights,
        windows[: recipe.agile.windows],
        recipe.agile,
        lambda module: module in schemes,
        recipe.pruning,
    )


def add_entries(activations: dict[str, dict[str, Any]], statics: StaticRecord) -> None:
    """Puts the static quantizers into the `activations` of agq.json."""
    for module, item in statics.inputs.items():
        kept = {key: value for key, value in activations[module].items() if key == "hadamard"}
        activations[module] = {
            "bits": item.bits,
            "group_size": groups.to_recipe(PER_ROW),
            "symmetric": item.channel_scale is not None,
            **kept,
            "static": item.entry(),
        }
