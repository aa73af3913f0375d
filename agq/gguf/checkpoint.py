"""A GGUF file as a checkpoint: its tensors under Hugging Face's names, codes and scales as they stand in the file."""

import hashlib
import math
from functools import cached_property
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from agq.checkpoint.base import Checkpoint
from agq.checkpoint.record import AgqRecord
from agq.checkpoint.rounding import RoundedTensors
from agq.checkpoint.source import Scales
from agq.checkpoint.static import StaticRecord
from agq.errors import AgqError
from agq.files import sha256_file
from agq.formats import PerGroup, integer_format
from agq.formats.activations import WIDE
from agq.formats.weights import BY_STORED, BYTE_CODES
from agq.gguf.finite import not_finite
from agq.gguf.forms import FLOAT, Form, settle
from agq.gguf.metadata import architecture, to_config
from agq.gguf.names import Names, row_orders
from agq.gguf.quantization import GgufQuantization, quantization
from agq.gguf.reader import GgufFile, Tensor
from agq.gguf.texts import DAMAGED, folder_texts
from agq.gguf.types import BLOCKS, FLOATS, GROUP
from agq.gguf.values import Metadata
from agq.models import parts, spec_from_config
from agq.models.folding import fold_names
from agq.recipe import ActivationScheme

# Of the inputs of linears, unless the user says otherwise: as llama.cpp quantizes them for its products.
ACTIVATIONS = ActivationScheme(WIDE.bits, True, PerGroup(GROUP))
# Tensors that this module reads otherwise than by a name of Hugging Face's, or that mean nothing without training.
_OTHERS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")

# Values of a row that the package dequantizes: 16 of them stay in a core's cache.
_ROW = 4096


