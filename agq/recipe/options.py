"""Parts of a recipe: calibration text, the weight solver, transformations, tuning."""

from __future__ import annotations

from dataclasses import dataclass

from agq import structured
from agq.errors import AgqError


@dataclass(frozen=True)
class CalibrationSpec:
    """Calibration text. data: wikitext2, c4, random-tokens or a file, or several, separated by commas, which give
    windows in turn. samples windows of seq_len tokens, cut at random with seed. detached: every second one of the text
    with detached punctuation, as WikiText has it (agq/text/detached.py).
    """

    data: str = "wikitext2"
    samples: int = 128
    seq_len: int = 2048
    seed: int = 0
    detached: bool = False

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
        shift: the mean of each channel is taken from the inputs of q, k, v, of gate, up and of o, through the biases
            before and behind them: for models with biases (OPT, BLOOM).
        finer: 4-bit inputs that lose too much (agq/quantization/transforms/finer.py) in groups of 32 or with 8 bits.
        learn: steps of gradient descent by which the rotations are turned so that the ranges of the quantized groups
            become smallest on calibration text; 0: they stay Hadamard matrices with random signs.
        r1: rotation of the residual stream (implies fold). r2: rotation of the values of each head.
        r1_layernorm: r1 and r2 for models with LayerNorm alone (OPT), whose loud channels powers of two do not tame
            with 8-bit inputs; not where a norm of the embeddings would have to be baked (BLOOM).
        seed: of the rotations. seeds: seeds that are tried, from `seed` on; the best on calibration text is taken.
        permute: channels of the feed-forward's hidden layer dealt over the blocks of `hadamard` by their size; without
            such blocks sorted by it, so that a group holds channels of one size.
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
            raise AgqError(
                f"a Hadamard block of {self.hadamard} is not available", hint="use a power of two, or 0 for none"
            )

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
    """Tuning after the solver: scales and rounding are trained so that the quantized model's predictions come closest
    to the float model's (KL divergence) on calibration text.

    Attributes:
        steps: windows of text, one for each step of Adam, 0: no tuning. auto: as many as a model of its size is worth,
            none for large ones.
        rounding: codes are trained too, not only scales.
        learning_rate: of the scales, relative to each. rounding_rate: of the codes, in steps between two codes.
        temperature: of the predictions in the second half of the loss; 1: no such half. drawn: share of the text's
            tokens that are replaced by draws from the float model's predictions.
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
