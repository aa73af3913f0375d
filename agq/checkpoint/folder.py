"""A Hugging Face model folder, read tensor by tensor."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agq.checkpoint.base import Checkpoint, Scales
from agq.checkpoint.compressed_tensors import CompressedTensors, read_codes, read_scales
from agq.checkpoint.finite import count_not_finite
from agq.checkpoint.head_matrix import read_head_matrix
from agq.checkpoint.module_scheme import Stored
from agq.checkpoint.record import AgqRecord
from agq.checkpoint.static import FILE as STATIC_FILE
from agq.checkpoint.static import read_statics
from agq.checkpoint.weight_files import INDEX, read_bytes, shard_paths
from agq.errors import AgqError
from agq.files import sha256_file
from agq.formats.weights import BY_STORED
from agq.kinds import kind_of_file
from agq.models import parts, spec_from_config, text_part
from agq.models.folding import fold_names
from agq.reporting import console
from agq.safetensors.files import SafetensorsFile, load_json

FLOATS = tuple(BY_STORED)
# What belongs to the tokenizer and to generation; copied along when a folder is rewritten.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
_BUFFERS = (".inv_freq", ".masked_bias", ".attn.bias")
_WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


class FolderCheckpoint(Checkpoint):
    """An opened folder. Names are canonical (with the base prefix), whichever way the folder stores them. `config`: of
    a model of several kinds of input its text part's."""

    def __init__(self, folder: Path):
        self.path = folder
        where = f"`{folder / 'config.json'}`"
        self.config = text_part(load_json(read_bytes(folder / "config.json"), where))
        self.spec = spec_from_config(self.config, where)
        self.parts = parts(self.spec)
        self._files: list[SafetensorsFile] = []
        self._where: dict[str, tuple[SafetensorsFile, str]] = {}
        self._fingerprint: str | None = None
        self._open_shards()
        self._settle_tying()
        linears = list(self.parts.all_linears())
        self._quantization = CompressedTensors.from_config(self.config, linears, where)
        self.record = AgqRecord.read(folder, {linear.module for linear in linears})
        self.agq: dict[str, Any] = self.record.values
        if self.spec.embed_norm and not self.record.embed_norm:
            self.spec = replace(self.spec, embed_norm=False)
            self.parts = parts(self.spec)
        self.statics = read_statics(folder, self.record.values, self.parts)
        self.head_matrix = read_head_matrix(folder, self.record.values, self.spec)
        self._check_tensors()
        self._say_left_out()

    @property
    def quantization(self) -> CompressedTensors | None:
        """config.json's `quantization_config`."""
        return self._quantization

    # ---- opening

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
            self._files.append(file)
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

    def _settle_tying(self) -> None:
        """As transformers 5: a tied model that stores two different matrices is not tied; one serves for both."""
        embed, head = f"{self.parts.embed}.weight", f"{self.parts.head}.weight"
        if not self.spec.tied or head not in self._where:
            return
        if embed not in self._where:
            self._where[embed] = self._where.pop(head)
            return
        (embed_file, embed_name), (head_file, head_name) = self._where[embed], self._where[head]
        same = embed_file.tensors[embed_name].dtype == head_file.tensors[head_name].dtype
        if not same or not np.array_equal(embed_file.raw(embed_name), head_file.raw(head_name)):
            self.spec = replace(self.spec, tied=False)
            self.parts = parts(self.spec)

    def _expected(self) -> dict[str, Stored]:
        """Name -> (allowed dtypes, allowed shapes) of every tensor that the model needs."""
        expected: dict[str, Stored] = {name: (FLOATS, (shape,)) for name, shape in self.parts.dense_tensors().items()}
        for linear in self.parts.all_linears():
            if linear.role == "head" and self.spec.tied:
                continue
            scheme = self.quantization.scheme(linear.module) if self.quantization else None
            if scheme is None:
                expected[linear.weight] = (FLOATS, ((linear.out_features, linear.in_features),))
            else:
                expected.update(scheme.tensors(linear, FLOATS))
            if linear.bias:
                expected[f"{linear.module}.bias"] = (FLOATS, ((linear.out_features,),))
        return expected

    def unneeded(self) -> list[str]:
        """Stored tensors that the model does not have. RoPE's and masks' buffers of old checkpoints mean nothing."""
        needed = set(self._expected())
        for module in self._quantization.modules() if self._quantization is not None else ():
            needed |= {f"{module}.weight_shape", f"{module}.weight_zero_point"}
        if self.spec.tied:
            needed.add(f"{self.parts.head}.weight")
        names = (name for name in self._where if not name.startswith(self.parts.left_out))
        return [name for name in names if name not in needed and not name.endswith(_BUFFERS)]

    def unread_files(self) -> list[str]:
        """Files of weights that the folder has beside those that are read."""
        read = {file.path.name for file in self._files}
        found = (path.name for path in self.path.iterdir() if path.suffix in _WEIGHT_FILES and path.is_file())
        return sorted(name for name in found if name not in read and name != STATIC_FILE)

    def _say_left_out(self) -> None:
        tensors, files = self.unneeded(), self.unread_files()
        if any(name.startswith(self.parts.left_out) for name in self._where):
            console.warning(f"only the text part of `{self.path}` is read: its other parts (vision) are left out")
        if tensors:
            console.warning(
                f"`{self.path}` stores tensors that the model does not have, left out: {fold_names(sorted(tensors))}"
            )
        if files:
            console.warning(f"`{self.path}` holds further files of weights, not read: {fold_names(files)}")

    def _check_tensors(self) -> None:
        if self.quantization is not None:
            problems = self.quantization.problems(self.parts, self.spec.tied)
            if problems:
                raise AgqError(f"`{self.path}`: " + "; ".join(problems[:60]))
        expected = self._expected()
        missing = [name for name in expected if name not in self._where]
        if missing:
            hint = "the download is incomplete, or config.json belongs to another model"
            if self.quantization is None and any(f"{name}_packed" in self._where for name in missing):
                hint = "the weights are quantized but config.json has no `quantization_config`"
            raise AgqError(f"`{self.path}` lacks {len(missing)} tensors: {fold_names(missing, most=12)}", hint=hint)
        wrong: dict[str, list[str]] = {}
        for name, (dtypes, shapes) in expected.items():
            if self.dtype(name) not in dtypes:
                wrong.setdefault(f"{self.dtype(name)}, not {' or '.join(dtypes)}", []).append(name)
            elif self.shape(name) not in shapes:
                wrong.setdefault(f"of shape {list(self.shape(name))}, not {list(shapes[0])}", []).append(name)
        if wrong:
            listed = "; ".join(f"{fold_names(found)}: {what}" for what, found in wrong.items())
            raise AgqError(f"`{self.path}` does not fit its config.json: {listed}")
        if self.quantization is not None:
            self.quantization.check_stored(self)

    # ---- reading

    def names(self) -> list[str]:
        """Canonical names of all stored tensors."""
        return list(self._where)

    def has(self, name: str) -> bool:
        """Whether `name` can be read (the head of a tied model can)."""
        return self._resolve(name) is not None

    def _resolve(self, name: str) -> tuple[SafetensorsFile, str] | None:
        if name == f"{self.parts.head}.weight" and self.spec.tied:
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
        """(dtype, elements as a read-only view on the file; uint16 bits for BF16)."""
        file, stored = self._located(name)
        return file.tensors[stored].dtype, file.raw(stored)

    def codes(self, module: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Signed codes int8 [rows, in] of a quantized linear."""
        return read_codes(self, module, rows)

    def scales(self, module: str) -> Scales:
        """Scales and zero points of a quantized linear."""
        return Scales(*read_scales(self, module))

    def not_finite(self) -> dict[str, tuple[int, int]]:
        found = {}
        for name in self._expected():
            dtype, values = self.read_raw(name)
            found[name] = count_not_finite(dtype, values), values.size
            self.release(name)
        return found

    def release(self, name: str) -> None:
        """The tensor's pages may leave memory."""
        file, stored = self._located(name)
        file.release(stored)

    def fingerprint(self) -> str:
        """Hex SHA-256 over the hashes of config.json and the weight files: what the model is, not where it lies."""
        if self._fingerprint is None:
            digest = hashlib.sha256(sha256_file(self.path / "config.json").encode())
            for value in sorted(sha256_file(file.path) for file in self._files):
                digest.update(value.encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def weight_bytes(self) -> int:
        """Size of the weight files."""
        return sum(file.size for file in self._files)

    def files(self) -> list[Path]:
        """All files of the folder that are read."""
        others = [self.path / name for name in ("config.json", INDEX, "agq.json", STATIC_FILE)]
        shards = [file.path for file in self._files]
        return [*shards, *(path for path in others if path.is_file()), *self.tokenizer_files()]

    def tokenizer_files(self) -> list[Path]:
        """Tokenizer and generation files that the folder has."""
        return [self.path / name for name in TOKENIZER_FILES if (self.path / name).is_file()]

    def texts(self) -> list[str]:
        """Names of the tokenizer and generation files that the folder has."""
        return [path.name for path in self.tokenizer_files()]

    def text(self, name: str) -> bytes | None:
        """A file of the folder; None: there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AgqError(f"cannot read `{self.path / name}`: {error.strerror or error}") from error


def open_checkpoint(path: str | os.PathLike[str]) -> FolderCheckpoint:
    """Opens a model folder and checks that every tensor it needs is there with the right type and shape.

    Raises:
        AgqError: no such folder, no or invalid config.json, another family, weights in another format, damaged files,
            missing tensors, a quantization that agq does not read.
    """
    folder = Path(path)
    if not folder.exists():
        raise AgqError(f"model folder `{path}` does not exist", hint="check the path, or download the model first")
    if not folder.is_dir():
        kind = kind_of_file(folder)
        raise AgqError(f"`{path}` is {kind.name}, not a model folder", hint=kind.advice)
    if not (folder / "config.json").exists():
        raise AgqError(f"`{path}` has no config.json", hint="is this a Hugging Face model folder?")
    return FolderCheckpoint(folder)
