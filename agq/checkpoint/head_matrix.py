"""The matrix before the output head of a model whose embedding is its head again, though it was rotated.

Row vectors. A rotation R of the residual stream turns embedding rows e into e R. The head's rows become e diag(g) R: it
takes in the gains g of the final norm, which do not commute with R. So a head that was tied to the embedding is no
longer. But e diag(g) R = (e R) M with the symmetric matrix M = R^T diag(g) R: the logits of a final hidden state x,
normed without gains, are (x M) (E R)^T, and one table serves for both.

A quantized folder keeps its own head, for other software. Where agq.json says `"head_matrix": true`, agq.safetensors
holds M as `head_matrix`, F32 [hidden, hidden]. numpy only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agq.checkpoint.static import FILE
from agq.errors import AgqError
from agq.models import ModelSpec
from agq.safetensors.files import SafetensorsFile

if TYPE_CHECKING:
    from agq.checkpoint.base import Checkpoint

NAME = "head_matrix"
# Rows of the table that are compared with those of the head, and how far apart they may be, relative to their size:
# more than bf16 rounds either of them (0.2 %), less than one wrong gain.
_COMPARED = 256
_APART = 0.01


def read_head_matrix(folder: Path, values: dict[str, Any], spec: ModelSpec) -> np.ndarray | None:
    """M of a folder whose agq.json is `values`, float32 [hidden, hidden] (a view on the file); None: there is none.

    Raises AgqError where agq.json names one that is missing or misshapen, or that the model cannot have.
    """
    where = f"`{folder / 'agq.json'}`"
    said = values.get(NAME, False)
    if type(said) is not bool:
        raise AgqError(f"{where}: `{NAME}` is {said!r}, not true or false")
    if not said:
        return None
    if spec.tied or spec.projected:
        raise AgqError(f"{where}: `{NAME}` is for a head of its own, as wide as the blocks", hint="quantize again")
    path = folder / FILE
    if not path.is_file():
        raise AgqError(f"`{folder}` lacks `{FILE}`, which holds its `{NAME}`", hint="copy the whole folder")
    file = SafetensorsFile(path)
    shape = (spec.hidden, spec.hidden)
    if NAME not in file.tensors or (file.tensors[NAME].dtype, file.tensors[NAME].shape) != ("F32", shape):
        raise AgqError(f"`{path}`: `{NAME}` is missing or not float32 {list(shape)}", hint="quantize the model again")
    return file.raw(NAME)


def head_matrix_problem(checkpoint: Checkpoint) -> str | None:
    """Why the checkpoint's matrix does not give its head, told by rows from all over the table; None where it does."""
    matrix, parts = checkpoint.head_matrix, checkpoint.parts
    if matrix is None:
        return None
    if not np.isfinite(matrix).all():
        return "values that are not finite"
    rows = np.unique(np.linspace(0, checkpoint.spec.vocab - 1, _COMPARED).astype(np.int64))
    embed = checkpoint.read_rows(f"{parts.embed}.weight", rows)
    head = checkpoint.read_rows(f"{parts.head}.weight", rows)
    if not np.linalg.norm(embed @ matrix - head) <= _APART * np.linalg.norm(head):
        return "the embedding's rows times it are not the head's"
    return None
