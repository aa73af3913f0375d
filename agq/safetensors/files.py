"""The safetensors container, read and written without a dependency that would bring torch or lack bfloat16.

A file is: 8 bytes little-endian header length; a JSON header {name: {dtype, shape, data_offsets}, "__metadata__":
texts}; the data. Every rule of the format (github.com/huggingface/safetensors) is checked before anything is read
through an offset.
"""

import contextlib
import json
import math
import mmap
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from agq.errors import AgqError
from agq.kinds import LOOKED_AT, kind_of

MAX_HEADER = 100_000_000  # the format's own limit
MAX_RANK = 16
_DTYPE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")  # the form of the format's names of types

# dtype -> (bytes per element, numpy type of the raw elements). BF16 and the FP8 types come as their bits.
DTYPES: dict[str, tuple[int, str]] = {
    "BOOL": (1, "u1"),
    "U8": (1, "u1"),
    "I8": (1, "i1"),
    "F8_E4M3": (1, "u1"),
    "F8_E5M2": (1, "u1"),
    "F8_E8M0": (1, "u1"),
    "I16": (2, "<i2"),
    "U16": (2, "<u2"),
    "F16": (2, "<f2"),
    "BF16": (2, "<u2"),
    "I32": (4, "<i4"),
    "U32": (4, "<u4"),
    "F32": (4, "<f4"),
    "F64": (8, "<f8"),
    "I64": (8, "<i8"),
    "U64": (8, "<u8"),
}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `start`, `stop` count bytes from the beginning of the data section."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """A checked header. `raw`: its bytes as they stand in the file; `data_start`: file offset of the data section."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    raw: bytes
    data_start: int


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """float32 values of bfloat16 bits (uint16), same shape. Exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(values: np.ndarray) -> np.ndarray:
    """Bits (uint16) of the nearest bfloat16 values, ties to even, as torch rounds; NaN stays NaN."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


_NOT_JSON = "the file is damaged, incompletely downloaded, or of another kind"


