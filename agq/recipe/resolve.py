"""From a recipe and what a command line, a call or a sweep's row asks for to the recipe that is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

from agq.errors import AgqError, UsageError
from agq.formats import groups
from agq.formats.cache import AUTO, TABLES
from agq.formats.choices import any_of
from agq.recipe.changes import RecipeChanges
from agq.recipe.declaration import options_in
from agq.recipe.files import apply_preset
from agq.recipe.options import TransformOptions, TuneOptions
from agq.recipe.pruning import PruningOptions
from agq.recipe.recipe import Recipe
from agq.recipe.schemes import ActivationScheme, Override, Scheme
from agq.recipe.target import TargetOptions

# Schemes that have a preset of their own, by their names without zero points.
_PRESETS = {"W4A8": "w4a8", "W4A4": "w4a4-offline", "W4A16": "w4a16", "W8A8": "w8a8", "FP8": "w8a8-fp8"}
# What a preset that was not asked for leaves alone.
_FORMATS = ("scheme", "overrides", "kv_bits")


def _usage(function: Callable[[Recipe, RecipeChanges], Recipe]) -> Callable[[Recipe, RecipeChanges], Recipe]:
    """What a recipe's own checks refuse is a wrong option here: AgqError becomes UsageError."""

    @wraps(function)
    def checked(recipe: Recipe, changes: RecipeChanges) -> Recipe:
        try:
            return function(recipe, changes)
        except UsageError:
            raise
        except AgqError as error:
            raise UsageError(error.message, error.hint) from error

    return checked


def effective_recipe(
    recipe: Recipe | None, changes: RecipeChanges | None = None, automatic: bool | None = None
) -> Recipe:
    """The recipe that is run: `recipe` (None: the defaults), the preset's sections in place of its own, and the other
    changes on top.

    Where no preset is named and `automatic` (by default without a recipe), or where it is called "auto", the scheme
    chooses one, which leaves the number formats alone. An explicit method then means that method with nothing else, and
    so do transformations that are declined.

    Raises AgqError for an unknown preset, UsageError for changes that are wrong or contradict each other.
    """
    changes = changes or RecipeChanges()
    preset = changes.preset
    if preset == "auto" or (preset is None and automatic is None and recipe is None):
        automatic, preset = True, None
    base = recipe or Recipe()
    if preset is not None:
        return adjust_recipe(apply_preset(base, preset), changes)
    plain = changes.method is not None or changes.transforms is False
    if not automatic or plain:
        return adjust_recipe(base, changes)
    scheme = adjust_recipe(replace(base, sink_tokens=0), _formats(changes)).scheme
    name = _PRESETS.get(scheme.base)
    if name is None:
        return adjust_recipe(base, changes)
    return adjust_recipe(apply_preset(base, name, without=_FORMATS), changes)


def _formats(changes: RecipeChanges) -> RecipeChanges:
    """Those of the changes that the scheme follows from."""
    return RecipeChanges(
        scheme=changes.scheme,
        weight_bits=changes.weight_bits,
        act_bits=changes.act_bits,
        group_size=changes.group_size,
        asym=changes.asym,
        act_group=changes.act_group,
        act_symmetric=changes.act_symmetric,
    )


def fit_hadamard(recipe: Recipe, ffn: int) -> Recipe:
    """A preset's recipe with the largest block of the online transform that divides `ffn` channels, none below 16."""
    wanted = recipe.transforms.hadamard
    block = min(wanted, ffn & -ffn)
    if block == wanted:
        return recipe
    block = block if block >= 16 else 0
    return replace(recipe, transforms=replace(recipe.transforms, hadamard=block))


@_usage
def adjust_recipe(recipe: Recipe, changes: RecipeChanges) -> Recipe:
    """`recipe` with everything that was given in place of its own value.

    transforms False: none of the recipe's transformations. overrides and ignore are added before the recipe's (the
    first match counts). pruning takes the place of the whole section. Raises UsageError.
    """
    parsed = [item if isinstance(item, Override) else Override.parse(item) for item in changes.overrides or ()]
    values: dict[str, Any] = {
        "scheme": adjust_scheme(recipe.scheme, changes),
        "overrides": (*parsed, *recipe.overrides),
        "ignore": (*dict.fromkeys([*(changes.ignore or ()), *recipe.ignore]),),
        "transforms": adjust_rotations(
            TransformOptions() if changes.transforms is False else recipe.transforms, changes
        ),
        "tune": adjust_tuning(recipe.tune, changes.tune),
        "pruning": _pruning(recipe.pruning, changes),
        "target": _target(recipe.target, changes),
        **_clip(changes.act_clip),
        **_head(changes.head_bits),
    }
    given = changes.given()
    sections: dict[str, dict[str, Any]] = {}
    for option in changes.options():
        if option.path and option.name in given:
            *above, key = option.path
            (sections.setdefault(above[0], {}) if above else values)[key] = given[option.name]
    for name, section in sections.items():
        values[name] = replace(values.get(name, getattr(recipe, name)), **section)
    return replace(recipe, **values)


