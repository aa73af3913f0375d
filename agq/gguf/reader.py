"""A GGUF file's metadata and tensors, by the `gguf` package, whose reader maps the file into memory.

The package trusts files, and makes a numpy array of every word of a vocabulary. `_Reader` checks lengths before it
reads, and takes arrays as a whole.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUF_MAGIC, GGMLQuantizationType, GGUFReader, GGUFValueType

from agq.errors import AgqError
from agq.gguf.files import split_parts
from agq.models.folding import fold_names

_MAX_RANK = 4  # ggml's own limit
_TYPES = {int(kind) for kind in GGMLQuantizationType}
_TEXTS = [GGUFValueType.ARRAY, GGUFValueType.STRING]
_DOWNLOAD = "the download is incomplete or damaged: fetch it again"


class _Reader(GGUFReader):
    """The package's reader, with limits. Raises ValueError for what is outside the file."""

    def __init__(self, path: Path):
        self.path = path
        super().__init__(path)

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> np.ndarray:
        size = np.dtype(dtype).itemsize * int(count)
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise ValueError("the file ends too early")
        found: np.ndarray = super()._get(offset, dtype, count, override_order)
        return found

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            found: tuple[int, list[Any], list[int], list[GGUFValueType]] = super()._get_field_parts(orig_offs, raw_type)
            return found
        kind = GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        start = orig_offs + 12
        types = [GGUFValueType.ARRAY, kind]
        if kind == GGUFValueType.ARRAY:
            raise ValueError("an array of arrays")
        if kind == GGUFValueType.STRING:
            texts, end = self._strings(start, count)
            return end - orig_offs, texts, list(range(count)), types
        values = self._get(start, self.gguf_scalar_to_np[kind], count)
        return 12 + values.nbytes, [values], [0], types

    def _strings(self, offset: int, count: int) -> tuple[list[bytes], int]:
        """Texts that stand one after the other, each behind its length; and where they end."""
        memory = memoryview(self.data.data)
        length_at = struct.Struct("<Q").unpack_from
        if count > (len(memory) - offset) // 8:
            raise ValueError("the file ends too early")
        found = []
        for _ in range(count):
            (length,) = length_at(memory, offset)
            end = offset + 8 + length
            if end > len(memory) - 8 and end > len(memory):
                raise ValueError("the file ends too early")
            found.append(bytes(memory[offset + 8 : end]))
            offset = end
        return found, offset

    def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
        for field in fields:
            if not 1 <= len(field.parts[3]) <= _MAX_RANK:
                raise ValueError(f"a tensor of {len(field.parts[3])} dimensions")
            if (number := int(field.parts[4][0])) not in _TYPES:
                raise AgqError(
                    f"tensor `{field.name}` of `{self.path}` has type {number}, which the `gguf` package does not know",
                    hint="the file is newer than the package: `pip install -U gguf`, or take a file of another type",
                )
        super()._build_tensors(start_offs, fields)


@dataclass(frozen=True)
class Tensor:
    """A stored tensor.

    Attributes:
        type: its GGUF type, such as "Q4_0". shape: rows first, as in Hugging Face folders (GGUF counts from the end).
        data: as stored: floats of its shape for F16, F32 and F64, else bytes uint8 [..., bytes of a row].
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: np.ndarray

    @property
    def kind(self) -> GGMLQuantizationType:
        """The package's constant of the type."""
        return GGMLQuantizationType[self.type]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """The package's exceptions as errors of one line."""
    try:
        yield
    except AgqError:
        raise
    except OSError as error:
        raise AgqError(f"cannot read `{path}`: {error.strerror or error}") from error
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError, struct.error) as error:
        reason = str(error.args[0]) if error.args else type(error).__name__
        raise AgqError(f"`{path}` is not a GGUF file that can be read: {reason}", hint=_DOWNLOAD) from error


class GgufFile:
    """A model's GGUF file, or all its parts.

    Attributes:
        path: the file that was named. files: all parts. tensors: by their names in the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.files = split_parts(path)
        self.tensors: dict[str, Tensor] = {}
        self._readers = [self._open(file) for file in self.files]
        self._fields = self._readers[0].fields
        promised = self.get("split.count", 1)
        if len(self.files) == 1 and isinstance(promised, int) and promised > 1:
            raise AgqError(
                f"`{path}` is one of {promised} parts, and is not named as one",
                hint=f"parts are called NAME-00001-of-{promised:05d}.gguf",
            )
        expected = self.get("split.tensors.count", len(self.tensors))
        if expected != len(self.tensors):
            raise AgqError(f"`{path}` holds {len(self.tensors)} tensors in all its parts, not {expected}")

    def _open(self, path: Path) -> _Reader:
        self._check_start(path)
        with _readable(path):
            reader = _Reader(path)
            tensors = [self._tensor(item) for item in reader.tensors]
        if twice := [item.name for item in tensors if item.name in self.tensors]:
            raise AgqError(f"`{path}` holds tensors that another part holds too: {fold_names(twice)}")
        self.tensors.update({item.name: item for item in tensors})
        return reader

    @staticmethod
    def _check_start(path: Path) -> None:
        """AgqError for files that the package would call by other names."""
        with _readable(path), path.open("rb") as file:
            start = file.read(8)
        if len(start) < 8 or start[:4] != struct.pack("<I", GGUF_MAGIC):
            raise AgqError(f"`{path}` is not a GGUF file", hint=_DOWNLOAD)
        if struct.unpack("<I", start[4:])[0] & 0xFFFF == 0:
            raise AgqError(f"`{path}` is a big-endian GGUF file: not supported", hint="take the little-endian one")

    @staticmethod
    def _tensor(item: Any) -> Tensor:
        shape = tuple(int(size) for size in reversed(item.shape))
        return Tensor(str(item.name), str(item.tensor_type.name), shape, item.data)

    def has(self, key: str) -> bool:
        """Whether the metadata have a key."""
        return key in self._fields

    def keys(self) -> list[str]:
        """All keys of the metadata."""
        return [key for key in self._fields if not key.startswith("GGUF.")]

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the metadata: a number, text, bool, or list of them; `default` where there is none."""
        field = self._fields.get(key)
        if field is None:
            return default
        with _readable(self.path):
            if field.types == _TEXTS:
                return [str(bytes(field.parts[at]), "utf-8") for at in field.data]  # see _Reader._strings
            return field.contents()
