"""Effective bits of the activations of a model folder or GGUF file (agq/formats/effective.py says what they are)."""

from collections.abc import Iterator
from typing import Any

from agq.checkpoint.base import Checkpoint
from agq.checkpoint.compressed_tensors import activation_scheme
from agq.formats import PER_ROW, activation_format, words
from agq.formats.effective import ActivationBits, LinearInput, Width, activation_bits
from agq.models import Linear
from agq.recipe import Scheme


def effective_bits(checkpoint: Checkpoint) -> ActivationBits | None:
    """Of the inputs of the blocks' linears; None where all are floats."""
    return activation_bits(_inputs(checkpoint), scheme_width(checkpoint.agq))


def scheme_width(record: Any) -> Width | None:
    """What inputs have by the scheme of an agq.json, or of what a packed file keeps of it; None where it says none."""
    values = record.get("scheme") if isinstance(record, dict) else None
    if not isinstance(values, dict):
        return None
    scheme = Scheme.from_dict(values).activations
    return Width(scheme.bits, scheme.group_size)


def _inputs(checkpoint: Checkpoint) -> Iterator[LinearInput]:
    for block in checkpoint.parts.blocks():
        for roles in block.groups:
            yield _input(checkpoint, [block.linears[role] for role in roles])


def _input(checkpoint: Checkpoint, linears: list[Linear]) -> LinearInput:
    """What linears read that share an input."""
    module = linears[0].module
    products = sum(linear.out_features * linear.in_features for linear in linears)
    static = checkpoint.statics.inputs.get(module)
    if static is not None:
        row = activation_format(static.bits)
        per_channel = static.channel_scale is not None
        return LinearInput(row, PER_ROW, words.static_activations(row, per_channel), products)
    scheme = activation_scheme(checkpoint, module)
    row = scheme.format
    return LinearInput(row, scheme.group_size, words.activations(row, scheme.group_size, scheme.symmetric), products)
