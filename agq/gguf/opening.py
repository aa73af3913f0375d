"""One way to open a model for packing and quantizing: a folder or a GGUF file."""

import os
from pathlib import Path

from agq.checkpoint.base import Checkpoint
from agq.checkpoint.folder import open_checkpoint
from agq.gguf.files import is_gguf
from agq.recipe import ActivationScheme


def open_source(
    path: str | os.PathLike[str], activations: ActivationScheme | None = None, floats: bool = False
) -> Checkpoint:
    """Opens a model folder, or a GGUF file (any part of a split one).

    Args:
        activations: of the linears of a GGUF file; None: 8 bits in groups of 32. A folder says it itself.
        floats: weights of a GGUF file are read as floats: what quantizing starts from.

    Raises:
        AgqError: as open_checkpoint and GgufCheckpoint.
    """
    if not is_gguf(path):
        return open_checkpoint(path)
    from agq.gguf.checkpoint import ACTIVATIONS, GgufCheckpoint

    return GgufCheckpoint(Path(path), activations or ACTIVATIONS, floats)
