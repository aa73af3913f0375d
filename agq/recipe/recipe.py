"""The Recipe: everything that quantizing does to a model, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agq import structured
from agq.errors import AgqError
from agq.formats import HEAD, KV_CACHE, cache_format
from agq.formats.activations import WIDE
from agq.formats.cache import AUTO, DEFAULT_CACHE, DEFAULT_TABLE, LOG2_CACHE
from agq.formats.limits import MAX_SINK_TOKENS
from agq.recipe.agile import AgileOptions
from agq.recipe.declaration import METHOD, option
from agq.recipe.methods import METHODS, methods_in_words
from agq.recipe.options import CalibrationSpec, GptqOptions, TransformOptions, TuneOptions
from agq.recipe.pruning import PruningOptions
from agq.recipe.schemes import (
    SCHEMES,
    ActivationScheme,
    Override,
    Scheme,
    WeightScheme,
    check_pattern,
    pattern_matches,
    read_override,
)
from agq.recipe.target import TargetOptions
from agq.structured import Path, Place, setting


def _overrides(data: Any, place: Place, path: Path) -> tuple[Override, ...]:
    items = structured.sequence(data, place, path)
    return tuple(read_override(item, place, (*path, index)) for index, item in enumerate(items))


@dataclass(frozen=True)
class Recipe:
    """Everything `agq quantize` does to a model.

    Attributes:
        model: local folder or hub id, or None where the command line names it.
        overrides: other schemes for some linears; the first pattern that matches counts.
        ignore: patterns of linears that stay in floating point in the quantized folder.
        target: what the formats of linears are chosen for that no override names.
        pruning: token pruning of prompts, which `agq run` does with the packed model unless it is told not to.
        act_clip: share of the range that asymmetric 4-bit activations cover; act_clip_search: choose it for each input
            on calibration text instead, by the error of the linears' outputs.
        sink_tokens: first positions of every sequence (attention sinks, whose activations are massive) that keep 8-bit
            activations, symmetric and per token, where dynamic activations have 4 bits; 0: none.
        kv_bits: width of the KV cache at run time, 4, 8 or 32. head_bits: width of the output head in the artifact, 4,
            6, 8, 16, 32, or "auto": measured (agq/quantization/head.py).
        seed: of everything random but the choice of calibration windows.
    """

    model: str | None = None
    scheme: Scheme = setting(Scheme(WeightScheme(4), ActivationScheme(8, True)), read=Scheme.from_dict)
    method: str = option(
        "gptq",
        methods_in_words(),
        panel=METHOD,
        env="AGQ_QUANTIZE_METHOD",
        metavar="|".join(METHODS),
    )
    gptq: GptqOptions = GptqOptions()
    calibration: CalibrationSpec = CalibrationSpec()
    overrides: tuple[Override, ...] = setting((), read=_overrides)
    ignore: tuple[str, ...] = ("lm_head",)
    transforms: TransformOptions = TransformOptions()
    tune: TuneOptions = TuneOptions()
    target: TargetOptions = TargetOptions()
    pruning: PruningOptions = PruningOptions()
    agile: AgileOptions = AgileOptions()
    act_clip: float = setting(1.0, least=0.5, most=1)
    act_clip_search: bool = False
    sink_tokens: int = option(
        0,
        "First tokens of a sequence (attention sinks) that keep 8-bit activations where the others have 4: 0 (default) "
        f"to {MAX_SINK_TOKENS}.",
        metavar="N",
        least=0,
        most=MAX_SINK_TOKENS,
    )
    kv_bits: int = option(DEFAULT_CACHE.bits, f"KV cache at run time: {KV_CACHE.words}. Default {DEFAULT_CACHE.bits}.")
    head_bits: int | str = DEFAULT_TABLE.bits
    seed: int = 0

    def __post_init__(self) -> None:
        structured.check(self)
        if self.method not in METHODS:
            raise AgqError(f"unknown method `{self.method}`", hint=f"methods: {', '.join(METHODS)}")
        KV_CACHE.check(self.kv_bits)
        if self.head_bits != AUTO:
            HEAD.check(self.head_bits)
        if not self.scheme.quantized:
            raise AgqError("scheme W16A16 quantizes nothing", hint=f"schemes: {', '.join(SCHEMES)}")
        for pattern in self.ignore:
            check_pattern(pattern)
        if self.agile.active:
            self._check_agile()
        schemes = (self.scheme, *(item.scheme for item in self.overrides))
        if self.sink_tokens and not any(scheme.activations.coarse for scheme in schemes):
            raise no_sinks(self.sink_tokens)

    def _check_agile(self) -> None:
        if self.agile.softmax_bits and self.kv_bits != LOG2_CACHE.bits:
            raise AgqError(
                f"integer attention (`agile.softmax_bits: 4`) keeps 8-bit keys and values, not {self.kv_bits}-bit ones",
                hint="leave kv_bits at 8, or set `agile.softmax_bits: 0`",
            )
        if self.target.active:
            raise AgqError(
                "static activations (`agile`) go with weights of 4 bits: no formats are chosen",
                hint="leave the target of bits, size or speed out",
            )
        if self.tune.active:
            raise AgqError(
                "scales are tuned with dynamic activations, static ones (`agile`) are set afterwards",
                hint="use `tune: 0`",
            )
        schemes = [self.scheme, *(item.scheme for item in self.overrides if item.scheme.quantized)]
        if any(not scheme.weights.format.folds or scheme.activations.format != WIDE for scheme in schemes):
            raise AgqError(
                "static activations (`agile`) go with the scheme W4A8 or W4A8_ASYM",
                hint="`agile.four_bits` says which inputs have 4 bits",
            )
        if self.sink_tokens:
            raise AgqError(
                f"static activations (`agile`) are the same for all tokens: no sink_tokens {self.sink_tokens}",
                hint="use dynamic 4-bit activations (W4A4), or `sink_tokens: 0`",
            )
        if self.act_clip != 1 or self.act_clip_search or cache_format(self.kv_bits).rotated:
            raise AgqError(
                "static activations (`agile`) have ranges of their own: no act_clip, act_clip_search or kv_bits 4",
                hint="`agile.observer: percentile` cuts outliers",
            )

    @property
    def solver(self) -> bool:
        """The weights are rounded by a method that reads calibration text."""
        return METHODS[self.method].calibrated

    @property
    def calibrated(self) -> bool:
        """Calibration text is read."""
        return (
            self.solver
            or self.transforms.measured
            or self.act_clip_search
            or self.tune.active
            or self.target.active
            or self.agile.active
            or self.head_bits == AUTO
        )

    def scheme_for(self, module: str) -> Scheme | None:
        """The scheme of a linear by its module name; None: it stays in floating point."""
        if any(pattern_matches(pattern, module) for pattern in self.ignore):
            return None
        for override in self.overrides:
            if override.matches(module):
                return override.scheme if override.scheme.quantized else None
        return self.scheme

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; `from_dict` of it gives an equal recipe."""
        return structured.plain(self)

    @classmethod
    def from_dict(cls, data: Any, place: Place | None = None) -> Recipe:
        """A recipe from parsed YAML or JSON; missing keys take their defaults.

        Args:
            place: words for the place of a key path, for messages.

        Raises:
            AgqError: unknown key (with the valid ones), a value of the wrong type or out of range.
        """
        return structured.build(cls, data, place or structured.in_recipe, ())

    def to_yaml(self) -> str:
        """The recipe as a YAML document that `load_recipe` reads."""
        import yaml

        text: str = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, default_flow_style=False)
        return text


def no_sinks(count: int) -> AgqError:
    """What is said where sink tokens are asked for and no activations have 4 bits."""
    return AgqError(
        f"sink_tokens {count} changes nothing: no linear has 4-bit activations",
        hint="sink tokens keep 8 bits where the others have 4 (W4A4); leave it at 0",
    )
