"""Static activations as a stage of a quantization run: calibrated on the finished blocks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from agq.checkpoint.static import StaticRecord
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
