"""How a model is sampled by its generation_config.json: as transformers would, else temperature 0.7 and top-p 0.9."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agq.errors import AgqError
from agq.runtime.recommended import choose_sampler, recommended_sampling

OWN = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.0}


def artifact(config: Any) -> Any:
    """An artifact that holds one document, or none."""
    return SimpleNamespace(
        path=Path("model"), has=lambda name: config is not None, document=lambda name: json.dumps(config).encode()
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, {"temperature": 0.7, "top_p": 0.9}),
        ({}, OWN),
        ({"eos_token_id": 2}, OWN),
        ({"repetition_penalty": 1.1}, OWN | {"repetition_penalty": 1.1}),
        ({"do_sample": False, "temperature": 0.5}, {"temperature": 0.0, "repetition_penalty": 1.0}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
            {"temperature": 0.6, "top_k": 20, "top_p": 0.8, "min_p": 0.0, "repetition_penalty": 1.05},
        ),
        (
            {"temperature": 0.6, "min_p": 0.1, "top_p": None},
            {"temperature": 0.6, "top_k": 50, "top_p": 1.0, "min_p": 0.1, "repetition_penalty": 1.0},
        ),
    ],
    ids=str,
)
def test_what_the_file_says(config: Any, expected: dict[str, float]) -> None:
    found = recommended_sampling(artifact(config))
    assert found == ({"repetition_penalty": 1.0} | expected)


@pytest.mark.parametrize(
    "config",
    [[], {"temperature": "hot"}, {"do_sample": "yes"}, {"top_p": 1.5}, {"do_sample": True, "top_k": -1}],
    ids=str,
)
def test_values_of_the_wrong_kind(config: Any) -> None:
    with pytest.raises(AgqError, match=r"generation_config\.json"):
        recommended_sampling(artifact(config))


def test_defaults_are_those_of_transformers() -> None:
    """Where a file asks for sampling and leaves values out."""
    transformers = pytest.importorskip("transformers")
    found = recommended_sampling(artifact({"do_sample": True}))
    config = transformers.GenerationConfig(do_sample=True)
    defaults = config._get_default_generation_params() if config.top_k is None else config.to_dict()
    assert {name: found[name] for name in ("temperature", "top_k", "top_p", "repetition_penalty")} == {
        name: defaults[name] for name in ("temperature", "top_k", "top_p", "repetition_penalty")
    }


def test_given_options_replace_single_settings() -> None:
    sampler = choose_sampler({"temperature": 0.6, "top_k": 20, "top_p": 0.8}, {"top_k": 5, "min_p": None}, 7)
    assert (sampler.temperature, sampler.top_k, sampler.top_p, sampler.min_p) == (0.6, 5, 0.8, 0.0)
    assert sampler.seed == 7 and not sampler.greedy
    assert choose_sampler({}, {"temperature": None}, None).greedy
