"""A packed file that is not there: its description, with memory in the place of its tensors. The engine takes it for
one, so it tells what a model would take, and how long kernels take, before there is a model."""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path

import numpy as np

from agq.artifact.layout import ALIGN
from agq.artifact.reader import Artifact
from agq.artifact.schema import ArtifactModel

# Every byte of weights, scales and gains: as float32 and bfloat16 0.0115, as float16 1.06, as codes 60, or 3 and 12.
# Finite and normal numbers: denormal ones would be slow.
_BYTE = 0x3C
# Tensors that must be small numbers: zero points, exponents.
_ZEROS = (".zero", ".act_exponent", "_exponent", "_zero")


def memory(nbytes: int) -> np.ndarray:
    """Bytes for the tensors of stand-ins that are computed with: uint8 [nbytes]. In small pages, as a mapped file: with
    the large ones that numpy asks for, weights would come faster than they do from a file."""
    pages = mmap.mmap(-1, nbytes)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a system without large pages
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    found = np.frombuffer(pages, np.uint8)
    found[:] = _BYTE
    return found


class StandIn(Artifact):
    """An Artifact of `model` without a file.

    Args:
        room: `memory` that the tensors lie in, one after the other, and from its beginning again where it ends. Without
            it the stand-in is not computed with: its tensors are addresses of which no page is ever touched.
    """

    def __init__(self, model: ArtifactModel, room: np.ndarray | None = None):
        self.path = Path("no file")
        self.info, self.spec, self.linears = model, model.spec, model.linears
        self.recipe = self.source = None
        self.model, self.metadata = {}, {}
        self._sizes = model.tensors()
        self.size = sum(item.stored for item in self._sizes.values())
        largest = max(item.stored for item in self._sizes.values())
        if room is None:
            room = np.zeros(largest + ALIGN, np.uint8)
        elif len(room) < largest + ALIGN:
            room = memory(largest + ALIGN)
        self._room, self._zeros = room, np.zeros(largest + ALIGN, np.uint8)
        self._places: dict[str, int] = {}
        place = 0
        for name, item in self._sizes.items():
            place = 0 if place + item.stored + ALIGN > len(room) else place
            self._places[name] = place
            place += item.stored

    def address(self, name: str) -> int:
        """Memory address of a tensor's first byte, a multiple of 64."""
        zero = name.endswith(_ZEROS)
        start = (self._zeros if zero else self._room).ctypes.data
        return int(-(-start // ALIGN) * ALIGN + (0 if zero else self._places[name]))
