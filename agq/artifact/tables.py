"""Tensors of an artifact that are stored row by row as they are looked up: the embedding, learned positions, norms; and
documents.

Each function gives a function that yields the tensor's bytes as arrays, a piece of rows at a time.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from agq.artifact.sources import PIECE, quantize_rows, row_scale, to_float
from agq.checkpoint.base import Checkpoint
from agq.errors import AgqError

Pieces = Callable[[], Iterable[np.ndarray]]


def array(values: np.ndarray) -> Pieces:
    """The array itself."""
    return lambda: [values]


def document(data: bytes) -> Pieces:
    """A text, byte for byte."""
    return lambda: [np.frombuffer(data, np.uint8)]


def float_rows(checkpoint: Checkpoint, name: str, dtype: str, added: float = 0.0) -> Pieces:
    """Tensor `name`, a matrix [rows, columns] or a vector, as f32, f16 or bf16. added: to each element."""

    def pieces() -> Iterator[np.ndarray]:
        for values in _rows(checkpoint, name):
            yield to_float(values + np.float32(added) if added else values, dtype, name)
        checkpoint.release(name)

    return pieces


def coded_rows(checkpoint: Checkpoint, name: str) -> Pieces:
    """Tensor `name` [rows, columns] as int8 codes -127..127, symmetric, with the scales of `row_scales`."""

    def pieces() -> Iterator[np.ndarray]:
        for values in _rows(checkpoint, name):
            yield quantize_rows(values, _finite_scale(values, name))

    return pieces


def row_scales(checkpoint: Checkpoint, name: str) -> Pieces:
    """The scales of `coded_rows`, float32 [rows]: value = code * scale. They are bf16 values, as the output head's are,
    so that a table that is also the head means the same in both places (docs/arithmetic.md)."""

    def pieces() -> Iterator[np.ndarray]:
        for values in _rows(checkpoint, name):
            yield _finite_scale(values, name)
        checkpoint.release(name)

    return pieces


def stored_codes(checkpoint: Checkpoint, module: str) -> Pieces:
    """The codes of a quantized table, int8 [rows, columns], as the checkpoint has them."""

    def pieces() -> Iterator[np.ndarray]:
        for rows in _spans(checkpoint, f"{module}.weight"):
            yield checkpoint.codes(module, rows)

    return pieces


def stored_scales(checkpoint: Checkpoint, module: str) -> Pieces:
    """The scales of `stored_codes`, float32 [rows, groups]."""
    return lambda: [checkpoint.scales(module).scale]


def _rows(checkpoint: Checkpoint, name: str) -> Iterator[np.ndarray]:
    """float32 pieces of whole rows."""
    for rows in _spans(checkpoint, name):
        yield checkpoint.read_rows(name, rows)


def _spans(checkpoint: Checkpoint, name: str) -> Iterator[slice]:
    """Rows that are converted at a time."""
    rows = checkpoint.shape(name)[0]
    step = max(PIECE // max(checkpoint.shape(name)[-1], 1), 1)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _finite_scale(values: np.ndarray, name: str) -> np.ndarray:
    scale = row_scale(values)
    if not np.isfinite(scale).all():
        raise AgqError(f"`{name}` holds values that are not finite", hint="the checkpoint is damaged")
    return scale
