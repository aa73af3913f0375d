"""Rotary positions of a config.json, in the style of transformers 5 (`rope_parameters`) and of 4 (`rope_theta` and
`rope_scaling`)."""

import math
from dataclasses import dataclass, field

from agq.errors import AgqError
from agq.models.config import CONTEXT, Config
from agq.models.rope import ROPE_KINDS, RopeSpec

THETA = {"low": 1e-6, "high": 1e15}
_FACTOR = {"low": 1e-3, "high": 1e6}


@dataclass(frozen=True)
class RotaryDefaults:
    """What a family's config class of transformers does where config.json is silent.

    Attributes:
        theta, theta_name: the base and, outside the table of rope parameters, its key.
        original_context: of pre-training, where the class has one of its own (Phi-3); None: the model's context.
        aliases: names of kinds that mean another one.
    """

    theta: float = 10000.0
    theta_name: str = "rope_theta"
    original_context: int | None = None
    aliases: dict[str, str] = field(default_factory=dict)


DEFAULTS = RotaryDefaults()


def rope_table(config: Config) -> Config:
    """The table of rope parameters. As in transformers 5, a `rope_scaling` that stands beside `rope_parameters`
    wins."""
    key = "rope_scaling" if config.values.get("rope_scaling") else "rope_parameters"
    return config.table(key) or Config({}, config.where)


def read_rope(config: Config, context: int, defaults: RotaryDefaults = DEFAULTS) -> RopeSpec:
    """RoPE of a model that has one for all its layers.

    context: `max_position_embeddings`. Raises AgqError for a kind that agq does not know, and missing or impossible
    values.
    """
    table = rope_table(config)
    outer = config.number(defaults.theta_name, **THETA, default=defaults.theta)
    original = defaults.original_context
    if config.values.get("original_max_position_embeddings") is not None:
        original = config.integer("original_max_position_embeddings", **CONTEXT)
    return rope_of(table, outer, context, original, defaults.aliases)


def rope_of(
    table: Config, theta: float, context: int, original: int | None = None, aliases: dict[str, str] | None = None
) -> RopeSpec:
    """RoPE of one table of rope parameters. theta: where the table has none; context: `max_position_embeddings`;
    original: the context of pre-training, None where the table says it."""
    if original is None:
        original = table.integer("original_max_position_embeddings", **CONTEXT, default=context)
    name = table.text("rope_type", "type", default="default")
    kind = (aliases or {}).get(name, name)
    if kind not in ROPE_KINDS:
        raise AgqError(
            f"{table.where}: rope type `{kind}` is not supported", hint=f"supported: {', '.join(ROPE_KINDS)}"
        )
    theta = table.number("rope_theta", **THETA, default=theta)
    if kind == "default":
        return RopeSpec(theta=theta)
    if kind == "longrope":
        return _longrope(table, theta, context, original)
    if kind == "yarn":
        return _yarn(table, theta, context, original)
    factor = table.number("factor", **_FACTOR)
    if kind == "linear":
        return RopeSpec(theta=theta, kind=kind, factor=factor)
    if kind == "dynamic":
        return RopeSpec(theta=theta, kind=kind, factor=factor, original_context=context)
    return RopeSpec(
        theta=theta,
        kind=kind,
        factor=factor,
        low_freq_factor=table.number("low_freq_factor", low=1e-6, high=1e6),
        high_freq_factor=table.number("high_freq_factor", low=1e-6, high=1e6),
        original_context=original,
    )


def _yarn(table: Config, theta: float, context: int, original: int) -> RopeSpec:
    factor = table.number("factor", **_FACTOR, default=context / original)
    scale, whole = (table.number(name, low=0, high=1e3, default=0.0) for name in ("mscale", "mscale_all_dim"))
    usual = _stretch(factor, scale) / _stretch(factor, whole) if scale and whole else _stretch(factor, 1.0)
    return RopeSpec(
        theta=theta,
        kind="yarn",
        factor=factor,
        original_context=original,
        attention_factor=table.number("attention_factor", low=1e-3, high=1e3, default=usual),
        beta_fast=table.number("beta_fast", low=0, high=1e6, default=0.0) or 32.0,
        beta_slow=table.number("beta_slow", low=0, high=1e6, default=0.0) or 1.0,
        truncate=table.flag("truncate", True),
    )


def _stretch(factor: float, scale: float) -> float:
    """Factor on cos and sin for a context that is `factor` times as long (Peng et al. 2023, section 3.4)."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _longrope(table: Config, theta: float, context: int, original: int) -> RopeSpec:
    factor = table.number("factor", **_FACTOR, default=context / original)
    usual = 1.0
    if factor > 1 and original > 1:
        usual = math.sqrt(1 + math.log(factor) / math.log(original))
    return RopeSpec(
        theta=theta,
        kind="longrope",
        factor=factor,
        original_context=original,
        attention_factor=table.number("attention_factor", low=1e-3, high=1e3, default=usual),
        short_factors=table.numbers("short_factor", **_FACTOR),
        long_factors=table.numbers("long_factor", **_FACTOR),
    )


def extended_context(context: int, rope: RopeSpec) -> int:
    """The model's longest sequence. context: `max_position_embeddings`, which dynamic scaling and yarn may mean as that
    of pre-training, to be stretched `factor` times."""
    if rope.kind not in ("dynamic", "yarn"):
        return context
    return min(max(context, int(rope.original_context * rope.factor)), CONTEXT["high"])


def rotary_share(config: Config, name: str = "partial_rotary_factor", default: float = 1.0) -> float:
    """Share of a head's channels that are turned. name: its key outside the table of rope parameters."""
    outer = config.number(name, low=0, high=1, default=default)
    return rope_table(config).number("partial_rotary_factor", low=0, high=1, default=outer)


def whole_heads(config: Config, family: str) -> None:
    """Refuses partial rotary positions, of which transformers computes none for this family (AgqError). config: the
    whole one, or a table of rope parameters."""
    if rotary_share(config) != 1.0:
        raise AgqError(f"{config.where}: `partial_rotary_factor` other than 1 is not supported for {family}")


def rotary_channels(share: float, head_dim: int, config: Config) -> int:
    """`rotary_dim` of a ModelSpec. AgqError where no channel is turned."""
    channels = int(head_dim * share)
    if channels < 1:
        raise AgqError(f"{config.where}: rotary positions of {share:g} of {head_dim} channels turn none")
    return 0 if channels == head_dim else channels


def layer_tables(config: Config, names: tuple[str, ...]) -> dict[str, Config]:
    """Tables of rope parameters by type of layer (transformers 5), empty ones where there are none."""
    outer = config.table("rope_parameters") or Config({}, config.where)
    return {name: outer.table(name) or Config({}, f"{outer.where}: {name}") for name in names}
