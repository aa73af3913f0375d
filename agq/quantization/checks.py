"""What is checked before any work: group sizes, shared schemes, memory and disk."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agq.errors import AgqError
from agq.formats import PerGroup
from agq.formats.groups import FITTED_SIZES, fit, suggestion
from agq.formats.weights import FLOAT_BITS
from agq.models import Linear, ModelParts
from agq.models.folding import fold_linears
from agq.quantization.tuning.text import JUDGED, block_windows, training_length, window_count
from agq.recipe import METHODS, CalibrationSpec, Recipe, Scheme, TuneOptions
from agq.recipe.methods import FALLBACK

# Of the interpreter and the libraries.
PROCESS_BYTES = 300_000_000


def fit_groups(parts: ModelParts, recipe: Recipe) -> tuple[Recipe, str | None]:
    """The recipe with a size in place of every group size that it does not say, and what the user should know of it.

    The size is the largest of 128, 64 and 32 that divides the inputs of all linears that want one, the same for weights
    and activations; where none does, they have one scale per row. The sentence is None where it is the usual 128.
    """
    wanting = [linear for linear in parts.block_linears() if _wants_fit(recipe.scheme_for(linear.module))]
    inputs = sorted({linear.in_features for linear in wanting})
    group = fit(inputs)
    fitted = replace(
        recipe,
        scheme=recipe.scheme.fit(group),
        overrides=tuple(replace(item, scheme=item.scheme.fit(group)) for item in recipe.overrides),
    )
    if not wanting or group == PerGroup(FITTED_SIZES[0]):
        return fitted, None
    widths = ", ".join(map(str, inputs))
    if isinstance(group, PerGroup):
        return fitted, f"groups of {group.size}: the largest that divides all inputs ({widths})"
    tried = ", ".join(map(str, FITTED_SIZES))
    return fitted, f"one scale per row: no group size of {tried} divides all inputs ({widths})"


def _wants_fit(scheme: Scheme | None) -> bool:
    return scheme is not None and not scheme.fitted


def check_schemes(parts: ModelParts, recipe: Recipe) -> None:
    """Raises AgqError for schemes that cannot be computed: group sizes that do not divide the inputs of their layers,
    linears that read one input (q/k/v, gate/up) with different schemes, and FP8 with anything but rounding."""
    _check_floats(recipe)
    wrong: dict[tuple[str, int], list[Linear]] = {}
    for linear in parts.block_linears():
        scheme = recipe.scheme_for(linear.module)
        if scheme is None:
            continue
        for kind, part in (("group size", scheme.weights), ("activation group size", scheme.activations)):
            group = part.group_size
            if part.quantized and isinstance(group, PerGroup) and group.problem(linear.in_features):
                wrong.setdefault((kind, group.size), []).append(linear)
    if wrong:
        raise _group_error(wrong)
    mixed: dict[str, list[Linear]] = {}
    for block in parts.blocks():
        for roles in block.groups:
            linears = [block.linears[role] for role in roles]
            schemes = [recipe.scheme_for(linear.module) for linear in linears]
            if len(set(schemes)) > 1:
                for linear, scheme in zip(linears, schemes, strict=True):
                    mixed.setdefault(name_of(scheme), []).append(linear)
    if mixed:
        listed = "; ".join(f"{fold_linears(linears)}: {scheme}" for scheme, linears in mixed.items())
        raise AgqError(
            f"linears that read the same input have different schemes: {listed}",
            hint="give them one scheme: they are computed as one matrix, here and in vLLM",
        )


def _check_floats(recipe: Recipe) -> None:
    """AgqError where weights of FP8 would be solved for or trained."""
    if not any(scheme.weights.floats for scheme in (recipe.scheme, *(item.scheme for item in recipe.overrides))):
        return
    if recipe.solver:
        raise AgqError(
            f"weights of FP8 are rounded to nearest, not by `method: {recipe.method}`",
            hint=f"use `method: {FALLBACK}`",
        )
    if recipe.tune.active:
        raise AgqError("weights of FP8 are not tuned", hint="use `tune: 0`")


def name_of(scheme: Scheme | None) -> str:
    """A scheme for messages."""
    return "not quantized" if scheme is None else scheme.describe()


def _group_error(wrong: dict[tuple[str, int], list[Linear]]) -> AgqError:
    """One line for all layers; the hint names the sizes that divide the inputs of all of them."""
    messages = []
    for (kind, size), linears in wrong.items():
        widths: dict[int, list[Linear]] = {}
        for linear in linears:
            widths.setdefault(linear.in_features, []).append(linear)
        listed = "; ".join(f"{fold_linears(found)}: {width}" for width, found in widths.items())
        messages.append(f"{kind} {size} does not divide the inputs of {listed}")
    inputs = {linear.in_features for linears in wrong.values() for linear in linears}
    return AgqError("; ".join(messages), hint=f"use {suggestion(inputs)}, or name none to have one fitted")


@dataclass(frozen=True)
class Needs:
    """Bytes that a run needs: working memory without the hidden states, the hidden states, the output on disk."""

    working: int
    hidden: int
    output: int


def estimate(
    parts: ModelParts,
    schemes: dict[str, Scheme],
    method: str,
    windows: tuple[int, int] | None,
    weight_bytes: int,
    transformed: bool = False,
) -> Needs:
    """What a run will need. windows: (count, tokens in each), None without calibration; weight_bytes: of the source;
    transformed: the model's other tensors are computed and may be untied."""
    spec = parts.spec
    linears = list(parts.block(0).linears.values())
    block = sum(linear.out_features * linear.in_features for linear in linears)
    largest = max(linear.out_features * linear.in_features for linear in linears)
    widest = max(linear.in_features for linear in linears)
    working = PROCESS_BYTES + 4 * block + 4 * 5 * largest
    hidden = 0
    if windows is not None:
        from agq.reference.stream import BATCH_TOKENS

        count, length = windows
        tokens = max(BATCH_TOKENS, length)
        working += 4 * spec.vocab * spec.embed_dim + 4 * tokens * (3 * spec.ffn + 6 * spec.hidden)
        # The Hessian in float32 and its copy, both triangles filled; then what the solver makes of it.
        working += 4 * 2 * widest**2 + METHODS[method].working_bytes(widest)
        hidden = 4 * count * length * (spec.hidden + spec.q_size)
        if METHODS[method].float_model:
            # The float model's block, activations and hidden states stand beside the quantized model's.
            working += 4 * block + 4 * tokens * (3 * spec.ffn + 6 * spec.hidden)
            hidden *= 2
    quantized = sum(
        linear.out_features * linear.in_features for linear in parts.block_linears() if linear.module in schemes
    )
    bits = max((scheme.weights.bits for scheme in schemes.values()), default=FLOAT_BITS)
    # The source's other tensors are copied; at most 16 source bits a weight are replaced. Work folder and output exist
    # together.
    output = max(0, weight_bytes - 2 * quantized) + 2 * int(quantized * (bits + 0.5) / 8)
    if transformed:
        table = spec.vocab * spec.embed_dim
        working += 4 * 3 * table + 4 * spec.hidden * spec.hidden * 4
        output += 4 * table if spec.tied else 0
    return Needs(working, hidden, output)