def load_json(data: bytes, where: str) -> Any:
    """Strict JSON: UTF-8, no duplicate key, no NaN, not too deep. AgqError otherwise."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise ValueError(f"the key `{key}` occurs twice")
                seen.add(key)
        return table

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise AgqError(f"{where} is not UTF-8 text", hint=_NOT_JSON) from error
    except (ValueError, RecursionError) as error:
        raise AgqError(f"{where} is not valid JSON: {error}", hint=_NOT_JSON) from error


def _tensor(name: str, entry: Any, where: str) -> TensorInfo:
    """One entry of a header, checked on its own."""

    def bad(reason: str) -> AgqError:
        return AgqError(f"{where}: tensor `{name}` {reason}", hint="the file is damaged or not a safetensors file")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise bad("has no proper dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise bad(f"has an unknown dtype {str(dtype)[:40]!r}")

    def sizes(values: Any) -> bool:
        return isinstance(values, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in values)

    if not sizes(shape) or len(shape) > MAX_RANK:
        raise bad("has a shape that is not a list of sizes")
    if not sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise bad("has impossible data_offsets")
    if dtype not in DTYPES:  # of a later version of the format: nothing can be said of its size
        return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])
    needed = math.prod(shape) * DTYPES[dtype][0]
    if offsets[1] - offsets[0] != needed:
        raise bad(f"has {offsets[1] - offsets[0]} bytes where its shape {shape} of {dtype} needs {needed}")
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def parse_header(read: Any, file_size: int, where: str) -> Header:
    """Reads and checks a header.

    Args:
        read: read(offset, size) -> bytes of the file.
        file_size: in bytes.
        where: the file's name in messages.

    Raises:
        AgqError: anything that the format forbids: header too large or truncated, invalid JSON, duplicate names,
            a dtype that is no name of one, offsets that do not fit the shape, overlaps, holes, data missing or left
            over.
    """
    broken = "the file is damaged, incompletely downloaded, or not a safetensors file"
    length = int.from_bytes(read(0, min(8, file_size)), "little")
    if file_size < 8 or length > min(MAX_HEADER, file_size):
        other = kind_of(bytes(read(0, min(LOOKED_AT, file_size))))
        if other is not None:
            raise AgqError(f"{where} is {other.name}", hint=other.advice)
    if not file_size:
        raise AgqError(f"{where} is an empty file", hint=broken)
    if file_size < 8:
        raise AgqError(f"{where} is too short for a safetensors file ({file_size} bytes)", hint=broken)
    if length > MAX_HEADER:
        raise AgqError(f"{where} is not a safetensors file: it does not begin with the length of a header", hint=broken)
    if 8 + length > file_size:
        raise AgqError(f"{where} is truncated: its header of {length} bytes does not fit", hint=broken)
    raw = bytes(read(8, length))
    if not raw.startswith(b"{"):
        raise AgqError(f"{where} is not a safetensors file: its header is not JSON", hint=broken)
    header = load_json(raw, f"the header of {where}")
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise AgqError(f"{where}: the header's metadata is not a table of texts", hint=broken)
    tensors = {name: _tensor(name, entry, where) for name, entry in header.items()}
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start != position:
            kind = "overlaps the one before it" if info.start < position else "leaves a hole before it"
            raise AgqError(f"{where}: the data of tensor `{name}` {kind}", hint=broken)
        position = info.stop
    data_start = 8 + length
    if data_start + position != file_size:
        state = "truncated" if data_start + position > file_size else "too long"
        raise AgqError(
            f"{where} is {state}: {file_size} bytes where its header describes {data_start + position}", hint=broken
        )
    return Header(tensors, metadata, raw, data_start)


class SafetensorsFile:
    """A safetensors file, memory-mapped read-only. Tensors are views on the map.

    Raises (on construction):
        AgqError: missing, unreadable, or not a well-formed safetensors file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._map: mmap.mmap | None = None
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise AgqError(f"`{self.path}` does not exist") from error
        except IsADirectoryError as error:
            raise AgqError(f"`{self.path}` is a folder, not a file") from error
        except (OSError, ValueError) as error:
            raise AgqError(f"cannot read `{self.path}`: {getattr(error, 'strerror', None) or error}") from error
        self.size = len(self._map) if self._map is not None else 0
        self.header = parse_header(self._read, self.size, f"`{self.path}`")

    def _read(self, offset: int, size: int) -> bytes:
        return self._map[offset : offset + size] if self._map is not None else b""

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Name -> where and what."""
        return self.header.tensors

    def raw(self, name: str) -> np.ndarray:
        """The tensor's elements as a read-only view on the file (bits for BF16 and FP8).

        Raises AgqError: a dtype that agq does not know.
        """
        info = self.tensors[name]
        if info.dtype not in DTYPES:
            raise AgqError(f"`{self.path}`: tensor `{name}` has a dtype that agq does not know: {info.dtype}")
        kind = np.dtype(DTYPES[info.dtype][1])
        if self._map is None or info.start == info.stop:
            return np.zeros(info.shape, kind)
        count = (info.stop - info.start) // kind.itemsize
        return np.frombuffer(self._map, kind, count, self.header.data_start + info.start).reshape(info.shape)

    def release(self, name: str) -> None:
        """Tells the kernel that the tensor's pages are not needed for now (they are read again when touched)."""
        info = self.tensors[name]
        start = self.header.data_start + info.start
        aligned = start - start % mmap.PAGESIZE
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED") and info.stop > info.start:
            with contextlib.suppress(OSError, ValueError):
                self._map.madvise(mmap.MADV_DONTNEED, aligned, self.header.data_start + info.stop - aligned)


class SafetensorsWriter:
    """Streams tensors into a safetensors file whose names, dtypes and shapes are known beforehand.

    Args:
        file: a writable binary file at position 0, e.g. of files.atomic_writer.
        tensors: (name, dtype, shape) in the order in which they will be written.
        metadata: header metadata.
        align: the data section starts at a multiple of this.
    """

    def __init__(
        self,
        file: IO[bytes],
        tensors: Iterable[tuple[str, str, tuple[int, ...]]],
        metadata: dict[str, str] | None = None,
        align: int = 8,
    ):
        self._file = file
        self._pending: list[tuple[str, int]] = []
        table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        position = 0
        for name, dtype, shape in tensors:
            if name in table:
                raise ValueError(f"tensor {name} twice")
            size = math.prod(shape) * DTYPES[dtype][0]
            table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
            self._pending.append((name, size))
            position += size
        self._pending.reverse()
        raw = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        raw += b" " * (-(8 + len(raw)) % align)
        file.write(len(raw).to_bytes(8, "little") + raw)

    def write(self, name: str, data: Any) -> None:
        """Writes the next tensor's bytes (a contiguous array or a bytes-like object of exactly its size)."""
        expected, size = self._pending.pop()
        if isinstance(data, np.ndarray):
            data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        view = memoryview(data)
        if name != expected or view.nbytes != size:
            raise ValueError(f"expected {size} bytes of {expected}, got {view.nbytes} of {name}")
        self._file.write(view)

    def close(self) -> None:
        """Checks that every tensor was written (the file itself belongs to the caller)."""
        if self._pending:
            raise ValueError(f"{len(self._pending)} tensors were not written, first {self._pending[-1][0]}")
