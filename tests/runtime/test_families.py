"""The C engine against transformers for every family: float weights, float KV cache, small random models with windows
shorter than the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
