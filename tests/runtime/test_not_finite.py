"""A file whose numbers are not: whatever would print something of it says so instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agq.artifact import open_artifact
from agq.artifact.pack import pack
from agq.errors import AgqError
from agq.runtime import benchmark
from agq.runtime.engine import Engine
from agq.runtime.generation import refuse_not_a_number
from tests.checkpoint.folders import config, write_quantized
from tests.inspect.test_wrong_numbers import damaged, first

# A tensor, what becomes of its values. Of the token 7 only the embedding.
DAMAGE: dict[str, tuple[str, Callable[[np.ndarray], None]]] = {
    "scale": ("blocks.0.up.scale", first(0x7FC0)),
    "bias": ("blocks.1.qkv.bias", first(np.nan)),
    "gain": ("blocks.1.attn_norm.weight", first(np.inf)),
    "embedding": ("embed.scale", lambda values: values.__setitem__(7, 3e38)),
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack(write_quantized(folder / "q", config("opt", tie_word_embeddings=False)), folder / "a")
    return folder / "a"


@pytest.mark.parametrize("kv_bits", [4, 8, 32])
@pytest.mark.parametrize("name", [None, *DAMAGE])
def test_engines(tmp_path: Path, packed: Path, name: str | None, kv_bits: int) -> None:
    """Token 7 stands in the middle of the prompt: its keys and values reach the last token."""
    path = packed if name is None else damaged(packed, tmp_path / "b", *DAMAGE[name])
    artifact = open_artifact(path)
    cases = benchmark.plan([4], [2], [0], [1], [None])
    with Engine(artifact, threads=1, context=16, kv_bits=kv_bits) as engine:
        logits = engine.forward([3, 7, 5, 9])
    if name is None:
        refuse_not_a_number(logits)
        assert len(list(benchmark.run(artifact, cases, 1, False, limits=False, kv_bits=kv_bits))) == 2
        return
    with pytest.raises(AgqError, match="the model's output is not a number"):
        refuse_not_a_number(logits)
    if name != "embedding":  # of one token, which a benchmark need not meet
        with pytest.raises(AgqError, match="the model's output is not a number"):
            list(benchmark.run(artifact, cases, 1, False, limits=False, kv_bits=kv_bits))
