"""The clip search of agq.h, on numpy arrays."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from agq.errors import AgqError
from agq.native.library import Library, load_library

if TYPE_CHECKING:
    import numpy as np

# The library's sums are those of float32 vectors: within this share of the least, another order or norm could be less.
MARGIN = 2e-5
# The kernel takes whole vectors.
STEP = 32


def library() -> Library | None:
    """The library that searches; None where there is none (agq runs from a source tree without kernels)."""
    return _library(os.environ.get("AGQ_ISA"))


@cache
def _library(isa: str | None) -> Library | None:
    """Looked for once, not for every matrix."""
    try:
        return load_library(isa)
    except AgqError:
        return None


def clip_search(
    found: Library,
    values: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray | None,
    importance: np.ndarray | None,
    limits: tuple[int, int],
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """(step int32 [groups], sure bool [groups]): for each group the grid with the least sum of importance *
    |w - Q(w)|^2.4, and whether no other comes near it (MARGIN).

    All arrays are contiguous float32. values: [groups, size], size a multiple of STEP; scale, zero: [groups, steps],
    the widest range first; importance: [n, size], of group g row g % n; limits: smallest and largest code.
    Raises MemoryError.
    """
    import numpy as np

    groups, size = values.shape
    best, sure = np.empty(groups, np.int32), np.empty(groups, np.uint8)
    ffi = found.ffi
    arrays = {"values": values, "scale": scale, "zero": zero, "importance": importance}
    problem = ffi.new("agq_clip_problem *")
    kept = []
    for name, array in arrays.items():
        if array is not None:
            assert array.dtype == np.float32 and array.flags.c_contiguous
            kept.append(ffi.from_buffer("float[]", array))
            setattr(problem, name, kept[-1])
    problem.groups, problem.size, problem.steps = groups, size, scale.shape[1]
    problem.period = 0 if importance is None else importance.shape[0]
    problem.lowest, problem.highest = limits
    problem.margin = MARGIN
    status = found.c.agq_clip_search(problem, ffi.from_buffer("int32_t[]", best), ffi.from_buffer(sure), threads)
    if status == found.c.AGQ_ERR_MEMORY:
        raise MemoryError
    assert status == found.c.AGQ_OK, f"agq_clip_search: {status}"
    return best, sure.astype(bool)
