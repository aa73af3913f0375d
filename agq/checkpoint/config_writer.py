"""The `quantization_config` of a folder that agq writes."""

from typing import Any

from agq.checkpoint.module_scheme import PACKED
from agq.formats import PER_ROW, Granularity, PerGroup
from agq.formats.weights import FP8
from agq.recipe import ActivationScheme, WeightScheme


def _size(group: Granularity) -> int | None:
    """A granularity as a folder written by agq states it beside its strategy."""
    return group.size if isinstance(group, PerGroup) else None


def _inputs(bits: int, kind: str, symmetric: bool, group: Granularity) -> dict[str, Any]:
    """Dynamic activations."""
    return {
        "num_bits": bits,
        "type": kind,
        "symmetric": symmetric,
        "strategy": "token" if _size(group) is None else "group",
        "dynamic": True,
        "group_size": _size(group),
    }


def quantization_config(
    groups: list[tuple[list[str], WeightScheme, ActivationScheme]], ignore: list[str], format: str = PACKED
) -> dict[str, Any]:
    """The `quantization_config` of a folder, as transformers and vLLM load it.

    Args:
        groups: (targets, weights, activations) of each group. Dynamic activations per token load everywhere; those per
            group or asymmetric in compressed-tensors and transformers, not in vLLM.
        ignore: module names (or "re:" patterns) that stay in floating point.
        format: "pack-quantized" for 4-bit, "int-quantized" for 8-bit weights, "float-quantized" for FP8; a mixture of
            weights with 4 and 8 bits is packed.

    Weights of FP8 are declared with inputs of FP8 per token, so that processors that multiply FP8 do.
    """
    table = {}
    for index, (targets, weights, activations) in enumerate(groups):
        acts = None
        if weights.floats:
            acts = _inputs(FP8.bits, "float", True, PER_ROW)
        elif activations.quantized:
            acts = _inputs(activations.bits, "int", activations.symmetric, activations.group_size)
        table[f"group_{index}"] = {
            "targets": list(targets),
            "format": format,
            "weights": {
                "num_bits": weights.bits,
                "type": "float" if weights.floats else "int",
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
