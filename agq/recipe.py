"""What is to be done to a model: the number formats (Scheme) and everything around them (Recipe). Plain data, no torch,
no numpy.

YAML files, the search for them and the meaning of MODEL on the command line stand in `agq/recipe_files.py`;
`load_recipe` and `resolve_model` are reachable from here too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from agq import structured
from agq.errors import AgqError
from agq.recipe_agile import AgileOptions
from agq.recipe_pruning import PruningOptions
from agq.structured import Place

GROUP_STEP = 32  # the kernels pad columns to 32: a scale covers a multiple of that
SCHEMES = ("W4A4", "W4A8", "W4A16", "W8A8", "W8A16")
METHODS = ("gptq", "gptaq", "rtn")
KV_BITS = (4, 8, 32)
# Attention sinks are the first few tokens: more would be another recipe. Also the limit of the C library (agq.h).
MAX_SINK_TOKENS = 64


def _check_group(group_size: int, what: str) -> None:
    if group_size != -1 and (group_size < GROUP_STEP or group_size % GROUP_STEP):
        raise AgqError(
            f"group size {group_size} of the {what} is not available",
            hint=f"use a multiple of {GROUP_STEP}, such as 128, or -1 for one scale per {_WHOLE[what]}",
        )


_WHOLE = {"weights": "output channel", "activations": "token"}


@dataclass(frozen=True)
class WeightScheme:
    """Integer weights. bits: 4 or 8 (16: left in floating point). group_size: columns per scale, -1: one scale per
    output row.
    """

    bits: int
    symmetric: bool = True
    group_size: int = 128

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, 16):
            raise AgqError(f"weights of {self.bits} bits are not available", hint="use 4 or 8 (16: not quantized)")
        _check_group(self.group_size, "weights")


@dataclass(frozen=True)
class ActivationScheme:
    """Dynamically quantized inputs of a linear. bits: 4, 8, or 16 for not quantized. group_size: columns per scale, -1:
    per token.
    """

    bits: int
    symmetric: bool
    group_size: int = -1

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, 16):
            raise AgqError(
                f"activations of {self.bits} bits are not available", hint="use 4, 8 or 16 (16: not quantized)"
            )
        if self.bits == 8 and not self.symmetric:
            raise AgqError("8-bit activations are symmetric", hint="asymmetric activations exist with 4 bits")
        _check_group(self.group_size, "activations")


@dataclass(frozen=True)
class Scheme:
    """The number formats of one linear: its weights and its inputs."""

    weights: WeightScheme
    activations: ActivationScheme

    def __post_init__(self) -> None:
        if self.name.removesuffix("_ASYM") not in (*SCHEMES, "W16A16"):
            raise AgqError(f"scheme {self.name} is not available", hint=f"schemes: {', '.join(SCHEMES)}")

    @classmethod
    def of(
        cls,
        weight_bits: int,
        act_bits: int,
        group_size: int | None = None,
        symmetric: bool = True,
        act_group_size: int | None = None,
        act_symmetric: bool | None = None,
    ) -> Scheme:
        """A scheme from its bits; what is None takes its default.

        Defaults: 4-bit weights in groups of 128, 8-bit weights per channel; 8-bit activations per token and symmetric,
        4-bit activations in groups of 128 and asymmetric.
        """
        if group_size is None:
            group_size = 128 if weight_bits == 4 else -1
        if act_group_size is None:
            act_group_size = 128 if act_bits == 4 else -1
        if act_symmetric is None:
            act_symmetric = act_bits != 4
        return cls(
            WeightScheme(weight_bits, symmetric, group_size), ActivationScheme(act_bits, act_symmetric, act_group_size)
        )

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The scheme of a preset name, in any case: "W4A8", "W4A4", "W8A8", "W4A16", "W8A16", and "..._ASYM" for
        asymmetric weights.

        "W16A16" leaves a linear as it is (for overrides). Raises AgqError listing the names for anything else.
        """
        match = re.fullmatch(r"W(4|8|16)A(4|8|16)(_ASYM)?", name.strip().upper())
        if not match or (match[1] == "16" and match[3]):
            raise AgqError(
                f"unknown scheme `{name}`", hint=f"schemes: {', '.join(SCHEMES)}; W4A8_ASYM for asymmetric weights"
            )
        return cls.of(int(match[1]), int(match[2]), symmetric=match[3] is None)

    @property
    def name(self) -> str:
        """The preset name, without group sizes."""
        return f"W{self.weights.bits}A{self.activations.bits}" + ("" if self.weights.symmetric else "_ASYM")

    @property
    def quantized(self) -> bool:
        """False for W16A16."""
        return self.weights.bits != 16

    def describe(self) -> str:
        """One line for people: "W4A4: weights g128 symmetric, activations g128 asymmetric"."""
        weights = _granularity(self.weights.group_size, "per channel", self.weights.symmetric)
        if self.activations.bits == 16:
            return f"{self.name}: weights {weights}"
        activations = _granularity(self.activations.group_size, "per token", self.activations.symmetric)
        return f"{self.name}: weights {weights}, activations {activations}"

    def to_dict(self) -> dict[str, Any]:
        """{"weights": {...}, "activations": {...}}, JSON types only."""
        return {"weights": structured.plain(self.weights), "activations": structured.plain(self.activations)}

    @classmethod
    def from_dict(cls, data: Any, place: Place | None = None, path: tuple[Any, ...] = ()) -> Scheme:
        """A preset name, or the table that `to_dict` makes (missing keys take the preset's defaults). Raises
        AgqError.
        """
        place = place or structured.in_recipe
        if isinstance(data, str):
            return structured.at(place, path, lambda: cls.parse(data))
        table = structured.table(data, ("weights", "activations"), place, path)
        parts = {}
        for name, kind in (("weights", WeightScheme), ("activations", ActivationScheme)):
            part = structured.table(table.get(name), structured.names(kind), place, (*path, name))
            parts[name] = {key: structured.typed(kind, key, part[key], place, (*path, name, key)) for key in part}
            if "bits" not in part:
                raise AgqError(f"{place((*path, name))}: `bits` is missing")
        weights, acts = parts["weights"], parts["activations"]
        return structured.at(
            place,
            path,
            lambda: cls.of(
                weights["bits"],
                acts["bits"],
                weights.get("group_size"),
                weights.get("symmetric", True),
                acts.get("group_size"),
                acts.get("symmetric"),
            ),
        )


