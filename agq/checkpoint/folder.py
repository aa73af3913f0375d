"""A Hugging Face model folder, read tensor by tensor."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agq.checkpoint.base import Checkpoint
from agq.checkpoint.finite import count_not_finite
from agq.checkpoint.head_matrix import read_head_matrix
from agq.checkpoint.module_scheme import Stored
from agq.checkpoint.readers.reader import FolderQuantization, linear_of
from agq.checkpoint.readers.registry import read_quantization
from agq.checkpoint.record import AgqRecord
from agq.checkpoint.source import Scales
from agq.checkpoint.static import FILE as STATIC_FILE
from agq.checkpoint.static import read_statics
from agq.checkpoint.stored import StoredTensors
from agq.checkpoint.weight_files import INDEX, read_bytes
from agq.errors import AgqError
from agq.files import sha256_file
from agq.formats.weights import BY_STORED
from agq.kinds import kind_of_file
from agq.models import Linear, ModelSpec, parts, spec_from_config, text_part
from agq.models.folding import fold_names
from agq.reporting import console
from agq.safetensors.files import bf16_to_f32, f32_to_bf16, load_json

FLOATS = tuple(BY_STORED)
NUMPY = {"F32": "<f4", "F16": "<f2"}
# What the codes of a linear are called, in place of `weight`.
_CODES = ("weight_packed", "qweight")
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
        self._fingerprint: str | None = None
        self._stored = StoredTensors(folder, self.parts)
        if self._stored.two_tables():  # as transformers 5: a tied model that stores two matrices is not tied
            self._become(replace(self.spec, tied=False))
        linears = list(self.parts.all_linears())
        self._quantization = read_quantization(self.config, linears, self._stored, where)
        self.record = AgqRecord.read(folder, {linear.module for linear in linears})
        self.agq: dict[str, Any] = self.record.values
        if self.spec.embed_norm and not self.record.embed_norm:
            self._become(replace(self.spec, embed_norm=False))
        self.statics = read_statics(folder, self.record.values, self.parts)
        self.head_matrix = read_head_matrix(folder, self.record.values, self.spec)
        self._check_tensors()
        self._say_left_out()

    @property
    def quantization(self) -> FolderQuantization | None:
        """config.json's `quantization_config`."""
        return self._quantization

    # ---- opening

    def _become(self, spec: ModelSpec) -> None:
        """What the stored tensors say of the model beyond config.json."""
        self.spec = spec
        self.parts = self._stored.parts = parts(spec)

    def _expected(self) -> dict[str, Stored]:
        """Name -> (allowed dtypes, allowed shapes) of every tensor that the model needs."""
        expected: dict[str, Stored] = {name: (FLOATS, (shape,)) for name, shape in self.parts.dense_tensors().items()}
        for linear in self.parts.all_linears():
            if linear.role == "head" and self.spec.tied:
                continue
            if self._quantization is None or not self._quantization.stores(linear.module):
                expected[linear.weight] = (FLOATS, ((linear.out_features, linear.in_features),))
            else:
                expected.update(self._quantization.tensors(linear))
            if linear.bias:
                expected[f"{linear.module}.bias"] = (FLOATS, ((linear.out_features,),))
        return expected

    def unneeded(self) -> list[str]:
        """Stored tensors that the model does not have. RoPE's and masks' buffers of old checkpoints mean nothing."""
        needed = set(self._expected())
        if self._quantization is not None:
            for linear in self.parts.all_linears():
                if self._quantization.stores(linear.module):
                    needed |= self._quantization.beside(linear)
        if self.spec.tied:
            needed.add(f"{self.parts.head}.weight")
        names = (name for name in self._stored.names() if not name.startswith(self.parts.left_out))
        return [name for name in names if name not in needed and not name.endswith(_BUFFERS)]

    def unread_files(self) -> list[str]:
        """Files of weights that the folder has beside those that are read."""
        read = {file.path.name for file in self._stored.files}
        found = (path.name for path in self.path.iterdir() if path.suffix in _WEIGHT_FILES and path.is_file())
        return sorted(name for name in found if name not in read and name != STATIC_FILE)

    def _say_left_out(self) -> None:
        tensors, files = self.unneeded(), self.unread_files()
        if any(name.startswith(self.parts.left_out) for name in self._stored.names()):
            console.warning(f"only the text part of `{self.path}` is read: its other parts (vision) are left out")
        if tensors:
            console.warning(
                f"`{self.path}` stores tensors that the model does not have, left out: {fold_names(sorted(tensors))}"
            )
        if files:
            console.warning(f"`{self.path}` holds further files of weights, not read: {fold_names(files)}")

    def _check_tensors(self) -> None:
        if self.quantization is not None:
            problems = self.quantization.problems(self.parts)
            if problems:
                raise AgqError(f"`{self.path}`: " + "; ".join(problems[:60]))
        expected = self._expected()
        missing = [name for name in expected if not self._stored.stored(name)]
        if missing:
            hint = "the download is incomplete, or config.json belongs to another model"
            if self.quantization is None and self._coded(missing):
                hint = "the weights are quantized but config.json has no `quantization_config`"
            raise AgqError(f"`{self.path}` lacks {len(missing)} tensors: {fold_names(missing, most=12)}", hint=hint)
        wrong: dict[str, list[str]] = {}
        for name, (dtypes, shapes) in expected.items():
            dtype, shape = self._stored.dtype(name), self._stored.shape(name)
            if dtype not in dtypes:
                wrong.setdefault(f"{dtype}, not {' or '.join(dtypes)}", []).append(name)
            elif shape not in shapes:
                wrong.setdefault(f"of shape {list(shape)}, not {list(shapes[0])}", []).append(name)
        if wrong:
            listed = "; ".join(f"{fold_names(found)}: {what}" for what, found in wrong.items())
            raise AgqError(f"`{self.path}` does not fit its config.json: {listed}")
        if self.quantization is not None:
            self.quantization.check_stored(self._stored)

    def _coded(self, weights: list[str]) -> bool:
        """Whether of some of these weights there are codes."""
        return any(self._stored.has(name.removesuffix("weight") + leaf) for name in weights for leaf in _CODES)

    # ---- reading

    def names(self) -> list[str]:
        return self._stored.names()

    def has(self, name: str) -> bool:
        return self._decoded(name) is not None or self._stored.has(name)

    def _decoded(self, name: str) -> str | None:
        """The linear whose weights are read as floats though they are stored otherwise, by the name of its weights."""
        module = name.removesuffix(".weight")
        decoded = self._quantization.decoded if self._quantization is not None else {}
        return module if module != name and module in decoded else None

    def dtype(self, name: str) -> str:
        return self._reader.float_type() if self._decoded(name) is not None else self._stored.dtype(name)

    def shape(self, name: str) -> tuple[int, ...]:
        if (module := self._decoded(name)) is not None:
            linear = linear_of(self._stored, module)
            return linear.out_features, linear.in_features
        return self._stored.shape(name)

    def read_raw(self, name: str) -> tuple[str, np.ndarray]:
        if self._decoded(name) is None:
            return self._stored.read_raw(name)
        dtype, values = self.dtype(name), self.read_rows(name, slice(None))
        return dtype, f32_to_bf16(values) if dtype == "BF16" else values.astype(NUMPY[dtype])

    def read_rows(self, name: str, rows: slice | np.ndarray) -> np.ndarray:
        module = self._decoded(name)
        if module is None:
            return super().read_rows(name, rows)
        return _rounded_to(self._reader.values(self._stored, module, rows), self.dtype(name))

    @property
    def _reader(self) -> FolderQuantization:
        if self._quantization is None:
            raise AgqError(f"`{self.path}` is not quantized")
        return self._quantization

    def codes(self, module: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        return self._reader.codes(self._stored, module, rows)

    def scales(self, module: str) -> Scales:
        return self._reader.scales(self._stored, module)

    def linear_bytes(self, linear: Linear) -> int:
        """Stored bytes of a linear's weights."""
        names = {linear.weight}
        if self._quantization is not None and self._quantization.stores(linear.module):
            names = set(self._quantization.tensors(linear))
        return sum(self._stored.read_raw(name)[1].nbytes for name in names if self._stored.has(name))

    def not_finite(self) -> dict[str, tuple[int, int]]:
        found = {}
        for name in self._expected():
            dtype, values = self._stored.read_raw(name)
            found[name] = count_not_finite(dtype, values), values.size
            self._stored.release(name)
        return found

    def notes(self) -> list[str]:
        return self._quantization.notes() if self._quantization is not None else []

    def release(self, name: str) -> None:
        if self._stored.has(name):
            self._stored.release(name)

    def fingerprint(self) -> str:
        """Hex SHA-256 over the hashes of config.json and the weight files: what the model is, not where it lies."""
        if self._fingerprint is None:
            digest = hashlib.sha256(sha256_file(self.path / "config.json").encode())
            for value in sorted(sha256_file(file.path) for file in self._stored.files):
                digest.update(value.encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def weight_bytes(self) -> int:
        """Size of the weight files."""
        return sum(file.size for file in self._stored.files)

    def files(self) -> list[Path]:
        """All files of the folder that are read."""
        others = [self.path / name for name in ("config.json", INDEX, "agq.json", STATIC_FILE)]
        shards = [file.path for file in self._stored.files]
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


def _rounded_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values as a stored float type would hold them."""
    if dtype == "BF16":
        return bf16_to_f32(f32_to_bf16(values)).reshape(values.shape)
    return values.astype(NUMPY[dtype]).astype(np.float32)


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
