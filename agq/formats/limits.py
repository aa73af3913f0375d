"""The largest sizes of a model that agq takes. Larger than any published model, small enough that every product of two
fits the C side's 64-bit sizes. The C library checks sizes of its own (kernels/src/model/check.c); a test sees that it
takes all of these.
"""

from __future__ import annotations

# Field of models.ModelSpec -> largest value; the smallest is 1.
SIZES = {
    "hidden": 1 << 17,
    "layers": 1 << 10,
    "heads": 1 << 12,
    "kv_heads": 1 << 12,
    "head_dim": 1 << 12,
    "ffn": 1 << 20,
    "vocab": 1 << 24,
    "context": 1 << 24,
    "embed_dim": 1 << 17,
}
# Attention sinks are the first few tokens: more would be another recipe. AGQ_MAX_SINK_TOKENS of kernels/include/agq.h.
MAX_SINK_TOKENS = 64
# Columns in a group of a folder that other software made.
GROUP = 1 << 20
# Block of a Walsh-Hadamard transform that a folder may name.
HADAMARD = 1 << 20
# Static activations (agq.h): scales, and exponents of channels that the engine computes.
STATIC_SCALES = (1e-30, 1e30)
CHANNEL_EXPONENT = 3


def between(size: str) -> dict[str, int]:
    """The range of a size as arguments: {"low": 1, "high": ...}."""
    return {"low": 1, "high": SIZES[size]}
