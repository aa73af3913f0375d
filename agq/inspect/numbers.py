"""Values of a packed file that make wrong numbers though every byte is as it was written: what is not finite, and
scales that are zero where codes are not."""

from collections.abc import Iterator

import numpy as np

from agq.artifact.layout import unpack_codes, unpack_rows
from agq.artifact.linear_info import LinearInfo
from agq.artifact.reader import Artifact
from agq.checkpoint.finite import count_not_finite


def wrong_numbers(artifact: Artifact) -> Iterator[str]:
    """One sentence for each tensor with such values."""
    for name in artifact.names():
        if bad := count_not_finite(artifact.describe(name).dtype.upper(), artifact.tensor(name)):
            yield f"tensor `{name}`: {bad} values that are not finite"
    if _foreign(artifact):
        return
    for name, info in artifact.linears.items():
        if info.quantized and not info.minimum and (lost := _lost_groups(artifact, name, info)):
            yield f"tensor `{name}.scale`: {lost} are zero where codes are not"
    if artifact.has("embed.scale"):
        codes, scale = (
            artifact.tensor("embed"),
            artifact.tensor("embed.scale").reshape(len(artifact.tensor("embed")), -1),
        )
        lost = ((scale == 0) & codes.reshape(*scale.shape, -1).any(axis=2)).sum()
        if lost:
            yield f"tensor `embed.scale`: {lost} are zero where codes are not"


def _foreign(artifact: Artifact) -> bool:
    """Whether the codes are those of a GGUF file, some of whose types have codes without meaning under a scale of
    zero."""
    recipe = artifact.recipe if isinstance(artifact.recipe, dict) else {}
    config = recipe.get("quantization_config")
    return isinstance(config, dict) and config.get("quant_method") == "gguf"


def _lost_groups(artifact: Artifact, name: str, info: LinearInfo) -> int:
    """Groups of a linear with a scale of zero and codes that would otherwise not be."""
    scale = artifact.tensor(f"{name}.scale")
    zeros = unpack_rows(
        (scale.view(np.uint16) << 1 if scale.dtype.itemsize == 2 else scale) == 0, info.out, info.groups
    )
    if not zeros.any():
        return 0
    codes = unpack_codes(info.format, artifact.tensor(f"{name}.weight").view(np.uint8), info.out, info.inputs)
    middle = np.zeros_like(zeros, np.int8)
    if info.asym:
        middle = unpack_rows(artifact.tensor(f"{name}.zero"), info.out, info.groups) - np.int8(info.format.offset)
    used = (codes.reshape(*zeros.shape, -1) != middle[:, :, None]).any(axis=2)
    return int((zeros & used).sum())