@dataclass(frozen=True)
class Override:
    """Another scheme for some linears. pattern: "re:..." matched from the start of the module's name, or an exact
    module name.
    """

    pattern: str
    scheme: Scheme

    def __post_init__(self) -> None:
        check_pattern(self.pattern)

    def matches(self, module: str) -> bool:
        return pattern_matches(self.pattern, module)

    @classmethod
    def parse(cls, text: str) -> Override:
        """`PATTERN=SCHEME` of the command line, e.g. "re:.*down_proj=W4A8". Raises AgqError."""
        pattern, sign, scheme = text.rpartition("=")
        if not sign or not pattern:
            raise AgqError(
                f"`{text}` is not an override", hint="write PATTERN=SCHEME, for example 're:.*down_proj=W8A8'"
            )
        return cls(pattern, Scheme.parse(scheme))


@dataclass(frozen=True)
class CalibrationSpec:
    """Calibration text. data: wikitext2, c4, random-tokens or a file, or several, separated by commas, which give windows in turn.
    samples windows of seq_len tokens, cut at random with seed.
    """

    data: str = "wikitext2"
    samples: int = 128
    seq_len: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        structured.check_positive(self, "samples", "seq_len")


@dataclass(frozen=True)
class GptqOptions:
    """Options of GPTQ (arXiv 2210.17323).

    Attributes:
        damping: share of the mean diagonal of the Hessian that is added to it.
        block_size: columns whose updates are applied together.
        act_order: visit columns by falling activation energy; groups and scales stay in the original order ("static
            groups").
        mse: choose each clip of the scales by squared error instead of the maximum.
        true_sequential: quantize a block's linears in the order of computation, each on the outputs of those before.
        quantized_activations: quantize the activations while Hessians are collected, as they will be at run time.
        alpha: weight of GPTAQ's second term (arXiv 2504.02692), for method gptaq.
    """

    damping: float = 0.01
    block_size: int = 128
    act_order: bool = True
    mse: bool = True
    true_sequential: bool = True
    quantized_activations: bool = True
    alpha: float = 0.25

    def __post_init__(self) -> None:
        structured.check_positive(self, "block_size")
        if not 0 <= self.damping <= 1:
            raise AgqError(f"damping is {self.damping}, not between 0 and 1")
        if not 0 <= self.alpha <= 1:
            raise AgqError(f"alpha is {self.alpha}, not between 0 and 1")


