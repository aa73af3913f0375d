"""Keys, values and attention: what pack refuses because the engine does not compute it."""

from agq.checkpoint.attention_scales import AttentionScales
from agq.checkpoint.base import Checkpoint
from agq.errors import AgqError, UsageError
from agq.formats.cache import LOG2_CACHE


def check_attention(checkpoint: Checkpoint, scales: list[AttentionScales], kv_bits: int) -> None:
    """Refuses integer attention that the engine does not compute."""
    spec = checkpoint.spec
    if kv_bits != LOG2_CACHE.bits:
        raise UsageError(
            f"integer attention keeps {LOG2_CACHE.bits}-bit keys and values, not {kv_bits}-bit ones",
            hint=f"choose kv bits {LOG2_CACHE.bits}",
        )
    if len(scales) != spec.layers:
        raise AgqError(f"`{checkpoint.path}`: attention scales of {len(scales)} blocks, the model has {spec.layers}")
    for index, item in enumerate(scales):
        item.check(spec.heads, spec.kv_heads, spec.head_dim, f"`{checkpoint.path}`: attention scales of block {index}")


def refuse_kv_scheme(checkpoint: Checkpoint) -> None:
    """A folder that prescribes how the KV cache is quantized is not run otherwise without being told so."""
    config = checkpoint.quantization.config if checkpoint.quantization else {}
    if config.get("kv_cache_scheme") is not None and checkpoint.record.kv_bits is None:
        raise AgqError(
            f"`{checkpoint.path}` prescribes a KV cache quantization (`kv_cache_scheme`) that agq does not compute",
            hint="choose agq's own: kv bits 4 or 8 (per head and token) or 32",
        )