def tuning_bytes(parts: ModelParts, options: TuneOptions, length: int) -> int:
    """What tuning by windows of `length` tokens takes: of every weight its code and, where codes are trained, what Adam
    keeps; one block's weights and activations with their gradients, the embeddings and head, what the head reads of the
    judged windows. Beside it stand the predictions of the windows that are trained on (`tuning_states`)."""
    from agq.quantization.tuning.student import KEPT_ACTIVATIONS

    spec = parts.spec
    block, activations = _block_sizes(parts, options, length)
    return (
        (9 + 16 * options.rounding) * block * spec.layers
        + 4
        * (
            4 * block
            + 3 * activations
            + 2 * spec.vocab * spec.embed_dim
            + 4 * 512 * spec.vocab
            + (spec.layers * options.batch + JUDGED * 4) * length * spec.hidden
        )
        + KEPT_ACTIVATIONS
    )


def tuning_states(parts: ModelParts, options: TuneOptions, calibration: CalibrationSpec) -> int:
    """Bytes of hidden states that tuning keeps, in files where memory is short: the float model's of the windows that
    are trained on, block by block also the quantized model's, and three times those of the judged windows."""
    spec = parts.spec
    length = training_length(spec, calibration.seq_len)
    if not options.blocks:
        return 4 * window_count(spec, options, length) * length * spec.hidden
    return 8 * block_windows(options, calibration, length) * length * spec.hidden + (
        12 * JUDGED * calibration.seq_len * spec.hidden
    )


def block_tuning_bytes(parts: ModelParts, options: TuneOptions, length: int) -> int:
    """What tuning block by block takes beside its hidden states: of one block what `tuning_bytes` counts, and the
    original's."""
    block, activations = _block_sizes(parts, options, length)
    spec = parts.spec
    return (17 + 20 * options.rounding) * block + 4 * (
        3 * activations + 2 * spec.vocab * spec.embed_dim + 4 * 512 * spec.vocab
    )


def _block_sizes(parts: ModelParts, options: TuneOptions, length: int) -> tuple[int, int]:
    """Weights of a block, and elements of its activations in a step."""
    spec = parts.spec
    block = sum(linear.out_features * linear.in_features for linear in parts.block(0).linears.values())
    return block, options.batch * length * (12 * spec.hidden + 6 * spec.ffn + spec.heads * length)


def check_memory(needs: Needs, free: int) -> bool:
    """Whether the hidden states fit into memory beside the rest; they go to a file otherwise.

    Raises AgqError when even the rest does not fit.
    """
    if needs.working > free:
        raise AgqError(
            f"not enough memory: about {needs.working / 1e9:.1f} GB needed for one decoder block, "
            f"{free / 1e9:.1f} GB free",
            hint=f"close other programs, or use `method: {FALLBACK}`, which needs less",
        )
    return needs.working + needs.hidden <= free
