"""From a recipe and the options of a command line or call to the recipe that is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

from agq.errors import AgqError, UsageError
from agq.recipe.files import apply_preset
from agq.recipe.options import CalibrationSpec, GptqOptions, TransformOptions, TuneOptions
from agq.recipe.pruning import PruningOptions
from agq.recipe.recipe import Recipe
from agq.recipe.schemes import ActivationScheme, Override, Scheme, WeightScheme


def adjust_scheme(
    scheme: Scheme,
    name: str | None = None,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    group_size: int | None = None,
    asym: bool | None = None,
    act_group: int | None = None,
    act_symmetric: bool | None = None,
) -> Scheme:
    """`scheme` with what is not None replaced. New bits take the defaults of their width for what is not given.

    Raises UsageError when `name` comes with bits, AgqError for widths that do not exist.
    """
    if name is not None and (weight_bits is not None or act_bits is not None):
        raise UsageError(
            "`--scheme` already says the bits", hint="use either `--scheme` or `--weight-bits` and `--act-bits`"
        )
    if name is not None:
        scheme = Scheme.parse(name)
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
    if group_size is not None:
        weights = WeightScheme(weights.bits, weights.symmetric, group_size)
    if asym is not None:
        weights = WeightScheme(weights.bits, not asym, weights.group_size)
    if act_group is not None or act_symmetric is not None:
        if activations.bits == 16:
            raise UsageError(
                "`--act-group` and `--act-symmetric` need quantized activations", hint="add `--act-bits 8` or 4"
            )
        activations = ActivationScheme(
            activations.bits,
            activations.symmetric if act_symmetric is None else act_symmetric,
            activations.group_size if act_group is None else act_group,
        )
    return Scheme(weights, activations)


def _changed(item: Any, **values: Any) -> Any:
    return replace(item, **{key: value for key, value in values.items() if value is not None})


def adjust_transforms(
    options: TransformOptions,
    *,
    rotate: bool | None = None,
    r1: bool | None = None,
    r2: bool | None = None,
    rot_seed: int | None = None,
    rot_seeds: int | None = None,
    scale: bool | None = None,
    scale_norms: bool | None = None,
    shift: bool | None = None,
    finer: bool | None = None,
    rot_steps: int | None = None,
    hadamard: int | None = None,
    permute: bool | None = None,
    bake_embed_norm: bool | None = None,
) -> TransformOptions:
    """`options` with what is not None replaced. rotate: r1 and r2 (and folding, which r1 needs) at once."""
    if rotate is not None:
        options = replace(options, fold=rotate, r1=rotate, r2=rotate, bake_embed_norm=rotate)
    if rotate is not None or r1 is not None:
        options = replace(options, r1_layernorm=False)
    return _changed(
        options,
        fold=True if r1 else None,
        r1=r1,
        r2=r2,
        seed=rot_seed,
        seeds=rot_seeds,
        scale=scale,
        scale_norms=scale_norms,
        shift=shift,
        finer=finer,
        learn=rot_steps,
        hadamard=hadamard,
        permute=permute,
        bake_embed_norm=bake_embed_norm,
    )


# Schemes that have a preset of their own, by the bits of weights and activations.
_PRESETS = {(4, 8): "w4a8", (4, 4): "w4a4-offline", (4, 16): "w4a16", (8, 8): "w8a8"}
_SCHEME_OPTIONS = ("scheme", "weight_bits", "act_bits", "group_size", "asym", "act_group", "act_symmetric")
# What a preset that was not asked for leaves alone.
_FORMATS = ("scheme", "overrides", "kv_bits")


def effective_recipe(
    recipe: Recipe | None, preset: str | None = None, automatic: bool | None = None, **options: Any
) -> Recipe:
    """The recipe that is run: `recipe` (None: the defaults), the preset's sections in place of its own, and the options
    on top.

    Where no preset is named and `automatic` (by default without a recipe), or where it is called "auto", the scheme
    chooses one, which leaves the number formats alone. An explicit method then means that method with nothing else, and
    so do transformations that are declined.

    Raises AgqError for an unknown preset, UsageError for options that are wrong or contradict each other.
    """
    if preset == "auto" or (preset is None and automatic is None and recipe is None):
        automatic, preset = True, None
    base = recipe or Recipe()
    if preset is not None:
        return adjust_recipe(apply_preset(base, preset), **options)
    plain = options.get("method") is not None or options.get("transforms") is False
    if not automatic or plain:
        return adjust_recipe(base, **options)
    scheme = adjust_recipe(base, **{key: options.get(key) for key in _SCHEME_OPTIONS}).scheme
    name = _PRESETS.get((scheme.weights.bits, scheme.activations.bits))
    if name is None:
        return adjust_recipe(base, **options)
    return adjust_recipe(apply_preset(base, name, without=_FORMATS), **options)


def fit_hadamard(recipe: Recipe, ffn: int) -> Recipe:
    """A preset's recipe with the largest block of the online transform that divides `ffn` channels, none below 16."""
    wanted = recipe.transforms.hadamard
    block = min(wanted, ffn & -ffn)
    if block == wanted:
        return recipe
    block = block if block >= 16 else 0
    return replace(recipe, transforms=replace(recipe.transforms, hadamard=block))


