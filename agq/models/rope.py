"""Rotary position embedding (Su et al. 2021) as data, and its frequencies. Pure Python, no dependency."""

import math
from dataclasses import dataclass

from agq.errors import AgqError
from agq.formats.limits import SIZES
from agq.models.checks import flags, float32, integer, number, one_of
from agq.models.fields import added

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
# Kinds whose frequencies are others for long sequences.
_BY_LENGTH = ("dynamic", "longrope")


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding and its scalings, formulas as in transformers' `modeling_rope_utils`.

    `original_context` is the context of pre-training: `max_position_embeddings` for `dynamic`,
    `original_max_position_embeddings` for `llama3`, `yarn` (Peng et al. 2023) and `longrope` (Ding et al. 2024); the
    other kinds do not use it. `attention_factor` is the factor on cos and sin of `yarn` and `longrope`. `short_factors`
    and `long_factors` divide the frequencies of `longrope`, one for each, up to the original context and beyond it.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 2048
    attention_factor: float = added(1.0, 5)
    beta_fast: float = added(32.0, 5)
    beta_slow: float = added(1.0, 5)
    truncate: bool = added(True, 5)
    short_factors: tuple[float, ...] = added((), 5)
    long_factors: tuple[float, ...] = added((), 5)

    def __post_init__(self) -> None:
        one_of(self.kind, "rope.kind", ROPE_KINDS)
        number(self.theta, "rope.theta", 1e-6, 1e15)
        number(self.factor, "rope.factor", 1e-3, 1e6)
        number(self.low_freq_factor, "rope.low_freq_factor", 1e-6, 1e6)
        number(self.high_freq_factor, "rope.high_freq_factor", 1e-6, 1e6)
        integer(self.original_context, "rope.original_context", 1, SIZES["context"])
        if self.kind == "llama3" and not self.high_freq_factor > self.low_freq_factor:
            raise AgqError("model description: rope `high_freq_factor` must be larger than `low_freq_factor`")
        if self.kind == "dynamic" and self.factor < 1:
            raise AgqError("model description: rope `factor` of dynamic scaling must be at least 1")
        number(self.attention_factor, "rope.attention_factor", 1e-3, 1e3)
        number(self.beta_fast, "rope.beta_fast", 1e-3, 1e6)
        number(self.beta_slow, "rope.beta_slow", 1e-3, 1e6)
        flags(self)
        if self.kind == "yarn" and self.theta <= 1:
            raise AgqError("model description: rope `theta` of yarn must be larger than 1")
        for name in ("short_factors", "long_factors"):
            values = getattr(self, name)
            if (self.kind == "longrope") != bool(values):
                raise AgqError(f"model description: rope `{name}` and the kind `longrope` belong together")
            for value in values:
                number(value, f"rope.{name}", 1e-3, 1e6)

    @property
    def depends_on_length(self) -> bool:
        """Sequences longer than `original_context` have other frequencies."""
        return self.kind in _BY_LENGTH

    def inv_freq(self, head_dim: int, seq_len: int = 0) -> tuple[list[float], float]:
        """Inverse frequencies for a sequence that is `seq_len` tokens long (see `depends_on_length`).

        head_dim: channels of a head that are turned. An odd number, which partial rotary positions may have, turns one
            channel more.

        Returns:
            ceil(head_dim / 2) values, each a float32 value; and the factor on cos and sin.
        """
        theta = self._stretched(head_dim, seq_len) if self.kind == "dynamic" else self.theta
        theta = float32(theta)
        wavelengths = [float32(theta ** float32(i / head_dim)) for i in range(0, head_dim, 2)]
        if self.kind == "yarn":
            return self._yarn(wavelengths, head_dim), self.attention_factor
        if self.kind == "longrope":
            factors = self.long_factors if seq_len > self.original_context else self.short_factors
            pairs = zip(factors, wavelengths, strict=True)
            return [float32(1.0 / float32(float32(factor) * wave)) for factor, wave in pairs], self.attention_factor
        values = [float32(1.0 / wave) for wave in wavelengths]
        if self.kind == "linear":
            values = [float32(value / self.factor) for value in values]
        elif self.kind == "llama3":
            values = [self._llama3(value) for value in values]
        return values, 1.0

    def _stretched(self, head_dim: int, seq_len: int) -> float:
        """NTK-aware theta; unchanged up to the original context. In float32 step by step, as transformers does it."""
        length = max(seq_len, self.original_context)
        stretch = float32(float32(float32(self.factor * length) / self.original_context) - (self.factor - 1))
        if head_dim <= 2:
            raise AgqError("dynamic rope scaling needs a head_dim larger than 2")
        return float32(self.theta * float32(stretch ** (head_dim / (head_dim - 2))))

    def _llama3(self, value: float) -> float:
        """Long wavelengths are divided by `factor`, short ones kept, those between interpolated."""
        wavelength = 2 * math.pi / value
        if wavelength < self.original_context / self.high_freq_factor:
            return value
        if wavelength > self.original_context / self.low_freq_factor:
            return float32(value / self.factor)
        smooth = (self.original_context / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        return float32((1 - smooth) * value / self.factor + smooth * value)

    def _yarn(self, wavelengths: list[float], head_dim: int) -> list[float]:
        """Frequencies that turn more than `beta_fast` times in the original context are kept, those that turn less than
        `beta_slow` times divided by `factor`, those between mixed."""

        def dimension(turns: float) -> float:
            # Where in the head the frequency stands that makes so many turns.
            return head_dim * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        if low == high:
            high += 0.001  # as transformers does it: no division by zero
        values = []
        for index, wave in enumerate(wavelengths):
            ramp = min(max(float32(float32(index - low) / float32(high - low)), 0.0), 1.0)
            kept = float32(1 - ramp)
            slow, fast = float32(1.0 / float32(self.factor * wave)), float32(1.0 / wave)
            values.append(float32(float32(slow * float32(1 - kept)) + float32(fast * kept)))
        return values
