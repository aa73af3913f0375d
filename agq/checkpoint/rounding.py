"""Tensors whose own codes the kernels do not compute, as codes of 8 bits with a scale for each 32 columns."""

from collections.abc import Callable, Iterable

import numpy as np

from agq.errors import AgqError
from agq.formats.groups import STEP
from agq.formats.weights import BYTE_CODES

_LIMIT = BYTE_CODES.limits(symmetric=True)[1]
_STRIP = 1 << 22  # values that are floats at once
_KEPT = 256 << 20  # bytes of tensors that are kept: of a small model all
# A relative error that is float32's own: codes -1, 0, 1 (TQ1_0, TQ2_0) become multiples of 127.
_NOTHING = 1e-7


class RoundedTensors:
    """Makes them, each once while there is room: packing asks for a tensor's scales before it plans and as it writes,
    and for its codes a few rows at a time.

    Args:
        read: (tensor name, rows) -> float32 [rows, in]. where, hint: the file and what to do, for errors.
    """

    def __init__(self, read: Callable[[str, slice], np.ndarray], where: str, hint: str) -> None:
        self._read = read
        self._where = where
        self._hint = hint
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._losses: dict[str, tuple[float, float]] = {}

    def get(self, name: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(codes int8 [rows, in], scales float32 [rows, in / 32]) of a tensor of so many rows, rounded to nearest.

        Raises AgqError for values that are not finite.
        """
        found = self._kept.pop(name, None)
        if found is None:
            found = self._made(name, rows)
        self._kept[name] = found  # the newest last
        while len(self._kept) > 1 and sum(item.nbytes for pair in self._kept.values() for item in pair) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return found

    def _made(self, name: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        lost = whole = 0.0
        step = 1
        start = 0
        while start < rows:
            values = self._read(name, slice(start, start + step))
            groups = values.reshape(len(values), -1, STEP)
            scale = np.abs(groups).max(axis=2) / np.float32(_LIMIT)
            if not np.isfinite(scale).all():
                raise AgqError(f"{self._where}: `{name}` holds values that are not finite", hint=self._hint)
            codes = np.rint(groups / np.where(scale > 0, scale, np.float32(1))[:, :, None])
            lost += float(np.square(groups - codes * scale[:, :, None], dtype=np.float64).sum())
            whole += float(np.square(groups, dtype=np.float64).sum())
            parts.append((codes.astype(np.int8).reshape(values.shape), scale))
            start += step
            step = max(1, _STRIP // values.shape[1])
        self._losses[name] = lost, whole
        return np.concatenate([codes for codes, _ in parts]), np.concatenate([scale for _, scale in parts])

    def loss(self, names: Iterable[str]) -> tuple[int, float]:
        """(how many of these tensors have been rounded, their relative error; 0 where it is float32's own)."""
        sums = [self._losses[name] for name in names if name in self._losses]
        whole = sum(item[1] for item in sums)
        error = (sum(item[0] for item in sums) / whole) ** 0.5 if whole > 0 else 0.0
        return len(sums), error if error > _NOTHING else 0.0