class GgufCheckpoint(Checkpoint):
    """An opened GGUF file, or all its parts.

    Args:
        activations: of the inputs of linears that are codes.
        floats: everything is read as floats: what quantizing starts from.

    Raises:
        AgqError: not a GGUF file, damaged, an architecture that agq does not compute, missing tensors.
    """

    def __init__(self, path: Path, activations: ActivationScheme = ACTIVATIONS, floats: bool = False):
        self.path = path
        self._file = GgufFile(path)
        metadata = Metadata(self._file)
        self._architecture = architecture(metadata)
        self.config = to_config(metadata, self._vocabulary())
        self.spec = spec_from_config(self.config, f"`{path}`")
        self.parts = parts(self.spec)
        self.record, self.agq, self.statics = AgqRecord(), {}, StaticRecord()
        self._orders = row_orders(self.parts, self._architecture)
        self._tensors = self._locate(Names(metadata.architecture, self.parts))
        modules = [linear.module for linear in self.parts.all_linears()]
        self._types = {module: self._located(f"{module}.weight").type for module in modules}
        self._forms = {} if floats else settle(self.parts, self._types)
        if not floats and not self.spec.tied and self._table_of_codes():
            self._forms[self.parts.embed] = Form(True, BYTE_CODES.bits)
        self._quantization = quantization(self._forms, activations, self._file)
        if floats:
            self.rounded = ", ".join(dict.fromkeys(type for type in self._types.values() if type not in FLOATS))
        self._settle_widths()
        self._rounded = RoundedTensors(self.read_rows, f"`{path}`", DAMAGED)
        self._tokenizer_notes: list[str] = []

    def _vocabulary(self) -> int:
        table = self._file.tensors.get("token_embd.weight")
        if table is None or len(table.shape) != 2:
            raise AgqError(f"`{self.path}` holds no model: there is no `token_embd.weight`")
        return table.shape[0]

    def _locate(self, names: Names) -> dict[str, Tensor]:
        """Canonical name -> tensor of everything that the model needs."""
        expected = self.parts.dense_tensors()
        for linear in self.parts.all_linears():
            if linear.role != "head" or not self.spec.tied:
                expected[linear.weight] = (linear.out_features, linear.in_features)
            if linear.bias:
                expected[f"{linear.module}.bias"] = (linear.out_features,)
        found, missing, wrong = {}, [], []
        for name, shape in expected.items():
            stored = names.stored(name)
            tensor = self._file.tensors.get(stored or "")
            if tensor is None:
                missing.append(stored or name)
            elif tensor.shape != shape:
                wrong.append(f"`{stored}` is of shape {list(tensor.shape)}, not {list(shape)}")
            else:
                found[name] = tensor
        if missing:
            raise AgqError(
                f"`{self.path}` lacks {len(missing)} tensors: {fold_names(missing, most=12)}",
                hint="the download is incomplete, or the file is of a newer kind",
            )
        if wrong:
            raise AgqError(f"`{self.path}` does not fit its metadata: {'; '.join(wrong[:4])}")
        known = {tensor.name for tensor in found.values()} | set(_OTHERS)
        self._left_out = [name for name in self._file.tensors if name not in known]
        if needed := [name for name in self._left_out if names.computed(name)]:
            raise AgqError(
                f"`{self.path}` stores tensors that agq does not compute with: {fold_names(needed, most=12)}",
                hint="without them the model would be another one",
            )
        return found

    def _table_of_codes(self) -> bool:
        """Whether the embedding, which is not the head, can be packed as codes with scales: the engine has no minima
        and no negative scales there."""
        tensor = self._located(f"{self.parts.embed}.weight")
        row = BLOCKS.get(tensor.type)
        if row is None or row.minimum or tensor.shape[1] % GROUP:
            return False
        scale, _ = row.scales(np.ascontiguousarray(tensor.data).reshape(-1, row.bytes))
        return bool((scale >= 0).all())

    def _settle_widths(self) -> None:
        """A head and an embedding of floats stay so; an embedding of codes that is not the head becomes float32."""
        if self._quantization is not None:
            self.record = AgqRecord(head_bits=self._width(self.parts.head), embed_bits=self._width(self.parts.embed))

    def _width(self, module: str) -> int | None:
        """Bits of a matrix of floats; None: of codes."""
        if self._forms.get(module, FLOAT) != FLOAT:
            return None
        return BY_STORED[self.dtype(f"{module}.weight")].bits

    @property
    def quantization(self) -> GgufQuantization | None:
        return self._quantization

    # ---- tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def has(self, name: str) -> bool:
        return self._resolve(name) is not None

    def _resolve(self, name: str) -> Tensor | None:
        if name == f"{self.parts.head}.weight" and self.spec.tied:
            name = f"{self.parts.embed}.weight"
        return self._tensors.get(name)

    def _located(self, name: str) -> Tensor:
        found = self._resolve(name)
        if found is None:
            raise AgqError(f"`{self.path}` has no tensor `{name}`")
        return found

    def dtype(self, name: str) -> str:
        return FLOATS.get(self._located(name).type, "F32")

    def shape(self, name: str) -> tuple[int, ...]:
        return self._located(name).shape

    def read_raw(self, name: str) -> tuple[str, np.ndarray]:
        tensor = self._located(name)
        if tensor.type == "BF16":
            return "BF16", self._sorted(name, tensor.data.view("<u2"), slice(None))
        if tensor.type in FLOATS and not self._gain(name):
            return tensor.type, self._sorted(name, tensor.data, slice(None))
        return "F32", self.read_rows(name, slice(None))

    def read_rows(self, name: str, rows: slice | np.ndarray) -> np.ndarray:
        tensor = self._located(name)
        data = self._sorted(name, tensor.data, rows)
        try:
            with np.errstate(all="ignore"):  # values that are not finite are told where they matter
                values = _floats(data, tensor)
        except NotImplementedError as error:
            raise AgqError(
                f"`{self.path}`: tensor `{tensor.name}` has type {tensor.type}, which cannot be read"
            ) from error
        values = values.reshape(len(data), -1) if data.ndim > 1 else values.reshape(-1)
        return values - np.float32(1) if self._gain(name) else values

    def _gain(self, name: str) -> bool:
        """Whether the file has a norm's gain, which is 1 + its weight."""
        return self._architecture.add_one and name.endswith("norm.weight")

    def _sorted(self, name: str, data: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
        """Rows in Hugging Face's order."""
        order = self._orders.get(name.rsplit(".", 1)[0])
        return data[rows if order is None else order[rows]]

    def release(self, name: str) -> None:
        """The file is mapped by numpy; the system drops its pages as it needs them."""

    # ---- codes

    def _form(self, module: str) -> tuple[Tensor, Form]:
        form = self._forms.get(module, FLOAT)
        if not form.bits:
            raise AgqError(f"`{module}` is not a quantized linear of `{self.path}`")
        return self._located(f"{module}.weight"), form

    def codes(self, module: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        tensor, form = self._form(module)
        if not form.exact:
            return self._as_bytes(module)[0][rows]
        row = BLOCKS[tensor.type]
        data = self._sorted(f"{module}.weight", tensor.data, rows)
        codes = row.codes(np.ascontiguousarray(data).reshape(-1, row.bytes)).reshape(len(data), -1)
        if form.minimum and (offset := integer_format(form.bits).offset):
            codes = codes - np.uint8(offset)  # signed, as such codes are everywhere but in packed files
        return codes.view(np.int8)

    def scales(self, module: str) -> Scales:
        tensor, form = self._form(module)
        if not form.exact:
            scale, minimum = self._as_bytes(module)[1], None
        else:
            row = BLOCKS[tensor.type]
            data = self._sorted(f"{module}.weight", tensor.data, slice(None))
            scale, minimum = row.scales(np.ascontiguousarray(data).reshape(-1, row.bytes))
            scale = scale.reshape(len(data), -1)
        if form.minimum:
            minimum = np.zeros_like(scale) if minimum is None else minimum.reshape(scale.shape)
        for what, values in (("scales", scale), ("minima", minimum)):
            if values is not None and not np.isfinite(values).all():
                raise AgqError(f"`{self.path}`: {what} of tensor `{tensor.name}` are not finite", hint=DAMAGED)
        return Scales(scale, None, minimum)

    def _as_bytes(self, module: str) -> tuple[np.ndarray, np.ndarray]:
        """(codes, scales) of 8 bits for each 32 columns of a linear whose own codes the kernels do not compute."""
        name = f"{module}.weight"
        return self._rounded.get(name, self.shape(name)[0])

    # ---- the model as a whole

    def not_finite(self) -> dict[str, tuple[int, int]]:
        return {
            tensor.name: (not_finite(tensor), int(np.prod(tensor.shape, dtype=np.int64)))
            for tensor in self._tensors.values()
        }

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self._file.files:
            digest.update(sha256_file(path).encode())
        return digest.hexdigest()

    def weight_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._file.files)

    def files(self) -> list[Path]:
        return list(self._file.files)

    @cached_property
    def _texts(self) -> dict[str, bytes]:
        texts, self._tokenizer_notes = folder_texts(self._file, self.config, self.path)
        return texts

    def texts(self) -> list[str]:
        return [name for name in self._texts if name != "config.json"]

    def text(self, name: str) -> bytes | None:
        return self._texts.get(name)

    def notes(self) -> list[str]:
        found = [*self._tokenizer_notes]
        for type in dict.fromkeys(self._types.values()):
            count, error = self._rounded.loss(f"{module}.weight" for module, one in self._types.items() if one == type)
            if error:
                tensors = f"{count} tensor{'s' if count > 1 else ''}"
                found.append(f"{type} of {tensors} is stored in 8 bits: relative error {100 * error:.2g} %")
        if self._left_out:
            found.append(f"left out, as the model does not use them: {fold_names(self._left_out)}")
        return found


def _floats(data: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Rows of a tensor as a new float32 array, of some shape."""
    if row := BLOCKS.get(tensor.type):
        return row.values(np.asarray(data).reshape(-1, row.bytes))
    return np.array(dequantize(_longer_rows(data, tensor.kind), tensor.kind), dtype=np.float32)


def _longer_rows(data: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """The same blocks in fewer rows: the package computes 16 at a time, and short ones take mostly Python's time."""
    if data.dtype != np.uint8:
        return data
    values, size = GGML_QUANT_SIZES[kind]
    blocks = np.asarray(data).reshape(-1, size)
    return blocks.reshape(-1, size * math.gcd(len(blocks), max(1, _ROW // values)))
