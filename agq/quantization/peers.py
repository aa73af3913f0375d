"""What other software does with a folder: which ones vLLM does not serve, in its own words.

Found by benchmarks/vs_vllm.py with vLLM 0.32 on a processor; its releases for GPUs have more kernels.
"""

from __future__ import annotations

from collections.abc import Collection

from agq.checkpoint.compressed_tensors import INT, PACKED
from agq.formats import PerGroup
from agq.formats.weights import BYTE_CODES
from agq.models import ModelSpec
from agq.recipe import Scheme

# Families whose loader in vLLM reorders every tensor of the fused projection by heads, `weight_shape` too.
_REORDERED = ("bloom",)


def unserved(spec: ModelSpec, schemes: Collection[Scheme], format: str) -> list[str]:
    """Sentences about what vLLM refuses of a folder, none where it serves it. schemes: of its quantized linears;
    format: compressed-tensors'."""
    found = []
    coarse = [scheme.activations for scheme in schemes if scheme.activations.coarse]
    if coarse:
        groups = " in groups" if any(isinstance(item.group_size, PerGroup) for item in coarse) else ""
        found.append(f"4-bit activations{groups}: transformers computes them, vLLM has no kernel for them")
    if format == INT and any(
        scheme.weights.format == BYTE_CODES
        and scheme.activations.quantized
        and isinstance(scheme.weights.group_size, PerGroup)
        for scheme in schemes
    ):
        found.append("8-bit weights in groups with 8-bit activations: vLLM has kernels for one scale per row only")
    if format == PACKED and spec.family in _REORDERED:
        found.append(
            "packed weights of this family: vLLM's loader fails at `weight_shape` of the fused projection; "
            "`ct_format: int` has no such tensor"
        )
    return found
