"""What is checked before any work: group sizes, shared schemes, memory and disk."""

from __future__ import annotations

from dataclasses import dataclass

from agq.errors import AgqError
from agq.models import ModelParts
from agq.quantization.solvers import FALLBACK
from agq.quantization.tune import KEPT_ACTIVATIONS
from agq.recipe import METHODS, Recipe, Scheme, TuneOptions
from agq.reference.stream import BATCH_TOKENS

# Group sizes that are suggested when one does not divide.
_SIZES = (32, 64, 128, 256)


def check_schemes(parts: ModelParts, recipe: Recipe) -> None:
    """Raises AgqError naming all layers whose schemes cannot be computed: group sizes that do not divide the layer's
    inputs, and linears that read one input (q/k/v, gate/up) with different schemes."""
    wrong: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for linear in parts.block_linears():
        scheme = recipe.scheme_for(linear.module)
        if scheme is None:
            continue
        kinds = (
            ("group size", scheme.weights.group_size if scheme.weights.bits < 16 else -1),
            ("activation group size", scheme.activations.group_size if scheme.activations.bits < 16 else -1),
        )
        for kind, size in kinds:
            if size > 0 and linear.in_features % size:
                wrong.setdefault((kind, size), []).append((linear.module, linear.in_features))
    if wrong:
        raise _group_error(wrong)
    for block in parts.blocks():
        for roles in block.groups:
            modules = [block.linears[role].module for role in roles]
            schemes = [recipe.scheme_for(module) for module in modules]
            if len(set(schemes)) > 1:
                listed = ", ".join(
                    f"`{module}` {name_of(scheme)}" for module, scheme in zip(modules, schemes, strict=True)
                )
                raise AgqError(
                    f"linears that read the same input have different schemes: {listed}",
                    hint="give them one scheme: they are computed as one matrix, here and in vLLM",
                )


def name_of(scheme: Scheme | None) -> str:
    """A scheme with its group size, for messages."""
    if scheme is None:
        return "not quantized"
    size = scheme.weights.group_size
    return f"{scheme.name} {'per channel' if size == -1 else f'g{size}'}"


def _group_error(wrong: dict[tuple[str, int], list[tuple[str, int]]]) -> AgqError:
    """One message for all layers; the hint names the sizes that divide the inputs of all of them."""
    messages = []
    inputs: set[int] = set()
    for (kind, size), layers in wrong.items():
        named = ", ".join(f"`{module}` ({columns})" for module, columns in layers)
        messages.append(f"{kind} {size} does not divide the inputs of {named}")
        inputs.update(columns for _, columns in layers)
    fitting = [str(size) for size in _SIZES if all(columns % size == 0 for columns in inputs)]
    hint = f"sizes that divide them all: {', '.join([*fitting, '-1 (one scale for the whole row)'])}"
    options = [
        option
        for kind, option in (("group size", "group_size:"), ("activation group size", "act_group:"))
        if any(found == kind for found, _ in wrong)
    ]
    return AgqError("; ".join(messages), hint=f"{hint} (`{'`, `'.join(options)}`)")


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
    working = 300_000_000 + 4 * block + 4 * 5 * largest
    hidden = 0
    if windows is not None:
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
    bits = max((scheme.weights.bits for scheme in schemes.values()), default=16)
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
    keeps; one block's weights and activations with their gradients, the embeddings and head, what the head reads of all
    windows."""
    spec = parts.spec
    block = sum(linear.out_features * linear.in_features for linear in parts.block(0).linears.values())
    activations = length * (12 * spec.hidden + 6 * spec.ffn + spec.heads * length)
    return (
        (9 + 16 * options.rounding) * block * spec.layers
        + 4
        * (
            4 * block
            + 3 * activations
            + 2 * spec.vocab * spec.embed_dim
            + 4 * 512 * spec.vocab
            + (spec.layers * length + options.steps * length) * spec.hidden
        )
        + KEPT_ACTIVATIONS
    )


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
