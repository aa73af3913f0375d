"""Effective bits of the activations of a packed file (agq/formats/effective.py says what they are)."""

from agq.artifact.linear_info import LinearInfo
from agq.artifact.reader import Artifact
from agq.checkpoint.effective import scheme_width
from agq.formats.effective import ActivationBits, LinearInput, activation_bits


def effective_bits(artifact: Artifact) -> ActivationBits | None:
    """Of the inputs of the blocks' linears, which are packed as one where they share it; None where all are floats."""
    inputs = [_input(info) for name, info in artifact.linears.items() if name.startswith("blocks.")]
    return activation_bits(inputs, scheme_width(artifact.recipe))


def _input(info: LinearInfo) -> LinearInput:
    return LinearInput(info.activations, info.act_group, info.input_words(), info.out * info.inputs)