@dataclass(frozen=True)
class TransformOptions:
    """Transformations that leave the model's function as it is and make it easier to quantize.

    Attributes:
        fold: norm gains into the linears that follow; with LayerNorm also its biases, and the residual stream centred.
        scale: channels of the attention values and of the feed-forward's hidden layer by powers of two, so that none is
            much larger than the others. Not through GELU.
        scale_norms: the same for the inputs of q, k, v and gate, up, where the residual stream is not rotated.
        shift: the mean of each channel is taken from the inputs of q, k, v, of gate, up and of o, through the biases before and
            behind them: for models with biases (OPT, BLOOM).
        finer: 4-bit inputs that lose too much (agq/quantization/transforms/finer.py) in groups of 32 or with 8 bits.
        learn: steps of gradient descent by which the rotations are turned so that the ranges of the quantized groups become
            smallest on calibration text; 0: they stay Hadamard matrices with random signs.
        r1: rotation of the residual stream (implies fold). r2: rotation of the values of each head.
        r1_layernorm: r1 and r2 for models with LayerNorm alone (OPT), whose loud channels powers of two do not tame with 8-bit inputs;
            not where a norm of the embeddings would have to be baked (BLOOM).
        seed: of the rotations. seeds: seeds that are tried, from `seed` on; the best on calibration text is taken.
        permute: channels of the feed-forward's hidden layer dealt over the blocks of `hadamard` by their size; without such blocks
            sorted by it, so that a group holds channels of one size.
        hadamard: block length of a Walsh-Hadamard transform of the input of down (fc2), computed at run time; 0: none.
        bake_embed_norm: BLOOM's embedding norm computed into the table, so that the residual stream can be rotated.
    """

    fold: bool = False
    scale: bool = False
    scale_norms: bool = False
    shift: bool = False
    finer: bool = False
    learn: int = 0
    r1: bool = False
    r2: bool = False
    r1_layernorm: bool = False
    seed: int = 0
    seeds: int = 1
    permute: bool = False
    hadamard: int = 0
    bake_embed_norm: bool = False

    def __post_init__(self) -> None:
        structured.check_positive(self, "seeds")
        for name in ("seed", "learn"):
            if getattr(self, name) < 0:
                raise AgqError(f"{name} is {getattr(self, name)}, not 0 or a positive number")
        if self.hadamard < 0 or self.hadamard & (self.hadamard - 1) or self.hadamard > 1 << 14:
            raise AgqError(f"a Hadamard block of {self.hadamard} is not available", hint="use a power of two, or 0 for none")

    @property
    def any(self) -> bool:
        """Something is transformed."""
        return bool(self.fold or self.measured or self.r1 or self.r2 or self.hadamard or self.bake_embed_norm)

    @property
    def measured(self) -> bool:
        """Some of it is decided on calibration text."""
        chosen = (self.seeds > 1 or self.learn > 0) and (self.r1 or self.r2)
        return self.scale or self.scale_norms or self.shift or self.finer or self.permute or chosen


