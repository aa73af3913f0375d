"""Any valid recipe -> dict, JSON or YAML -> the same recipe."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from agq.errors import AgqError
from agq.recipe import Recipe

GROUPS = st.sampled_from((-1, 32, 64, 128, 256))
SHARE = st.floats(0, 1)
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


def fields(**values: Any) -> st.SearchStrategy[dict[str, Any]]:
    """A table with any of the keys; those that are left out take their defaults."""
    return st.fixed_dictionaries({}, optional=values)


SCHEME = st.sampled_from(((4, 8), (4, 4), (8, 8), (4, 16), (8, 16))).flatmap(
    lambda bits: st.fixed_dictionaries(
        {
            "weights": st.fixed_dictionaries(
                {"bits": st.just(bits[0]), "symmetric": st.booleans(), "group_size": GROUPS}
            ),
            "activations": st.fixed_dictionaries(
                {
                    "bits": st.just(bits[1]),
                    "symmetric": st.booleans() if bits[1] == 4 else st.just(True),
                    "group_size": GROUPS,
                }
            ),
        }
    )
)
PATTERNS = st.one_of(
    WORDS.filter(lambda text: not text.startswith("re:")), st.sampled_from(("re:.*down_proj", "re:.*(q|k)_proj$"))
)
RECIPES = fields(
    model=st.one_of(st.none(), WORDS),
    scheme=SCHEME,
    method=st.sampled_from(("gptq", "gptaq", "rtn")),
    gptq=fields(
        damping=SHARE,
        block_size=st.integers(1, 4096),
        act_order=st.booleans(),
        mse=st.booleans(),
        true_sequential=st.booleans(),
        quantized_activations=st.booleans(),
        alpha=SHARE,
    ),
    calibration=fields(
        data=WORDS,
        samples=st.integers(1, 10**6),
        seq_len=st.integers(1, 10**6),
        seed=st.integers(0, 2**40),
        detached=st.booleans(),
    ),
    overrides=st.lists(st.fixed_dictionaries({"pattern": PATTERNS, "scheme": SCHEME}), max_size=3),
    ignore=st.lists(PATTERNS, max_size=3),
    transforms=fields(
        fold=st.booleans(),
        scale=st.booleans(),
        scale_norms=st.booleans(),
        shift=st.booleans(),
        finer=st.booleans(),
        learn=st.integers(0, 10**4),
        r1=st.booleans(),
        r2=st.booleans(),
        r1_layernorm=st.booleans(),
        seed=st.integers(0, 2**40),
        seeds=st.integers(1, 64),
        permute=st.booleans(),
        hadamard=st.sampled_from((0, 1, 32, 128, 16384)),
        bake_embed_norm=st.booleans(),
    ),
    tune=fields(
        steps=st.integers(0, 10**5),
        auto=st.booleans(),
        rounding=st.booleans(),
        learning_rate=st.floats(1e-12, 1),
        rounding_rate=st.floats(1e-12, 1),
        temperature=st.floats(1, 100),
        drawn=st.floats(0, 0.999),
    ),
    pruning=st.one_of(
        st.just({}),
        st.fixed_dictionaries(
            {
                "layers": st.sampled_from(("1", "3-9", "2,4-6")),
                "beta": st.floats(0.01, 0.9),
                "positions": st.sampled_from(("safe", "paper")),
                "scores": st.sampled_from(("fp", "code-compat")),
            }
        ),
    ),
    agile=fields(
        mode=st.sampled_from(("off", "trip", "code-compat")),
        k=st.integers(1, 3),
        observer=st.sampled_from(("minmax", "percentile")),
        softmax_bits=st.sampled_from((0, 4)),
        four_bits=st.sampled_from(("none", "agile", "all")),
        windows=st.integers(1, 64),
    ),
    act_clip=st.floats(0.5, 1),
    act_clip_search=st.booleans(),
    sink_tokens=st.integers(0, 64),
    kv_bits=st.sampled_from((4, 8, 32)),
    head_bits=st.sampled_from((4, 6, 8, 16, 32, "auto")),
    seed=st.integers(0, 2**40),
)


def contains(whole: Any, part: Any) -> bool:
    """Every given key has the given value."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    return whole == part


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(RECIPES)
def test_recipe(given_values: dict[str, Any]) -> None:
    try:
        recipe = Recipe.from_dict(given_values)
    except AgqError:  # a combination that is refused, such as tuning with static activations
        reject()
    written = recipe.to_dict()
    assert contains(written, given_values)
    assert Recipe.from_dict(written) == recipe
    assert Recipe.from_dict(json.loads(json.dumps(written))) == recipe
    assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe
