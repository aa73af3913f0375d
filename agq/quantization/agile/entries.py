"""What agq.json says of static activations. Numpy only."""

from __future__ import annotations

from typing import Any

from agq.checkpoint.static import StaticRecord
from agq.formats import PER_ROW, groups


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
