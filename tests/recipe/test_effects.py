"""Options of `quantize` that change nothing beside the others: each is said or refused."""

from __future__ import annotations

from typing import Any

import pytest

from agq.errors import AgqError
from agq.models import spec_from_config
from agq.recipe import Recipe
from agq.recipe.changes import RecipeChanges
from agq.recipe.effects import without_effect
from agq.recipe.resolve import effective_recipe
from tests.checkpoint.folders import config

LLAMA, BLOOM = (spec_from_config(config(name)) for name in ("llama", "bloom"))
UNROTATED = {"method": "gptq", "transforms": False}
# (other options, an option, why it has no effect)
IDLE: list[tuple[dict[str, Any], str, Any, str]] = [
    ({"method": "rtn"}, "damping", 0.1, "`method: rtn` does not use it"),
    ({"method": "rtn"}, "block_size", 64, "`method: rtn` does not use it"),
    ({"method": "rtn"}, "act_order", True, "`method: rtn` does not use it"),
    ({"method": "rtn"}, "true_sequential", True, "`method: rtn` does not use it"),
    ({"method": "rtn"}, "quantized_activations", True, "`method: rtn` does not use it"),
    ({"method": "gptq"}, "alpha", 0.5, "`method: gptq` does not use it"),
    ({"scheme": "W4A8"}, "act_clip", 0.9, "no activations have 4 bits"),
    ({"scheme": "W4A8"}, "finer", True, "no activations have 4 bits"),
    (UNROTATED, "rot_seed", 3, "nothing is rotated"),
    (UNROTATED, "rot_seeds", 3, "nothing is rotated"),
    (UNROTATED, "rot_steps", 3, "nothing is rotated"),
    ({"scheme": "W4A8"}, "scale_norms", True, "the residual stream is rotated"),
    ({"method": "gptq"}, "bake_embed_norm", True, "the model has no norm of the embeddings"),
]
# Options that are refused where they can do nothing.
REFUSED: list[dict[str, Any]] = [
    {"scheme": "W4A16", "act_group": 32},
    {"scheme": "W4A16", "act_symmetric": True},
    {"scheme": "W4A8", "weight_bits": 8},
    {"scheme": "W4A8", "act_bits": 8},
    {"prune_positions": "safe"},
    {"prune_scores": "fp"},
    {"scheme": "W4A8", "sink_tokens": 2},
    {"target_bits": 5.0, "target_size": "4M"},
    {"min_tps": 5.0, "target_bits": 5.0},
    {"board": "pi5"},
    {"min_tps": 5.0},
]
# Options that count whatever the others are; those about calibration text are refused by the plan, and the
# transformations that a model does not allow are named by it.
ALWAYS = {
    *("scheme", "group_size", "asym", "overrides", "ignore", "preset", "method", "kv_bits", "head_bits", "mse"),
    *("tune", "pruning"),
    *("data", "samples", "seq_len", "seed", "detached"),
    *("transforms", "rotate", "r1", "r2", "scale", "shift", "permute", "hadamard"),
}


@pytest.mark.parametrize(("others", "name", "value", "why"), IDLE, ids=[row[1] for row in IDLE])
def test_it_is_said(others: dict[str, Any], name: str, value: object, why: str) -> None:
    changes = RecipeChanges(**others, **{name: value})
    recipe = effective_recipe(None, changes)
    assert without_effect(recipe, changes, LLAMA, recipe.transforms.r1) == {name: why}


@pytest.mark.parametrize("options", REFUSED, ids=[list(row)[-1] for row in REFUSED])
def test_it_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(AgqError):
        effective_recipe(None, RecipeChanges(**options))


def test_every_option_is_thought_of() -> None:
    names = {option.name for option in RecipeChanges.options()}
    assert names == ALWAYS | {row[1] for row in IDLE} | {name for row in REFUSED for name in list(row)[-1:]}


def test_nothing_is_said_of_what_counts_or_was_not_given() -> None:
    given = RecipeChanges(damping=0.1, rot_seeds=2, rotate=True, scheme="W4A4", act_clip=0.9, finer=True, alpha=0.5)
    recipe = effective_recipe(None, given)
    assert without_effect(recipe, given, LLAMA, True) == {"alpha": "`method: gptq` does not use it"}
    baked = RecipeChanges(rotate=True, bake_embed_norm=True)
    assert without_effect(effective_recipe(None, baked), baked, BLOOM, True) == {}
    off = RecipeChanges(method="rtn", act_order=False, rot_steps=0)
    assert without_effect(Recipe(method="rtn"), off, LLAMA, False) == {}
    apart = RecipeChanges(rotate=False, scale_norms=True)
    assert without_effect(effective_recipe(None, apart), apart, LLAMA, False) == {}