def adjust_clip(recipe: Recipe, act_clip: str | float | None) -> Recipe:
    """act_clip: a share of the range, or "search". Raises UsageError for anything else."""
    if act_clip is None:
        return recipe
    if act_clip == "search":
        return replace(recipe, act_clip=1.0, act_clip_search=True)
    try:
        share = float(act_clip)
    except ValueError:
        raise UsageError(
            f"`--act-clip {act_clip}` is neither a number nor `search`", hint="for example `--act-clip 0.9`"
        ) from None
    return replace(recipe, act_clip=share, act_clip_search=False)


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
            f"`--tune {tune}` is neither a number of steps nor `auto`", hint="for example `--tune 200`"
        ) from None


def _usage(function: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """What a recipe's own checks refuse is a wrong option here: AgqError becomes UsageError."""

    @wraps(function)
    def checked(*arguments: Any, **options: Any) -> Recipe:
        try:
            return function(*arguments, **options)
        except UsageError:
            raise
        except AgqError as error:
            raise UsageError(error.message, error.hint) from error

    return checked


@_usage
def adjust_recipe(
    recipe: Recipe,
    *,
    scheme: str | None = None,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    group_size: int | None = None,
    asym: bool | None = None,
    act_group: int | None = None,
    act_symmetric: bool | None = None,
    method: str | None = None,
    data: str | None = None,
    samples: int | None = None,
    seq_len: int | None = None,
    seed: int | None = None,
    detached: bool | None = None,
    overrides: Sequence[str | Override] | None = None,
    ignore: Sequence[str] | None = None,
    mse: bool | None = None,
    act_order: bool | None = None,
    true_sequential: bool | None = None,
    damping: float | None = None,
    block_size: int | None = None,
    quantized_activations: bool | None = None,
    kv_bits: int | None = None,
    head_bits: int | None = None,
    alpha: float | None = None,
    act_clip: str | float | None = None,
    sink_tokens: int | None = None,
    transforms: bool | None = None,
    tune: int | str | None = None,
    pruning: str | PruningOptions | None = None,
    **steps: Any,
) -> Recipe:
    """`recipe` with every option that is not None in place of its own value.

    transforms False: none of the recipe's transformations. tune: steps of the tuning, or "auto". pruning: LAYERS:BETA
    (recipe_pruning), which `run` does with prompts. steps: see adjust_transforms.
    overrides and ignore are added before the recipe's (the first match counts). Raises UsageError.
    """
    parsed = [item if isinstance(item, Override) else Override.parse(item) for item in overrides or ()]
    gptq: GptqOptions = _changed(
        recipe.gptq,
        mse=mse,
        act_order=act_order,
        true_sequential=true_sequential,
        damping=damping,
        block_size=block_size,
        quantized_activations=quantized_activations,
        alpha=alpha,
    )
    if transforms is False:
        recipe = replace(recipe, transforms=TransformOptions())
    recipe = adjust_clip(recipe, act_clip)
    calibration: CalibrationSpec = _changed(
        recipe.calibration, data=data, samples=samples, seq_len=seq_len, seed=seed, detached=detached
    )
    return _changed(
        recipe,
        scheme=adjust_scheme(recipe.scheme, scheme, weight_bits, act_bits, group_size, asym, act_group, act_symmetric),
        method=method,
        gptq=gptq,
        calibration=calibration,
        overrides=(*parsed, *recipe.overrides),
        ignore=(*dict.fromkeys([*(ignore or ()), *recipe.ignore]),),
        kv_bits=kv_bits,
        head_bits=head_bits,
        sink_tokens=sink_tokens,
        transforms=adjust_transforms(recipe.transforms, **steps),
        tune=adjust_tuning(recipe.tune, tune),
        pruning=PruningOptions.parse(pruning) if isinstance(pruning, str) else pruning,
    )