def adjust_scheme(scheme: Scheme, changes: RecipeChanges) -> Scheme:
    """`scheme` with what was given replaced. New bits take the defaults of their width for what is not given.

    Raises UsageError where a scheme's name comes with bits, AgqError for widths that do not exist.
    """
    weight_bits, act_bits = changes.weight_bits, changes.act_bits
    if changes.scheme is not None and (weight_bits is not None or act_bits is not None):
        raise UsageError(
            "`scheme:` already says the bits", hint="use either `scheme:` or `weight_bits:` and `act_bits:`"
        )
    if changes.scheme is not None:
        scheme = Scheme.parse(changes.scheme)
    elif weight_bits is not None or act_bits is not None:
        fresh = Scheme.of(
            scheme.weights.bits if weight_bits is None else weight_bits,
            scheme.activations.bits if act_bits is None else act_bits,
        )
        scheme = Scheme(
            scheme.weights if weight_bits in (None, scheme.weights.bits) else fresh.weights,
            scheme.activations if act_bits in (None, scheme.activations.bits) else fresh.activations,
        )
    weights, activations = scheme.weights, scheme.activations
    if changes.group_size is not None:
        weights = replace(weights, group_size=groups.of_recipe(changes.group_size))
    if changes.asym is not None:
        weights = replace(weights, symmetric=not changes.asym)
    if changes.act_group is not None or changes.act_symmetric is not None:
        if not activations.quantized:
            raise UsageError(
                "`act_group:` and `act_symmetric: true` need quantized activations",
                hint="use `scheme: W4A8`" if changes.scheme is not None else "add `act_bits: 8` or 4",
            )
        activations = ActivationScheme(
            activations.bits,
            activations.symmetric if changes.act_symmetric is None else changes.act_symmetric,
            activations.group_size if changes.act_group is None else groups.of_recipe(changes.act_group),
        )
    return Scheme(weights, activations)


def adjust_rotations(options: TransformOptions, changes: RecipeChanges) -> TransformOptions:
    """What the options about rotations mean beyond themselves. rotate: r1 and r2 (and folding, which r1 needs) at
    once."""
    rotate, r1 = changes.rotate, changes.r1
    if rotate is not None:
        options = replace(options, fold=rotate, r1=rotate, r2=rotate, bake_embed_norm=rotate)
    if rotate is not None or r1 is not None:
        options = replace(options, r1_layernorm=False)
    return replace(options, fold=True) if r1 else options


def _clip(act_clip: str | float | None) -> dict[str, Any]:
    """A share of the range, or "search". Raises UsageError for anything else."""
    if act_clip is None:
        return {}
    if act_clip == "search":
        return {"act_clip": 1.0, "act_clip_search": True}
    try:
        return {"act_clip": float(act_clip), "act_clip_search": False}
    except ValueError:
        raise UsageError(
            f"`act_clip: {act_clip}` is neither a number nor `search`", hint="for example `act_clip: 0.9`"
        ) from None


def _head(bits: int | str | None) -> dict[str, Any]:
    """head_bits: a width, or AUTO. Raises UsageError for anything else."""
    if bits is None or bits == AUTO:
        return {} if bits is None else {"head_bits": AUTO}
    try:
        return {"head_bits": int(bits)}
    except ValueError:
        raise UsageError(
            f"`head_bits: {bits}` is neither a number nor `{AUTO}`", hint=f"use {any_of((*TABLES, AUTO))}"
        ) from None


def adjust_tuning(options: TuneOptions, tune: int | str | None) -> TuneOptions:
    """tune: steps, or "auto". Raises UsageError for anything else."""
    if tune is None:
        return options
    if tune == "auto":
        return replace(options, steps=0, auto=True)
    try:
        return replace(options, steps=int(tune), auto=False)
    except ValueError:
        raise UsageError(
            f"`tune: {tune}` is neither a number of steps nor `auto`", hint="for example `tune: 200`"
        ) from None


def _target(options: TargetOptions, changes: RecipeChanges) -> TargetOptions:
    """The recipe's, unless another one is asked for: they exclude each other. A board and its rate go together."""
    given = {option.name for option in options_in(TargetOptions)} & set(changes.given())
    same = options.board is not None and given <= {"board", "min_tps"}
    return options if not given or same else TargetOptions()


def _pruning(options: PruningOptions, changes: RecipeChanges) -> PruningOptions:
    return pruning_asked_for(changes) or options


def pruning_asked_for(changes: RecipeChanges) -> PruningOptions | None:
    """The token pruning that was given; None: none was. Raises AgqError; UsageError: only details of it."""
    if changes.pruning is None:
        for name in ("prune_positions", "prune_scores"):
            if getattr(changes, name) is not None:
                raise UsageError(f"`{name}:` needs `pruning:`")
        return None
    found = PruningOptions.parse(changes.pruning) if isinstance(changes.pruning, str) else changes.pruning
    details = {"positions": changes.prune_positions, "scores": changes.prune_scores}
    return replace(found, **{name: value for name, value in details.items() if value is not None})
