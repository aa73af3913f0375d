"""FP8 weights (E4M3) with scales beside them, read as floats of the model's own type.

`weight` F8_E4M3 [out, in], and a scale for everything, for each row, or for each block of rows and columns: value =
weight * scale. Of folders whose `quant_method` is fp8 (DeepSeek, Qwen; transformers' FineGrainedFP8Config) the scales
are `weight_scale_inv`, of compressed-tensors and fbgemm_fp8 ones `weight_scale`. Activations, which those quantize to
FP8 too, stay floats here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agq.checkpoint.module_scheme import Stored
from agq.checkpoint.readers.reader import DAMAGED, FolderQuantization, Rows, linear_of
from agq.checkpoint.source import Scales, TensorSource
from agq.errors import AgqError
from agq.formats.weights import BY_STORED
from agq.models import Linear
from agq.safetensors.fp8 import decode_e4m3

STORED = "F8_E4M3"
FLOATS = tuple(BY_STORED)
# What config.json calls the type that a model computes in.
_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_SCALES = ("weight_scale_inv", "weight_scale")
NOTE = (
    "FP8 linears are stored as floats of the model's type, value times scale rounded once; "
    "their inputs are floats, not FP8"
)


@dataclass(frozen=True)
class Fp8Form:
    """rows, columns: that share a scale; 0: all. scale: the tensor's name."""

    rows: int
    columns: int
    scale: str = "weight_scale"

    @property
    def words(self) -> str:
        """For people."""
        if not self.rows:
            return "stored as FP8, one scale"
        return f"stored as FP8, a scale for each {f'{self.rows} x {self.columns}' if self.columns else 'row'}"

    def shape(self, linear: Linear) -> tuple[int, int]:
        """Of the scales, as a matrix."""
        rows, columns = linear.out_features, linear.in_features
        return -(-rows // (self.rows or rows)), -(-columns // (self.columns or columns))

    def tensors(self, linear: Linear) -> dict[str, Stored]:
        """As FolderQuantization.tensors."""
        shapes: tuple[tuple[int, ...], ...] = (self.shape(linear),)
        if not self.columns:
            shapes += ((linear.out_features,),) if self.rows else ((1,), ())
        return {
            f"{linear.module}.weight": ((STORED,), ((linear.out_features, linear.in_features),)),
            f"{linear.module}.{self.scale}": (FLOATS, shapes),
        }

    def values(self, source: TensorSource, linear: Linear, rows: Rows) -> np.ndarray:
        """float32 [rows, in]. Raises AgqError for scales that are not finite."""
        name = f"{linear.module}.{self.scale}"
        scale = source.read(name).reshape(self.shape(linear))
        if not np.isfinite(scale).all():
            raise AgqError(f"`{name}` holds values that are not finite", hint=DAMAGED)
        values = decode_e4m3(source.read_raw(f"{linear.module}.weight")[1][rows])
        share = min(self.rows or linear.out_features, linear.out_features)
        of_row = scale[np.arange(linear.out_features)[rows] // share]
        width = min(self.columns, linear.in_features)
        values *= np.repeat(of_row, width, axis=1)[:, : linear.in_features] if width else of_row
        return values


def float_type(config: Mapping[str, Any]) -> str:
    """safetensors dtype of the type that a model of this config.json computes in."""
    return _TYPES.get(str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."), "BF16")


class Fp8Quantization(FolderQuantization):
    """Folders whose quantized linears are all FP8. type: safetensors dtype of their values."""

    def __init__(self, table: dict[str, Any], forms: Mapping[str, Fp8Form], type: str):
        super().__init__(table, {}, decoded={module: form.words for module, form in forms.items()})
        self._forms = dict(forms)
        self._type = type

    def tensors(self, linear: Linear) -> dict[str, Stored]:
        return self._forms[linear.module].tensors(linear)

    def beside(self, linear: Linear) -> set[str]:
        return {f"{linear.module}.{leaf}" for leaf in ("input_scale", "activation_scale", "input_scale_ub")}

    def stored_codes(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        raise AgqError(f"`{module}` is stored in FP8: it has no integer codes")

    def stored_scales(self, source: TensorSource, module: str) -> Scales:
        raise AgqError(f"`{module}` is stored in FP8: it has no integer codes")

    def values(self, source: TensorSource, module: str, rows: Rows) -> np.ndarray:
        return self._forms[module].values(source, linear_of(source, module), rows)

    def float_type(self) -> str:
        return self._type

    def notes(self) -> list[str]:
        return [NOTE] if self._forms else []


def read_fp8(
    table: dict[str, Any], linears: list[Linear], source: TensorSource, where: str, config: Mapping[str, Any]
) -> Fp8Quantization:
    """Reader of a folder whose `quant_method` is fp8 or fbgemm_fp8. config: config.json."""
    block = table.get("weight_block_size")
    if block is not None and not (
        isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block)
    ):
        raise AgqError(f"{where}: `weight_block_size` is {block!r}, not two numbers")
    forms = {}
    for linear in linears:
        name = f"{linear.module}.weight"
        if not source.has(name) or source.read_raw(name)[0] != STORED:
            continue
        leaf = next((leaf for leaf in _SCALES if source.has(f"{linear.module}.{leaf}")), "")
        if not leaf:
            raise AgqError(f"{where}: `{name}` is FP8 and has no scales", hint=DAMAGED)
        one = np.prod(source.shape(f"{linear.module}.{leaf}"), dtype=np.int64) == 1
        rows, columns = (0, 0) if one else tuple(block or (1, 0))
        forms[linear.module] = Fp8Form(rows, columns, leaf)
    return Fp8Quantization(table, forms, float_type(config))
