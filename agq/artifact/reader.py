"""Reading a packed artifact: one read-only map, and every check that must come before a pointer reaches C."""

import hashlib
import os
from typing import Any

import numpy as np

from agq.artifact.header import ABI, FORMAT, OLDEST_ABI, header_bytes, header_hash
from agq.artifact.layout import ALIGN, LAYOUT
from agq.artifact.linear_info import LinearInfo, TensorSize
from agq.artifact.schema import ArtifactModel
from agq.errors import AgqError
from agq.models import ModelSpec
from agq.models.folding import fold_names
from agq.safetensors.files import SafetensorsFile, load_json

_NUMPY = {"f32": "<f4", "f16": "<f2", "bf16": "<u2", "i8": "i1", "u8": "u1", "u32": "<u4"}
DAMAGED = "the file is damaged; `agq verify` names what, `agq pack` makes it anew"


class Artifact:
    """An opened artifact. Its memory map lives as long as the object: keep it while C uses its addresses.

    Attributes:
        spec: the transformer. model: `agq.model` as a dict. info: the same, checked and typed (ArtifactModel).
        linears: name -> LinearInfo. recipe: `agq.recipe` (None for an unquantized model). source: `agq.source`.
        metadata: the header's raw texts. size: bytes of the file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._file = SafetensorsFile(path)
        self.path = self._file.path
        self.size = self._file.size
        self.metadata = self._file.header.metadata
        where = f"`{self.path}`"
        self._check_versions(where)
        if problems := self._header_problems():
            raise AgqError(f"{where} is damaged: {'; '.join(problems)}", hint="pack the model again, or copy it anew")
        self.model: dict[str, Any] = self._json("agq.model")
        try:
            self.info = ArtifactModel.from_dict(self.model)
        except AgqError as error:
            raise AgqError(f"{where}: {error.message}", hint=DAMAGED) from error
        self.spec: ModelSpec = self.info.spec
        self.linears: dict[str, LinearInfo] = self.info.linears
        self.recipe: Any = self._json("agq.recipe")
        self.source: Any = self._json("agq.source")
        self._sizes = self.info.tensors()
        self._check_tensors(where)

    def _check_versions(self, where: str) -> None:
        values = self.metadata
        if values.get("format") != "agq":
            raise AgqError(
                f"{where} is a safetensors file but not an agq artifact",
                hint="make one from a model folder with `agq pack`",
            )
        for key, oldest, known in (("agq.format", FORMAT, FORMAT), ("agq.abi", OLDEST_ABI, ABI)):
            text = values.get(key, "")
            if not (text.isascii() and text.isdigit() and len(text) < 10):
                raise AgqError(f"{where}: `{key}` is {text[:40]!r}, not a number", hint=DAMAGED)
            if int(text) > known:
                raise AgqError(
                    f"{where} was made by a newer agq (`{key}` {text}, this one reads {known})",
                    hint="update agq, or pack the model again with this version",
                )
            if int(text) < oldest:
                raise AgqError(f"{where} has `{key}` {text}; this agq reads {known}", hint="pack the model again")
        name = values.get("agq.layout")
        if name != LAYOUT:
            raise AgqError(f"{where} has the unknown layout `{name}`", hint="update agq, or pack the model again")

    def _header_problems(self) -> list[str]:
        """Whether the header is, byte for byte, the one that was written."""
        raw = self._file.header.raw
        header = load_json(raw, f"the header of `{self.path}`")
        problems = []
        if header_bytes(header)[8:] != raw:
            problems.append("header: not in the form that agq writes")
        if header_hash(header) != self.metadata.get("agq.header_sha256"):
            problems.append("header: SHA-256 differs")
        return problems

    def _json(self, key: str) -> Any:
        if key not in self.metadata:
            raise AgqError(f"`{self.path}` has no `{key}`", hint=DAMAGED)
        return load_json(self.metadata[key].encode("utf-8", "surrogatepass"), f"`{self.path}`: {key}")

    def _check_tensors(self, where: str) -> None:
        """Exactly the expected tensors, each one-dimensional U8, aligned, of exactly its size."""
        stored = self._file.tensors
        if set(stored) != set(self._sizes):
            wrong = sorted(set(stored) ^ set(self._sizes))
            raise AgqError(f"{where}: missing or unexpected tensors: {fold_names(wrong)}", hint=DAMAGED)
        for name, size in self._sizes.items():
            info = stored[name]
            if info.dtype != "U8" or info.shape != (size.stored,):
                raise AgqError(
                    f"{where}: tensor `{name}` has {info.stop - info.start} bytes, not {size.stored}", hint=DAMAGED
                )
            if (self._file.header.data_start + info.start) % ALIGN:
                raise AgqError(f"{where}: tensor `{name}` is not aligned to {ALIGN} bytes", hint=DAMAGED)

    # ---- reading

    def names(self) -> list[str]:
        """All tensors and documents."""
        return list(self._sizes)

    def has(self, name: str) -> bool:
        """Whether the file holds `name`."""
        return name in self._sizes

    def describe(self, name: str) -> TensorSize:
        """Logical type, shape and bytes of a tensor."""
        if name not in self._sizes:
            raise AgqError(f"`{self.path}` has no tensor `{name}`")
        return self._sizes[name]

    def tensor(self, name: str) -> np.ndarray:
        """A read-only view on the file, without padding.

        Documents: uint8 [length]. `embed`, `embed.scale`, `position`, norms and biases: their logical shape (bf16 as
        uint16 bits).
        Weights, scales, minima and zero points: flat, in layout rl16 (u4 weights as uint8).
        """
        size = self.describe(name)
        data = self._file.raw(name)[: size.nbytes]
        kind = np.dtype(_NUMPY.get(size.dtype, "u1"))
        values = data.view(kind)
        return values.reshape(size.shape) if values.size == int(np.prod(size.shape)) and _plain(name) else values

    def document(self, name: str) -> bytes:
        """The bytes of tokenizer.json, config.json, generation_config.json or chat_template."""
        return self.tensor(name).tobytes()

    def address(self, name: str) -> int:
        """Memory address of a tensor's first byte, a multiple of 64; valid while this object lives."""
        self.describe(name)
        return int(self._file.raw(name).ctypes.data)

    def stored_bytes(self, name: str) -> int:
        """Bytes that may be read from address(name) (padding included)."""
        return self.describe(name).stored

    def verify(self) -> list[str]:
        """Hashes everything. Returns one line per damaged part; none: every byte is as it was written."""
        problems = self._header_problems()
        try:
            hashes = self._json("agq.sha256")
        except AgqError as error:
            return [*problems, f"header: {error.message}"]
        if not isinstance(hashes, dict) or set(hashes) != set(self._sizes):
            problems.append("header: the list of hashes does not fit the tensors")
            hashes = hashes if isinstance(hashes, dict) else {}
        for name in self._sizes:
            if hashlib.sha256(self._file.raw(name).data).hexdigest() != hashes.get(name):
                problems.append(f"tensor `{name}`: SHA-256 differs")
            self._file.release(name)
        return problems


def _plain(name: str) -> bool:
    """Stored row by row, not in panels."""
    if name == "embed.scale":
        return True
    return not name.endswith((".scale", ".zero", ".minimum")) and (not name.endswith(".weight") or "norm" in name)


def open_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Opens an artifact. Reads and checks the header only; contents are hashed by Artifact.verify().

    Raises:
        AgqError: missing, truncated or damaged, not an artifact, made by a newer agq.
    """
    return Artifact(path)
