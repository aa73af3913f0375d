"""The `quantization_config` of a folder that agq writes."""

from typing import Any

from agq.checkpoint.module_scheme import PACKED
from agq.formats import Granularity, PerGroup
from agq.recipe import ActivationScheme, WeightScheme


def _size(group: Granularity) -> int | None:
    """A granularity as a folder written by agq states it beside its strategy."""
    return group.size if isinstance(group, PerGroup) else None


def quantization_config(
    groups: list[tuple[list[str], WeightScheme, ActivationScheme]], ignore: list[str], format: str = PACKED
) -> dict[str, Any]:
    """The `quantization_config` of a folder, as transformers and vLLM load it.

    Args:
        groups: (targets, weights, activations) of each group. Dynamic activations per token load everywhere; those per
            group or asymmetric in compressed-tensors and transformers, not in vLLM.
        ignore: module names (or "re:" patterns) that stay in floating point.
        format: "pack-quantized" for 4-bit, "int-quantized" for 8-bit weights; a mixture of weights with 4 and 8 bits
            is packed.
    """
    table = {}
    for index, (targets, weights, activations) in enumerate(groups):
        acts = None
        if activations.quantized:
            acts = {
                "num_bits": activations.bits,
                "type": "int",
                "symmetric": activations.symmetric,
                "strategy": "token" if _size(activations.group_size) is None else "group",
                "dynamic": True,
                "group_size": _size(activations.group_size),
            }
        table[f"group_{index}"] = {
            "targets": list(targets),
            "format": format,
            "weights": {
                "num_bits": weights.bits,
                "type": "int",
                "symmetric": weights.symmetric,
                "strategy": "channel" if _size(weights.group_size) is None else "group",
                "group_size": _size(weights.group_size),
                "dynamic": False,
            },
            "input_activations": acts,
            "output_activations": None,
        }
    return {
        "quant_method": "compressed-tensors",
        "version": "0.20.0",
        "quantization_status": "compressed",
        "format": format,
        "config_groups": table,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        "sparsity_config": {},
        "transform_config": {},
        "moe_sparsity_config": None,
    }
