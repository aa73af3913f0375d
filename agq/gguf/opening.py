"""One way to open a model for packing and quantizing: a folder or a GGUF file."""

import os
from pathlib import Path

from agq.checkpoint.base import Checkpoint
from agq.checkpoint.folder import open_checkpoint
from agq.errors import UsageError
from agq.formats.activations import FLOAT, WIDE
from agq.gguf.files import is_gguf
from agq.recipe.schemes import FLOAT_INPUT

# Widths of the inputs of linears that a GGUF file's may have.
ACT_BITS = (WIDE.bits, FLOAT.bits)


def open_source(path: str | os.PathLike[str], act_bits: int | None = None, floats: bool = False) -> Checkpoint:
    """Opens a model folder, or a GGUF file (any part of a split one).

    Args:
        act_bits: of the inputs of a GGUF file's linears: 8 in groups of 32 columns (the default), or 16: floats. A
            folder says it itself.
        floats: weights of a GGUF file are read as floats: what quantizing starts from.

    Raises:
        UsageError: another width, or a width for a folder. AgqError: as open_checkpoint and GgufCheckpoint.
    """
    if not is_gguf(path):
        if act_bits is not None:
            raise UsageError("`act_bits:` is for GGUF files", hint="a folder says itself how its inputs are quantized")
        return open_checkpoint(path)
    if act_bits is not None and act_bits not in ACT_BITS:
        raise UsageError(f"activations of {act_bits} bits: not of GGUF files", hint="`act_bits:` is 8 or 16")
    from agq.gguf.checkpoint import ACTIVATIONS, GgufCheckpoint

    return GgufCheckpoint(Path(path), FLOAT_INPUT if act_bits == FLOAT.bits else ACTIVATIONS, floats)
