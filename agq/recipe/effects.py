"""Options that change nothing beside the others: they are said, not passed over."""

from __future__ import annotations

from collections.abc import Iterator

from agq.models.spec import ModelSpec
from agq.recipe.changes import RecipeChanges
from agq.recipe.methods import METHODS
from agq.recipe.recipe import Recipe

_COARSE = ("act_clip", "finer")
_ROTATIONS = ("rot_seed", "rot_seeds", "rot_steps")


def without_effect(recipe: Recipe, changes: RecipeChanges, spec: ModelSpec, rotated: bool) -> dict[str, str]:
    """Names of options that were given and have no effect -> why, in the order of the options.

    recipe: what came out of `changes`. spec: of the model. rotated: its residual stream is, as far as the model allows.
    """
    found = dict(_idle(recipe, spec))
    if rotated:
        found["scale_norms"] = "the residual stream is rotated"
    off = (None, False, 0)  # what is off is off
    return {name: found[name] for name, value in changes.given().items() if name in found and value not in off}


def _idle(recipe: Recipe, spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """(option, why) of all that would change nothing."""
    used = METHODS[recipe.method].options
    for name in sorted({name for row in METHODS.values() for name in row.options} - set(used)):
        yield name, f"`method: {recipe.method}` does not use it"
    if not any(scheme.activations.coarse for scheme in (recipe.scheme, *(item.scheme for item in recipe.overrides))):
        for name in _COARSE:
            yield name, "no activations have 4 bits"
    if not (recipe.transforms.r1 or recipe.transforms.r2 or recipe.transforms.r1_layernorm):
        for name in _ROTATIONS:
            yield name, "nothing is rotated"
    if not spec.embed_norm:
        yield "bake_embed_norm", "the model has no norm of the embeddings"
