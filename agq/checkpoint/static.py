"""Static quantizers of a quantized folder: scale and zero point of a linear's input in agq.json, the arrays in
agq.safetensors.

agq.json: activations.MODULE.static is {"scale": s, "zero": z} beside the array `MODULE.act_exponent` (U8 [in], TRIP),
or {"channels": true} beside `MODULE.act_scale` (F32 [in], symmetric per channel). numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agq.checkpoint.attention_scales import AttentionScales, load_scales
from agq.errors import AgqError
from agq.formats import any_of
from agq.formats.activations import QUANTIZED
from agq.formats.limits import STATIC_SCALES
from agq.models import ModelParts
from agq.safetensors.files import SafetensorsFile

FILE = "agq.safetensors"


@dataclass(frozen=True, eq=False)
class StaticInput:
    """How the input of a linear is quantized statically.

    bits: 4 or 8. scale, zero, exponent (uint8 [in]): code = clip(rint(x / (scale 2^exponent)) + zero, 0, 2^bits - 1).
    channel_scale (float32 [in]), where it is not None, instead of these: symmetric codes -2^(bits-1) .. 2^(bits-1)-1 in
    steps of it.
    """

    bits: int
    scale: float = 1.0
    zero: int = 0
    exponent: np.ndarray | None = None
    channel_scale: np.ndarray | None = None

    @property
    def shifts(self) -> np.ndarray:
        """`exponent`. Raises ValueError where the channels have scales instead."""
        if self.exponent is None:
            raise ValueError("a static quantizer with a scale per channel has no exponents")
        return self.exponent

    def same(self, other: StaticInput | None) -> bool:
        """Equal in every number."""
        return (
            other is not None
            and (self.bits, self.scale, self.zero) == (other.bits, other.scale, other.zero)
            and _equal(self.exponent, other.exponent)
            and _equal(self.channel_scale, other.channel_scale)
        )

    def entry(self) -> dict[str, Any]:
        """The `static` object of agq.json."""
        return {"channels": True} if self.channel_scale is not None else {"scale": self.scale, "zero": self.zero}

    def arrays(self, module: str) -> dict[str, np.ndarray]:
        """Its arrays in agq.safetensors."""
        if self.channel_scale is not None:
            return {f"{module}.act_scale": self.channel_scale}
        return {f"{module}.act_exponent": self.shifts}


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))


@dataclass(frozen=True)
class StaticRecord:
    """All static quantizers of a folder. inputs: by module; attention: of every block, or None; heads: code-compat's
    scales of q, k, v before rotary positions, `blocks.I.q_head_scale` and so on, float32 [heads], or None."""

    inputs: Mapping[str, StaticInput] = field(default_factory=dict)
    attention: list[AttentionScales] | None = None
    heads: list[dict[str, np.ndarray]] | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that agq.safetensors holds."""
        named: dict[str, np.ndarray] = {}
        for module, item in self.inputs.items():
            named.update(item.arrays(module))
        for index, scales in enumerate(self.attention or ()):
            named.update(scales.arrays(index))
        for index, heads in enumerate(self.heads or ()):
            named.update({f"blocks.{index}.{name}_head_scale": value for name, value in heads.items()})
        return named


def read_statics(folder: Path, values: Mapping[str, Any], parts: ModelParts) -> StaticRecord:
    """The static quantizers of a folder whose agq.json is `values`; an empty record where there are none.

    Raises AgqError for numbers that no engine computes, and for missing or misshapen arrays.
    """
    table = values.get("activations") or {}
    named = {module: item for module, item in table.items() if isinstance(item, dict) and "static" in item}
    if not named:
        return StaticRecord()
    path = folder / FILE
    if not path.is_file():
        raise AgqError(f"`{folder}` lacks `{FILE}`, which its static activations need", hint="copy the whole folder")
    file = SafetensorsFile(path)
    arrays = {name: np.array(file.raw(name)) for name in file.tensors}
    inputs = {}
    for module, item in named.items():
        linear = parts.linear(module)
        if linear is None:
            raise AgqError(f"`{folder / 'agq.json'}`: the model has no linear `{module}`")
        inputs[module] = _input(item, module, linear.in_features, arrays, f"`{folder / 'agq.json'}`: {module}")
    heads = [
        {
            name: arrays[f"blocks.{index}.{name}_head_scale"]
            for name in "qkv"
            if f"blocks.{index}.{name}_head_scale" in arrays
        }
        for index in range(parts.spec.layers)
    ]
    return StaticRecord(inputs, load_scales(arrays, parts.spec.layers), heads if all(heads) else None)


def _input(item: dict[str, Any], module: str, columns: int, arrays: dict[str, np.ndarray], where: str) -> StaticInput:
    static, bits = item["static"], item["bits"]
    if bits not in QUANTIZED or not isinstance(static, dict):
        raise AgqError(f"{where}: `static` is not a static quantizer of {any_of(QUANTIZED)} bits")
    if static == {"channels": True}:
        steps = _array(arrays, f"{module}.act_scale", columns, np.float32)
        if not (np.isfinite(steps).all() and (steps > 0).all()):
            raise AgqError(f"`{FILE}`: `{module}.act_scale` holds values that are not positive and finite")
        return StaticInput(bits, channel_scale=steps)
    scale, zero = static.get("scale"), static.get("zero")
    if set(static) != {"scale", "zero"} or type(zero) is not int or not 0 <= zero < 1 << bits:
        raise AgqError(f"{where}: `static` has no scale and zero point of {bits} bits")
    least, most = STATIC_SCALES
    if type(scale) is not float or not least <= scale <= most or float(np.float32(scale)) != scale:
        raise AgqError(f"{where}: a static scale of {scale!r} is not available")
    return StaticInput(bits, scale, zero, _array(arrays, f"{module}.act_exponent", columns, np.uint8))


def _array(arrays: dict[str, np.ndarray], name: str, columns: int, dtype: type) -> np.ndarray:
    found = arrays.get(name)
    if found is None or found.shape != (columns,) or found.dtype != dtype:
        raise AgqError(
            f"`{FILE}`: `{name}` is missing or not {np.dtype(dtype).name} [{columns}]", hint="quantize the model again"
        )
    return found