@dataclass(frozen=True)
class TuneOptions:
    """Tuning after the solver: scales and rounding are trained so that the quantized model's predictions come closest to the float
    model's (KL divergence) on calibration text.

    Attributes:
        steps: windows of text, one for each step of Adam, 0: no tuning. auto: as many as a model of its size is worth, none for
            large ones.
        rounding: codes are trained too, not only scales.
        learning_rate: of the scales, relative to each. rounding_rate: of the codes, in steps between two codes.
        temperature: of the predictions in the second half of the loss; 1: no such half. drawn: share of the text's tokens that are
            replaced by draws from the float model's predictions.
    """

    steps: int = 0
    auto: bool = False
    rounding: bool = True
    learning_rate: float = 1e-3
    rounding_rate: float = 2e-3
    temperature: float = 4.0
    drawn: float = 0.3

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise AgqError(f"steps is {self.steps}, not 0 or a positive number")
        for name in ("learning_rate", "rounding_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise AgqError(f"{name} is {getattr(self, name)}, not between 0 and 1")
        if not 1 <= self.temperature <= 100:
            raise AgqError(f"temperature is {self.temperature}, not between 1 and 100")
        if not 0 <= self.drawn < 1:
            raise AgqError(f"drawn is {self.drawn}, not from 0 to below 1")

    @property
    def active(self) -> bool:
        """There is tuning, or may be."""
        return self.auto or self.steps > 0


@dataclass(frozen=True)
class Recipe:
    """Everything `agq quantize` does to a model.

    Attributes:
        model: local folder or hub id, or None where the command line names it.
        overrides: other schemes for some linears; the first pattern that matches counts.
        ignore: patterns of linears that stay in floating point in the quantized folder.
        pruning: token pruning of prompts, which `agq run` does with the packed model unless it is told not to.
        act_clip: share of the range that asymmetric 4-bit activations cover; act_clip_search: choose it for each input on
            calibration text instead, by the error of the linears' outputs.
        sink_tokens: first positions of every sequence (attention sinks, whose activations are massive) that keep 8-bit activations,
            symmetric and per token, where dynamic activations have 4 bits; 0: none.
        kv_bits: width of the KV cache at run time, 4, 8 or 32. head_bits: width of the output head in the artifact, 8,
            16 or 32.
        seed: of everything random but the choice of calibration windows.
    """

    model: str | None = None
    scheme: Scheme = Scheme(WeightScheme(4), ActivationScheme(8, True))
    method: str = "gptq"
    gptq: GptqOptions = GptqOptions()
    calibration: CalibrationSpec = CalibrationSpec()
    overrides: tuple[Override, ...] = ()
    ignore: tuple[str, ...] = ("lm_head",)
    transforms: TransformOptions = TransformOptions()
    tune: TuneOptions = TuneOptions()
    pruning: PruningOptions = PruningOptions()
    agile: AgileOptions = AgileOptions()
    act_clip: float = 1.0
    act_clip_search: bool = False
    sink_tokens: int = 0
    kv_bits: int = 8
    head_bits: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise AgqError(f"unknown method `{self.method}`", hint=f"methods: {', '.join(METHODS)}")
        if self.kv_bits not in KV_BITS:
            raise AgqError(f"a KV cache of {self.kv_bits} bits is not available", hint="use 4, 8 or 32")
        if not 0.5 <= self.act_clip <= 1:
            raise AgqError(f"act_clip is {self.act_clip}, not between 0.5 and 1")
        if self.head_bits not in (8, 16, 32):
            raise AgqError(f"an output head of {self.head_bits} bits is not available", hint="use 8, 16 or 32")
        if not self.scheme.quantized:
            raise AgqError("scheme W16A16 quantizes nothing", hint=f"schemes: {', '.join(SCHEMES)}")
        for pattern in self.ignore:
            check_pattern(pattern)
        if not 0 <= self.sink_tokens <= MAX_SINK_TOKENS:
            raise AgqError(f"sink_tokens is {self.sink_tokens}, not between 0 and {MAX_SINK_TOKENS}")
        if self.agile.active:
            self._check_agile()
        schemes = (self.scheme, *(item.scheme for item in self.overrides))
        if self.sink_tokens and all(scheme.activations.bits != 4 for scheme in schemes):
            raise no_sinks(self.sink_tokens)

    def _check_agile(self) -> None:
        if self.agile.softmax_bits and self.kv_bits != 8:
            raise AgqError(
                f"integer attention (`agile.softmax_bits: 4`) keeps 8-bit keys and values, not {self.kv_bits}-bit ones",
                hint="leave kv_bits at 8, or set `agile.softmax_bits: 0`",
            )
        if self.tune.active:
            raise AgqError(
                "scales are tuned with dynamic activations, static ones (`agile`) are set afterwards", hint="use `--tune 0`"
            )
        schemes = [self.scheme, *(item.scheme for item in self.overrides if item.scheme.quantized)]
        if any(scheme.weights.bits != 4 or scheme.activations.bits != 8 for scheme in schemes):
            raise AgqError(
                "static activations (`agile`) go with the scheme W4A8 or W4A8_ASYM",
                hint="`agile.four_bits` says which inputs have 4 bits",
            )
        if self.sink_tokens:
            raise AgqError(
                f"static activations (`agile`) are the same for all tokens: no sink_tokens {self.sink_tokens}",
                hint="use dynamic 4-bit activations (W4A4), or `--sink-tokens 0`",
            )
        if self.act_clip != 1 or self.act_clip_search or self.kv_bits == 4:
            raise AgqError(
                "static activations (`agile`) have ranges of their own: no act_clip, act_clip_search or kv_bits 4",
                hint="`agile.observer: percentile` cuts outliers",
            )

    @property
    def solver(self) -> bool:
        """The weights are rounded by GPTQ or GPTAQ."""
        return self.method != "rtn"

    @property
    def calibrated(self) -> bool:
        """Calibration text is read."""
        return self.solver or self.transforms.measured or self.act_clip_search or self.tune.active or self.agile.active

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
        return {
            "model": self.model,
            "scheme": self.scheme.to_dict(),
            "method": self.method,
            "gptq": structured.plain(self.gptq),
            "calibration": structured.plain(self.calibration),
            "overrides": [{"pattern": item.pattern, "scheme": item.scheme.to_dict()} for item in self.overrides],
            "ignore": list(self.ignore),
            "transforms": structured.plain(self.transforms),
            "tune": structured.plain(self.tune),
            "pruning": self.pruning.to_dict(),
            "agile": structured.plain(self.agile),
            "act_clip": self.act_clip,
            "act_clip_search": self.act_clip_search,
            "sink_tokens": self.sink_tokens,
            "kv_bits": self.kv_bits,
            "head_bits": self.head_bits,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, data: Any, place: Place | None = None) -> Recipe:
        """A recipe from parsed YAML or JSON; missing keys take their defaults.

        Args:
            place: words for the place of a key path, for messages.

        Raises:
            AgqError: unknown key (with the valid ones), a value of the wrong type or out of range.
        """
        place = place or structured.in_recipe
        table = structured.table(data, structured.names(cls), place, ())
        values: dict[str, Any] = {}
        for name, value in table.items():
            path = (name,)
            if name == "scheme":
                values[name] = Scheme.from_dict(value, place, path)
            elif name in _TABLES:
                values[name] = structured.build(_TABLES[name], value, place, path)
            elif name == "overrides":
                values[name] = tuple(
                    _override(item, place, (name, i)) for i, item in enumerate(structured.sequence(value, place, path))
                )
            elif name == "ignore":
                values[name] = tuple(structured.sequence(value, place, path))
                if not all(isinstance(item, str) for item in values[name]):
                    raise AgqError(f"{place(path)} is not a list of names")
            else:
                values[name] = structured.typed(cls, name, value, place, path)
        return structured.at(place, (), lambda: cls(**values))

    def to_yaml(self) -> str:
        """The recipe as a YAML document that `load_recipe` reads."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, default_flow_style=False)


_TABLES = {
    "gptq": GptqOptions,
    "calibration": CalibrationSpec,
    "transforms": TransformOptions,
    "tune": TuneOptions,
    "pruning": PruningOptions,
    "agile": AgileOptions,
}


def load_recipe(path: str) -> Recipe:
    """Reads a recipe file; see `agq.recipe_files.load_recipe`."""
    from agq import recipe_files

    return recipe_files.load_recipe(path)


def resolve_model(name: str) -> tuple[str, Recipe | None]:
    """What MODEL on the command line means; see `agq.recipe_files.resolve_model`."""
    from agq import recipe_files

    return recipe_files.resolve_model(name)


def no_sinks(count: int) -> AgqError:
    """What is said where sink tokens are asked for and no activations have 4 bits."""
    return AgqError(
        f"sink_tokens {count} changes nothing: no linear has 4-bit activations",
        hint="sink tokens keep 8 bits where the others have 4 (W4A4); leave it at 0",
    )


def check_pattern(pattern: str) -> None:
    """Raises AgqError unless `pattern` is a module name or "re:" and a regular expression."""
    if not pattern or pattern == "re:":
        raise AgqError("an empty pattern matches no module")
    if pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except re.error as error:
            raise AgqError(f"`{pattern}` is not a regular expression: {error}") from None


def pattern_matches(pattern: str, module: str) -> bool:
    """As compressed-tensors: "re:" patterns match at the start of the name, others are whole names."""
    return re.match(pattern[3:], module) is not None if pattern.startswith("re:") else pattern == module


def _granularity(group_size: int, whole: str, symmetric: bool) -> str:
    size = whole if group_size == -1 else f"g{group_size}"
    return f"{size} {'symmetric' if symmetric else 'asymmetric'}"


def _override(data: Any, place: Place, path: tuple[Any, ...]) -> Override:
    if isinstance(data, str):
        return structured.at(place, path, lambda: Override.parse(data))
    found = structured.table(data, ("pattern", "scheme"), place, path)
    for name in ("pattern", "scheme"):
        if name not in found:
            raise AgqError(f"{place(path)}: `{name}` is missing")
    pattern = structured.typed(Override, "pattern", found["pattern"], place, (*path, "pattern"))
    scheme = Scheme.from_dict(found["scheme"], place, (*path, "scheme"))
    return structured.at(place, path, lambda: Override(pattern, scheme))
