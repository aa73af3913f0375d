"""The C engine against transformers for every family: float weights, float KV cache, small random models with windows
shorter than the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agq.recipe.pruning import PruningOptions
from agq.reference.decoder import ReferenceModel
from agq.reference.pruning import pruned_states
from agq.runtime.engine import Engine
from tests.families import CASES, CLASSES, Case, drawn, make
from tests.runtime.runtime_support import relative_error
from tests.runtime.test_against_transformers import BOUND, greedy, logits_of, packed

DRAWN = [(family, 10 + seed) for family in CLASSES for seed in range(2)]


def whole_greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """transformers without a KV cache: its own one keeps too much for windows of one token."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits_of(model, np.array(tokens))[-1].argmax()))
    return tokens[len(prompt) :]


def states_of(model: Any, ids: np.ndarray) -> np.ndarray:
    """What transformers' head reads."""
    with torch.no_grad():
        out = model(torch.tensor(ids, dtype=torch.long)[None], output_hidden_states=True)
    return out.hidden_states[-1][0].float().numpy()


def check(case: Case, folder: Path) -> None:
    model = make(case)
    ids = np.random.default_rng(1).integers(3, 270, 100)
    path = packed(model, folder)
    with Engine(path, threads=2, context=128, batch=32) as engine:
        spec = engine.spec
        steady = not any(rope is not None and rope.depends_on_length for rope in (spec.rope, spec.rope_local))
        # A text that fits the original context, and one that does not.
        for length in (30, 100):
            engine.truncate(0, 0)
            found = engine.forward(ids[:length], logits="all")
            assert relative_error(found, logits_of(model, ids[:length])) < BOUND, length
        engine.truncate(0, 0)
        assert relative_error(engine.states(ids), states_of(model, ids)) < BOUND
        if steady:
            engine.truncate(0, 37)  # the rest again, on what is left in the cache, in uneven pieces
            again = [engine.forward(part, logits="all") for part in np.split(ids[37:], [1, 20])]
            assert relative_error(np.concatenate(again), found[37:]) < BOUND
            engine.truncate(0, 0)
            prompt = ids[:40].tolist()
            assert greedy(engine, prompt, 24) == whole_greedy(model, prompt, 24)
    with Engine(path, threads=1, context=128, scalar=True) as engine:
        assert relative_error(engine.forward(ids, logits="all"), found) < BOUND


@pytest.mark.parametrize("name", CASES)
def test_chosen_models(name: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path)


@pytest.mark.parametrize(("family", "seed"), DRAWN)
def test_drawn_models(family: str, seed: int, tmp_path: Path) -> None:
    check(drawn(family, seed), tmp_path)


# Of each feature that meets the KV cache one family.
CACHED = ["mistral", "qwen3-types", "gemma2-caps", "gemma3", "phi4", "smollm3-window", "olmo2", "granite", "gpt_neox"]


def errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Of each token, relative to the largest logit."""
    return np.abs(found - expected).max(axis=1) / np.abs(expected).max()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", CACHED)
def test_integer_caches(name: str, bits: int, tmp_path: Path) -> None:
    """As the reference has them. A code at a tie moves one value of a head by a step."""
    path = packed(make(CASES[name]), tmp_path, kv_bits=bits)
    ids = np.random.default_rng(2).integers(3, 270, 80)
    expected = ReferenceModel.from_folder(tmp_path / "model", kv_bits=bits).logits(ids)
    with Engine(path, threads=1, context=128) as engine:
        found = engine.forward(ids, logits="all")
    assert np.median(errors(found, expected)) < 1e-3 and errors(found, expected).max() < 0.1


@pytest.mark.parametrize("positions", ["safe", "paper"])
@pytest.mark.parametrize("name", CACHED)
def test_token_pruning(name: str, positions: str, tmp_path: Path) -> None:
    path = packed(make(CASES[name]), tmp_path)
    model = ReferenceModel.from_folder(tmp_path / "model")
    options = PruningOptions("2", 0.4, positions)
    ids = np.random.default_rng(3).integers(3, 270, 90)
    expected = pruned_states(model, torch.as_tensor(ids), options, protect_wanted=False)
    logits = model.scores(expected.hidden).numpy()
    with Engine(path, threads=1, context=128, batch=96) as engine:
        engine.set_pruning(options, protect_wanted=False)
        found = engine.forward(ids, logits="all")
        kept = engine.survivors()
    assert np.array_equal(kept, expected.kept.numpy())
    assert relative_error(found, logits) < BOUND
