"""The tensors of a folder as its files store them, by canonical names."""

from pathlib import Path

import numpy as np

from agq.checkpoint.weight_files import shard_paths
from agq.errors import AgqError
from agq.formats.weights import BY_STORED
from agq.models import ModelParts
from agq.models.folding import fold_names
from agq.safetensors.files import SafetensorsFile, bf16_to_f32


class StoredTensors:
    """Tensors of all weight files of a folder; a TensorSource (source.py). Names are canonical (with the base prefix),
    whichever way the folder stores them.

    Args:
        parts: of the model. `parts` may be replaced when more is known of it.

    Raises:
        AgqError: no weight files, damaged ones, a tensor that is stored twice or that the index names in vain.
    """

    def __init__(self, folder: Path, parts: ModelParts):
        self.path = folder
        self.parts = parts
        self.files: list[SafetensorsFile] = []
        self._where: dict[str, tuple[SafetensorsFile, str]] = {}
        self._open_shards()
        self._settle_embedding()

    def _canonical(self, stored: str) -> str:
        prefix = self.parts.base_prefix
        for alias, meant in self.parts.aliases:
            if stored.startswith(alias):
                return meant + stored.removeprefix(alias)
        if stored.startswith(prefix) or stored.startswith(self.parts.head + "."):
            return stored
        return prefix + stored

    def _open_shards(self) -> None:
        paths, table = shard_paths(self.path)
        for path in paths:
            file = SafetensorsFile(path)
            self.files.append(file)
            for stored in file.tensors:
                if table is not None and table.get(stored, path.name) != path.name:
                    continue  # a stale copy: the index gives the name to another shard
                name = self._canonical(stored)
                if name in self._where:
                    other = self._where[name][0].path.name
                    raise AgqError(f"`{self.path}` stores tensor `{name}` twice (in `{other}` and `{path.name}`)")
                self._where[name] = (file, stored)
        absent = [stored for stored in table or {} if self._canonical(stored) not in self._where]
        if absent:
            raise AgqError(f"`{self.path}`: the index names tensors that no shard holds: {fold_names(sorted(absent))}")

    def _settle_embedding(self) -> None:
        """Of a tied model one matrix serves for both, under either name."""
        embed, head = f"{self.parts.embed}.weight", f"{self.parts.head}.weight"
        if self.parts.spec.tied and head in self._where and embed not in self._where:
            self._where[embed] = self._where.pop(head)

    def two_tables(self) -> bool:
        """Whether a tied model stores a head that is not its embedding: another matrix, or codes."""
        embed, head = f"{self.parts.embed}.weight", f"{self.parts.head}.weight"
        if not self.parts.spec.tied or embed not in self._where:
            return False
        if head not in self._where:
            return any(name.startswith(self.parts.head + ".") for name in self._where)
        (embed_file, embed_name), (head_file, head_name) = self._where[embed], self._where[head]
        same = embed_file.tensors[embed_name].dtype == head_file.tensors[head_name].dtype
        return not same or not np.array_equal(embed_file.raw(embed_name), head_file.raw(head_name))

    def names(self) -> list[str]:
        """Canonical names of all stored tensors."""
        return list(self._where)

    def stored(self, name: str) -> bool:
        """Whether a tensor stands in a file under this name."""
        return name in self._where

    def has(self, name: str) -> bool:
        """Whether `name` can be read (the head of a tied model can)."""
        return self._resolve(name) is not None

    def _resolve(self, name: str) -> tuple[SafetensorsFile, str] | None:
        if name == f"{self.parts.head}.weight" and self.parts.spec.tied:
            name = f"{self.parts.embed}.weight"
        return self._where.get(name)

    def _located(self, name: str) -> tuple[SafetensorsFile, str]:
        found = self._resolve(name)
        if found is None:
            raise AgqError(f"`{self.path}` has no tensor `{name}`")
        return found

    def dtype(self, name: str) -> str:
        """safetensors dtype, e.g. "BF16"."""
        file, stored = self._located(name)
        return file.tensors[stored].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        file, stored = self._located(name)
        return file.tensors[stored].shape

    def read_raw(self, name: str) -> tuple[str, np.ndarray]:
        """(dtype, elements as a read-only view on the file; bits of BF16 and of 8-bit floats)."""
        file, stored = self._located(name)
        return file.tensors[stored].dtype, file.raw(stored)

    def read(self, name: str) -> np.ndarray:
        """A float tensor as a new float32 array of its shape."""
        dtype, raw = self.read_raw(name)
        if dtype not in BY_STORED:
            raise AgqError(f"`{self.path}`: tensor `{name}` is {dtype}, not a float type that agq reads")
        return bf16_to_f32(raw) if dtype == "BF16" else np.array(raw, dtype=np.float32)

    def release(self, name: str) -> None:
        """The tensor's pages may leave memory."""
        file, stored = self._located(name)
        file.release(stored)
