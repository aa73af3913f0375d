"""The clip search of agq.h, on numpy arrays."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from agq.errors import AgqError
from agq.native.library import Library, load_library

if TYPE_CHECKING:
    import numpy as np

# The library's sums are those of float32 vectors: within this share of the least, another order or norm could be less.
MARGIN = 2e-5
# The kernel takes whole vectors.
STEP = 32


@dataclass(frozen=True, eq=False)
class Grids:
    """What a search chooses from. All arrays are contiguous float32.

    Attributes:
        values: [groups, size], size a multiple of STEP. scale, zero: of each group's grids [groups, steps], the widest
            range first; zero: None: symmetric ones. limits: smallest and largest code.
        importance: [n, size], of group g row g % n; None: all values count alike.
    """

    values: np.ndarray
    scale: np.ndarray
    limits: tuple[int, int]
    zero: np.ndarray | None = None
    importance: np.ndarray | None = None


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


def clip_search(found: Library, grids: Grids, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(step int32 [groups], sure bool [groups]): for each group the grid with the least sum of importance *
    |w - Q(w)|^2.4, and whether no other comes near it (MARGIN). Raises MemoryError."""
    import numpy as np

    best, sure = np.empty(len(grids.values), np.int32), np.empty(len(grids.values), np.uint8)
    ffi = found.ffi
    problem, kept = _problem(found, grids)
    status = found.c.agq_clip_search(problem, ffi.from_buffer("int32_t[]", best), ffi.from_buffer(sure), threads)
    del kept
    if status == found.c.AGQ_ERR_MEMORY:
        raise MemoryError
    assert status == found.c.AGQ_OK, f"agq_clip_search: {status}"
    return best, sure.astype(bool)


def clip_errors(found: Library, grids: Grids, lanes: int | None = None) -> np.ndarray:
    """float32 [groups, steps]: the sum of each grid, bit for bit as PyTorch computes it with vectors of `lanes` floats,
    by default those of this machine."""
    import numpy as np

    errors = np.empty(grids.scale.shape, np.float32)
    problem, kept = _problem(found, grids)
    status = found.c.agq_clip_errors(problem, lanes or torch_lanes(found), found.ffi.from_buffer("float[]", errors))
    del kept
    assert status == found.c.AGQ_OK, f"agq_clip_errors: {status}"
    return errors


def least_error(found: Library, grids: Grids) -> np.ndarray:
    """int32 [groups]: the first grid with the least of `clip_errors`, 0 where none is finite. It decides where
    `clip_search` is not sure."""
    import numpy as np

    errors = clip_errors(found, grids)
    chosen: np.ndarray = np.where(np.isnan(errors), np.float32(np.inf), errors).argmin(axis=1).astype(np.int32)
    return chosen


@cache
def torch_lanes(found: Library) -> int:
    """Floats of the vectors that PyTorch adds with on this machine. Its sums have no kernels of AVX-512: processors
    that have it add as those with AVX2 do."""
    return 4 if "asimd" in found.cpu_features else 8


def _problem(found: Library, grids: Grids) -> tuple[Any, list[Any]]:
    """The arrays as an agq_clip_problem, and what must live as long as it."""
    import numpy as np

    problem, kept = found.ffi.new("agq_clip_problem *"), []
    for name in ("values", "scale", "zero", "importance"):
        if (array := getattr(grids, name)) is not None:
            assert array.dtype == np.float32 and array.flags.c_contiguous
            kept.append(found.ffi.from_buffer("float[]", array))
            setattr(problem, name, kept[-1])
    (problem.groups, problem.size), problem.steps = grids.values.shape, grids.scale.shape[1]
    problem.period = 0 if grids.importance is None else grids.importance.shape[0]
    problem.lowest, problem.highest = grids.limits
    problem.margin = MARGIN
    return problem, kept
