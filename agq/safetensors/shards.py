"""Writing the safetensors files of a folder one tensor at a time, so that no more than one of them is in memory. Numpy
only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from agq.files import atomic_write_text, atomic_writer
from agq.safetensors.files import DTYPES, SafetensorsFile, SafetensorsWriter

SINGLE = "model.safetensors"
# numpy dtypes of arrays that are written as they are.
_ARRAYS = {"float32": "F32", "uint8": "U8"}


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: its safetensors dtype, its shape, and a function that gives its elements (bits for
    BF16)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    produce: Callable[[], np.ndarray]

    @classmethod
    def of(cls, name: str, dtype: str, array: np.ndarray) -> Entry:
        """An array that is there already."""
        return cls(name, dtype, array.shape, lambda: array)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype][0]


def write_file(file: IO[bytes], entries: Sequence[Entry], metadata: dict[str, str] | None = None) -> None:
    """Writes a whole safetensors file to an open binary file."""
    writer = SafetensorsWriter(file, [(item.name, item.dtype, item.shape) for item in entries], metadata)
    for item in entries:
        writer.write(item.name, np.ascontiguousarray(item.produce()))
    writer.close()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name, float32 and uint8, as one safetensors file; no file where there are none."""
    if not arrays:
        return
    entries = [Entry.of(name, _ARRAYS[array.dtype.name], np.ascontiguousarray(array)) for name, array in arrays.items()]
    with atomic_writer(path) as file:
        write_file(file, entries)


def index_single(folder: Path) -> None:
    """Gives a folder whose weights are one file an index, too: it keeps loaders that read every safetensors file (vLLM)
    from those beside it."""
    file = SafetensorsFile(folder / SINGLE)
    size = sum(info.stop - info.start for info in file.tensors.values())
    _write_index(folder, size, dict.fromkeys(file.tensors, SINGLE))


def _write_index(folder: Path, size: int, table: dict[str, str]) -> None:
    index = {"metadata": {"total_size": size}, "weight_map": table}
    atomic_write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def write_shards(folder: Path, entries: Iterable[Entry], shard_bytes: int) -> list[str]:
    """Writes `model.safetensors`, or several shards of at most `shard_bytes` (a larger tensor gets its own) with their
    index.

    Returns the names of the safetensors files. Names follow transformers' `save_pretrained`.
    """
    shards: list[list[Entry]] = [[]]
    filled = 0
    for item in entries:
        if shards[-1] and filled + item.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(item)
        filled += item.nbytes
    if len(shards) == 1:
        names = [SINGLE]
    else:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        table = {item.name: name for name, shard in zip(names, shards, strict=True) for item in shard}
        _write_index(folder, sum(item.nbytes for shard in shards for item in shard), table)
    for name, shard in zip(names, shards, strict=True):
        with atomic_writer(folder / name) as file:
            write_file(file, shard, {"format": "pt"})
    return names
