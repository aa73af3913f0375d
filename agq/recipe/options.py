"""Parts of a recipe: calibration text, the weight solver, transformations, tuning."""

from __future__ import annotations

from dataclasses import dataclass

from agq import structured
from agq.errors import AgqError
from agq.recipe.declaration import CALIBRATION, METHOD, TRANSFORMATIONS, option
from agq.structured import setting

# The text that fits the model.
AUTO_TEXT = "auto"


@dataclass(frozen=True)
class CalibrationSpec:
    """Calibration text. data: wikitext2, c4, random-tokens, mixture (agq/text/mixture.py) or a file, or several,
    separated by commas, which give windows in turn (beside the mixture: its encyclopaedia); auto: mixture for a chat
    model, wikitext2 for others. samples windows of seq_len tokens, cut at random with seed. detached: every second one
    of the text with detached punctuation, as WikiText has it (agq/text/detached.py).
    """

    data: str = option(
        AUTO_TEXT,
        "Calibration text, or several, separated by commas. Default: mixture for chat models, wikitext2 for others.",
        panel=CALIBRATION,
        env="AGQ_CALIBRATION_DATA",
        metavar="wikitext2|c4|FILE",
    )
    samples: int = option(
        128, "Windows; time grows with them. Default 128.", panel=CALIBRATION, env="AGQ_CALIBRATION_SAMPLES", least=1
    )
    seq_len: int = option(
        2048,
        "Tokens per window. Default 2048, at most the model's context.",
        panel=CALIBRATION,
        env="AGQ_CALIBRATION_SEQ_LEN",
        least=1,
    )
    seed: int = option(0, "Of the choice of windows. Default 0.", panel=CALIBRATION, env="AGQ_CALIBRATION_SEED")
    detached: bool = option(
        False,
        "Every second window with detached punctuation, as WikiText has it. Default as the preset says.",
        panel=CALIBRATION,
        env="AGQ_CALIBRATION_DETACHED",
    )

    def __post_init__(self) -> None:
        structured.check(self)


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

    damping: float = option(
        0.01,
        "GPTQ: share of the mean diagonal added to the Hessian. Default 0.01.",
        words="damp",
        panel=METHOD,
        least=0,
        most=1,
    )
    block_size: int = option(128, "GPTQ: columns between two lazy updates. Default 128.", panel=METHOD, least=1)
    act_order: bool = option(
        True, "GPTQ visits channels by falling energy; groups stay in place. Default on.", panel=METHOD
    )
    mse: bool = option(
        True,
        "Search the clip of each weight scale. Default on; takes some 15 s of a core for 1e9 weights.",
        panel=METHOD,
    )
    true_sequential: bool = option(
        True, "Each linear is calibrated on the quantized ones before it. Default on.", panel=METHOD
    )
    quantized_activations: bool = option(True, "Calibrate with the activation quantizers on. Default on.", panel=METHOD)
    alpha: float = option(0.25, "GPTAQ: weight of its second term. Default 0.25.", panel=METHOD, least=0, most=1)

    def __post_init__(self) -> None:
        structured.check(self)


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
    scale: bool = option(
        False,
        "Scale attention values and feed-forward channels by powers of two. Costs nothing at run time. "
        "Default: the preset's, on.",
        panel=TRANSFORMATIONS,
    )
    scale_norms: bool = option(
        False,
        "The same for what the norms put out, where the residual stream is not rotated. Default: the preset's, on.",
        panel=TRANSFORMATIONS,
    )
    shift: bool = option(
        False,
        "Take the mean from channels, through biases (OPT, BLOOM). Costs nothing at run time. Default: the "
        "preset's, on.",
        panel=TRANSFORMATIONS,
    )
    finer: bool = option(
        False,
        "Give 4-bit inputs that lose too much groups of 32, or 8 bits. Default: on in the presets of 4-bit "
        "activations.",
        panel=TRANSFORMATIONS,
    )
    learn: int = option(
        0,
        "Steps of learning the rotations on calibration text; 0: none. Default: the preset's, 0 but for "
        "4-bit activations.",
        name="rot_steps",
        panel=TRANSFORMATIONS,
        least=0,
    )
    r1: bool = option(
        False,
        "Rotate the residual stream. Costs nothing at run time. Default: the preset's, on.",
        panel=TRANSFORMATIONS,
    )
    r2: bool = option(
        False,
        "Rotate the values of each head. Costs nothing at run time. Default: the preset's, on.",
        panel=TRANSFORMATIONS,
    )
    r1_layernorm: bool = False
    seed: int = option(0, "Of the rotations. Default 0.", name="rot_seed", panel=TRANSFORMATIONS, least=0)
    seeds: int = option(
        1,
        "Seeds to try; the best on calibration text is taken. Each takes as long as the first. Default 1.",
        name="rot_seeds",
        panel=TRANSFORMATIONS,
        least=1,
    )
    permute: bool = option(
        False,
        "Deal the feed-forward's channels over the blocks of {hadamard} by size; without it sort them. "
        "Default: on in the presets of 4-bit activations.",
        panel=TRANSFORMATIONS,
    )
    hadamard: int = option(
        0,
        "Blocks of a transform of the feed-forward's hidden layer at run time, such as 128; 0: none. "
        "Default 0, but for preset online.",
        panel=TRANSFORMATIONS,
        metavar="N",
        least=0,
    )
    bake_embed_norm: bool = option(
        False,
        "BLOOM: the embedding norm becomes part of the table, which {r1} needs. Only agq runs the result. Default off.",
        panel=TRANSFORMATIONS,
    )

    def __post_init__(self) -> None:
        structured.check(self)
        if self.hadamard & (self.hadamard - 1) or self.hadamard > 1 << 14:
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
        steps: of Adam, 0: no tuning. batch: windows of text in each. auto: as many as the run's time allows.
        blocks: block by block, `steps` each, towards the float model's hidden states, for models that do not fit into
            memory whole.
        rounding: codes are trained too, not only scales.
        learning_rate: of the scales, relative to each. rounding_rate: of the codes, in steps between two codes.
        temperature: of the predictions in the second half of the loss; 1: no such half. drawn: share of the text's
            tokens that are replaced by draws from the float model's predictions.
    """

    steps: int = setting(0, least=0)
    batch: int = setting(1, least=1, most=1024)
    auto: bool = False
    blocks: bool = False
    rounding: bool = True
    learning_rate: float = 1e-3
    rounding_rate: float = 2e-3
    temperature: float = setting(4.0, least=1, most=100)
    drawn: float = 0.3

    def __post_init__(self) -> None:
        structured.check(self)
        for name in ("learning_rate", "rounding_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise AgqError(f"{name} is {getattr(self, name)}, not between 0 and 1")
        if not 0 <= self.drawn < 1:
            raise AgqError(f"drawn is {self.drawn}, not from 0 to below 1")

    @property
    def active(self) -> bool:
        """There is tuning, or may be."""
        return self.auto or self.steps > 0
