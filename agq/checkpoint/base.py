"""A model as its users read it, whatever it is stored as: a folder (folder.py), or a GGUF file (agq/gguf/)."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from agq.checkpoint.compressed_tensors import Quantization
from agq.checkpoint.finite import refuse_not_finite
from agq.checkpoint.record import AgqRecord
from agq.checkpoint.source import Scales
from agq.checkpoint.static import StaticRecord
from agq.errors import AgqError
from agq.formats.cache import DEFAULT_TABLE, TABLES
from agq.models import ModelParts, ModelSpec
from agq.safetensors.files import bf16_to_f32


class Checkpoint(ABC):
    """An opened model. Names of modules and tensors are canonical ones (ModelParts), however it is stored.

    Attributes:
        path: the folder or file. config: config.json, or what stands for it. spec, parts: what the model is.
        quantization: None where all linears are floats.
        record: the validated agq.json (defaults where there is none). agq: agq.json as a dict ({} without one).
        statics: quantizers of static activations (empty where there are none).
        head_matrix: by which the embedding serves as output head, too, float32 [hidden, hidden] (head_matrix.py); None
            where there is no such matrix.
        rounded: types that weights which are read as floats have been rounded to before, in words; "" for none.
    """

    path: Path
    config: dict[str, Any]
    spec: ModelSpec
    parts: ModelParts
    record: AgqRecord
    agq: dict[str, Any]
    statics: StaticRecord
    head_matrix: np.ndarray | None = None
    rounded: str = ""

    @property
    @abstractmethod
    def quantization(self) -> Quantization | None:
        """Which linears are codes."""

    # ---- tensors

    @abstractmethod
    def names(self) -> list[str]:
        """Canonical names of all stored tensors."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether `name` can be read (the head of a tied model can)."""

    @abstractmethod
    def dtype(self, name: str) -> str:
        """safetensors dtype, e.g. "BF16", of a tensor as `read_raw` gives it."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""

    @abstractmethod
    def read_raw(self, name: str) -> tuple[str, np.ndarray]:
        """(dtype, elements as a read-only array; uint16 bits for BF16)."""

    @abstractmethod
    def codes(self, module: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Signed codes int8 [rows, in] of a quantized linear; `rows`: a slice or indices of output rows."""

    @abstractmethod
    def scales(self, module: str) -> Scales:
        """Scales of a quantized linear. Raises AgqError for values that are not finite."""

    @abstractmethod
    def release(self, name: str) -> None:
        """The tensor's pages may leave memory."""

    def read(self, name: str) -> np.ndarray:
        """A float tensor as a new float32 array of its shape."""
        values = self.read_rows(name, slice(None))
        self.release(name)
        return values

    def read_rows(self, name: str, rows: slice | np.ndarray) -> np.ndarray:
        """Rows (a slice or an index array of the first dimension) of a float tensor as a new float32 array."""
        dtype, raw = self.read_raw(name)
        raw = raw[rows] if raw.ndim else raw
        if dtype == "BF16":
            return bf16_to_f32(raw)
        if dtype in ("F32", "F16"):
            return np.array(raw, dtype=np.float32)
        raise AgqError(f"`{self.path}`: tensor `{name}` is {dtype}, not a float type that agq reads")

    # ---- the model as a whole

    @abstractmethod
    def fingerprint(self) -> str:
        """Hex SHA-256 of what the model is, not of where it lies."""

    @abstractmethod
    def weight_bytes(self) -> int:
        """Size of the weight files."""

    @abstractmethod
    def files(self) -> list[Path]:
        """All files that are read."""

    @abstractmethod
    def texts(self) -> list[str]:
        """Names of the tokenizer's and generation's files: those of Hugging Face folders."""

    @abstractmethod
    def text(self, name: str) -> bytes | None:
        """A file by its name in a Hugging Face folder, such as tokenizer.json or config.json; None: there is none."""

    @abstractmethod
    def not_finite(self) -> dict[str, tuple[int, int]]:
        """Of the tensors that the model needs, as the file names them: (how many values are NaN or infinite, how many
        there are). One pass through the files."""

    def check_finite(self) -> None:
        """Refuses (AgqError) weights that are NaN or infinite, by the names of their tensors."""
        refuse_not_finite(self.path, self.not_finite(), "download the model again")

    def notes(self) -> list[str]:
        """What users are told once the model is packed: what was left out, what was stored otherwise."""
        return []

    def float_dtype(self) -> str:
        """The float type that the source stores its embedding in ("F32", "F16" or "BF16")."""
        return self.dtype(f"{self.parts.embed}.weight")

    def tying(self, head_bits: int, embed_bits: int | None = None) -> np.ndarray | None:
        """The matrix of a packed form in which the embedding is the output head of `head_bits`, too: `head_matrix`,
        unless an embedding of another width is wanted (or agq.json says so)."""
        wanted = embed_bits or self.record.embed_bits
        return self.head_matrix if wanted in (None, head_bits) else None

    def embed_bits(self, head_bits: int, wanted: int | None = None) -> int | None:
        """Width of an embedding that is not tied to the output head of `head_bits`, in packed form: what is wanted,
        else what agq.json says, else 8 where the model is quantized and the head has 8 or 6. None: as it is stored."""
        wanted = wanted or self.record.embed_bits
        quantized = self.quantization is not None and bool(self.quantization.modules())
        coded = head_bits in TABLES and TABLES[head_bits].integer
        return DEFAULT_TABLE.bits if wanted is None and quantized and coded else wanted
