"""What a command line, a call or a sweep's row asks for, beside the recipe that it starts from: settings objects that
are passed on as they are. Each field is an option, None where nothing was given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agq.formats import HEAD
from agq.formats.cache import AUTO, DEFAULT_TABLE
from agq.recipe.declaration import (
    CALIBRATION,
    METHOD,
    OUTPUT,
    PRUNING,
    TRANSFORMATIONS,
    Changes,
    changes_of,
    option,
)
from agq.recipe.pruning import PruningOptions
from agq.recipe.recipe import Recipe
from agq.recipe.schemes import Override


@changes_of(Recipe)
class RecipeChanges(Changes):
    """What is to be different from a recipe: every option that the recipe's dataclasses declare, and these, which set
    more or less than one of its values (`agq.recipe.resolve` says how)."""

    scheme: str | None = option(
        None, "W4A8 (default), W4A4, W8A8, W4A16, W8A16, FP8; W4A8_ASYM for asymmetric weights."
    )
    weight_bits: int | None = option(None, "4 or 8. Default: as {scheme} says.")
    act_bits: int | None = option(None, "4, 8 or 16. Default: as {scheme} says.")
    group_size: int | None = option(
        None,
        "Columns per weight scale; -1: one per output channel. Default for 4 bits: the largest of 128, 64, 32 that "
        "divides all inputs; for 8: -1.",
        words="group-size,g",
    )
    asym: bool | None = option(None, "Asymmetric or symmetric weights. Default symmetric.", words="asym/sym")
    act_group: int | None = option(None, "Channels per activation scale; -1: per token. Default as for weights.")
    act_symmetric: bool | None = option(
        None,
        "Asymmetric or symmetric 4-bit activations. Default asymmetric.",
        words="act-asym/act-sym",
        inverted=True,
    )
    overrides: tuple[str | Override, ...] | None = option(
        None,
        "Another scheme for some linears: 're:.*down_proj=W4A8'. Default: none. May be repeated.",
        words="override",
        env="AGQ_OVERRIDES",
        metavar="PATTERN=SCHEME",
    )
    ignore: tuple[str, ...] | None = option(
        None, "Linears that stay in floating point. Default: none. May be repeated.", metavar="PATTERN"
    )
    preset: str | None = option(
        None,
        "A whole way of quantizing: w4a8, w4a4, w4a4-mixed, w4a16, w8a8, gptq, rtn, plain. Default: the one of the "
        "scheme.",
        env="AGQ_PRESET",
        metavar="NAME",
    )
    act_clip: str | float | None = option(
        None,
        "Share of the range that 4-bit activations cover; `search` chooses it for each input. Default 1; "
        "search in the presets of 4-bit activations.",
        metavar="X|search",
    )
    transforms: bool | None = option(None, "None at all. Default: as preset and recipe say.", panel=TRANSFORMATIONS)
    rotate: bool | None = option(
        None, "Both rotations, {r1} and {r2}, norms folded. Default: the preset's, on.", panel=TRANSFORMATIONS
    )
    tune: int | str | None = option(
        None,
        "Steps that train scales and rounding towards the original model's predictions after the solver. 0: none. "
        "Default `auto`, with most presets: as many as {effort} allows.",
        panel=METHOD,
        metavar="STEPS|auto",
        last=True,
    )
    head_bits: int | str | None = option(
        None,
        f"Output head at run time. `{AUTO}`: the narrowest that costs less than 0.2 % on calibration text; measuring "
        f"holds the whole model in memory. Default {DEFAULT_TABLE.bits}.",
        metavar=f"{HEAD.metavar}|{AUTO}",
    )
    pruning: str | PruningOptions | None = option(
        None,
        "Remove the share BETA of the prompt's tokens in these layers (counted from 1) together: "
        "`13-32:0.2`. Default: none.",
        words="prune",
        panel=PRUNING,
        metavar="LAYERS:BETA",
    )

    if TYPE_CHECKING:  # the options that changes_of adds

        def __init__(self, **given: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...


# How much time tuning may take (agq/quantization/tuning/effort.py).
EFFORT_NAMES = ("quick", "normal", "best")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Changes):
    """How a model is quantized and written, beside the recipe."""

    calibration: str | Path | None = option(
        None,
        "Statistics file of `agq calibrate`: its windows are used. Default: {data}.",
        panel=CALIBRATION,
        metavar="FILE",
    )
    effort: str | None = option(
        None,
        "How long tuning may take: quick does none; normal ends within about half an hour on a CPU and 5 minutes on a "
        "GPU, best within 3 hours and 30 minutes, where the other steps allow it. Default normal.",
        panel=METHOD,
        metavar="quick|normal|best",
    )
    time: str | None = option(
        None, "Time of the whole run: `20m`, `1h30m`. Default: what {effort} says.", panel=METHOD, metavar="TIME"
    )
    ct_format: str | None = option(
        None,
        "compressed-tensors form. Default pack; int for 8-bit and asymmetric weights.",
        panel=OUTPUT,
        metavar="pack|int",
    )
    strict: bool | None = option(
        None,
        "Exit code 1 when a step was taken back: a linear that the method could not do, a rotation that was learned or "
        "tuning that made things worse. Default no.",
        panel=OUTPUT,
    )
    push: str | None = option(
        None,
        "Upload the folder to the hub as this model, with a model card. Default: it stays here.",
        panel=OUTPUT,
        metavar="OWNER/NAME",
    )
    device: str | None = option(None, "Default cuda where there is one.", panel=OUTPUT, metavar="cpu|cuda")
