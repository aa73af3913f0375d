"""Kernel tables whose forecasts can be worked out by hand."""

from __future__ import annotations

from agq.artifact.schema import ArtifactModel
from agq.models import ModelSpec, spec_from_config
from agq.planning.kernel_table import Attention, Curve, KernelTable, Point, format_name


def spec(**changes: object) -> ModelSpec:
    """A LLaMA of 2 layers: hidden 64, feed-forward 96, 4 heads of 16 (2 for keys and values), vocabulary 100."""
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    return spec_from_config(config | changes)


def flat(call: float = 0.0, unit: float = 0.0) -> Curve:
    """The same for any number of tokens: up to 4 at once."""
    return Curve((Point(1, call, unit), Point(4, call, unit)))


def table(model: ArtifactModel, **changes: object) -> KernelTable:
    """Costs nothing but what `changes` say, and computes 4 tokens at once."""
    rows = {format_name(info) for info in model.linears.values()}
    values = {
        "machine": "paper",
        "level": "scalar",
        "threads": 1,
        "measured": True,
        "memory": 10**9,
        "bandwidth": 1e9,
        "peak": 1e9,
        "instruction": "none",
        "linears": dict.fromkeys(rows, flat()),
        "inputs": dict.fromkeys(rows, flat()),
        "kv_store": {8: flat(), 32: flat()},
        "attention": dict.fromkeys((8, 32), Attention(0.0, 0.0, 0.0, 0.0)),
        "forward": flat(),
        "most": 4,
    }
    return KernelTable(**(values | changes))  # type: ignore[arg-type]
