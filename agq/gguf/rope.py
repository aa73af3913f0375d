"""RoPE's scaling in GGUF: keys, and tensors of factors, as `rope_scaling` of a config.json."""

import math
from typing import Any

from agq.errors import AgqError
from agq.gguf.values import Metadata
from agq.models import RopeSpec

# Tensors of factors that divide the frequencies.
FACTORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
# LLaMA 3.1's and 3.2's own: the file has the factors that they give, not the values themselves.
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192
_CLOSE = 1e-5  # relative: factors are float32, computed by torch


def scaling(metadata: Metadata, config: dict[str, Any], turned: int) -> dict[str, Any]:
    """`rope_scaling`, or nothing. turned: channels of a head that RoPE turns.

    Raises:
        AgqError: a kind of scaling that agq does not know, factors of another count.
    """
    long, short, factors = (_factors(metadata, name, turned) for name in (LONG, SHORT, FACTORS))
    if long or short:
        return {"rope_scaling": _longrope(metadata, config, long or short, short or long)}
    if factors:
        return {"rope_scaling": _llama3(metadata, config, factors, turned)}
    # As llama.cpp reads it: a factor alone is one of linear scaling, and older files have it under another name.
    kind = metadata.text("rope.scaling.type", "linear")
    factor = metadata.number("rope.scaling.factor", 0.0) or metadata.number("rope.scale_linear", 0.0) or 1.0
    if kind == "none" or (kind == "linear" and factor == 1):
        return {}
    if kind == "linear":
        return {"rope_scaling": {"rope_type": "linear", "factor": factor}}
    if kind == "yarn":
        return {"rope_scaling": _yarn(metadata, config, factor)}
    raise AgqError(f"{metadata.where}: RoPE scaling `{kind}` is not supported", hint="supported: linear, yarn")


def _factors(metadata: Metadata, name: str, turned: int) -> list[float] | None:
    found = metadata.floats(name)
    if found is not None and len(found) != turned // 2:
        raise AgqError(f"{metadata.where}: tensor `{name}` has {len(found)} factors, not {turned // 2}")
    return found


def _longrope(metadata: Metadata, config: dict[str, Any], long: Any, short: Any) -> dict[str, Any]:
    context = config["max_position_embeddings"]
    original = metadata.integer("rope.scaling.original_context_length", context)
    found = {
        "rope_type": "longrope",
        "long_factor": long,
        "short_factor": short,
        "factor": context / max(original, 1),
        "original_max_position_embeddings": original,
    }
    if metadata.get("rope.scaling.attn_factor") is not None:
        found["attention_factor"] = metadata.number("rope.scaling.attn_factor")
    return found


def _llama3(metadata: Metadata, config: dict[str, Any], factors: list[float], turned: int) -> dict[str, Any]:
    """LLaMA 3's scaling where its own values give these factors; else the factors for sequences of all lengths."""
    theta, factor = config["rope_theta"], max(factors)
    guess = RopeSpec(theta, "llama3", factor, _LOW, _HIGH, _ORIGINAL)
    plain, scaled = RopeSpec(theta).inv_freq(turned)[0], guess.inv_freq(turned)[0]
    if all(abs(a / b - c) <= _CLOSE * c for a, b, c in zip(plain, scaled, factors, strict=True)):
        return {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": _LOW,
            "high_freq_factor": _HIGH,
            "original_max_position_embeddings": _ORIGINAL,
        }
    return {
        "rope_type": "longrope",
        "long_factor": factors,
        "short_factor": factors,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": config["max_position_embeddings"],
    }


def _yarn(metadata: Metadata, config: dict[str, Any], factor: float) -> dict[str, Any]:
    context = config["max_position_embeddings"]
    found = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": metadata.integer("rope.scaling.original_context_length", context),
        "beta_fast": metadata.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": metadata.number("rope.scaling.yarn_beta_slow", 1.0),
    }
    if metadata.get("rope.scaling.attn_factor") is not None:
        # llama.cpp multiplies it with the usual one.
        found["attention_factor"] = metadata.number("rope.scaling.attn_factor") * (0.1 * math.log(factor) + 1)
    return found
