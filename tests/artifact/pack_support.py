"""What a packed file must hold, computed from the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from agq.artifact import Artifact, layout
from agq.checkpoint import Checkpoint, read_linear
from agq.safetensors.files import bf16_to_f32


def unpacked(artifact: Artifact, name: str) -> np.ndarray:
    """Dequantized weight float32 [out, in] of an artifact's linear, by the definition of docs/artifact.md."""
    info = artifact.linears[name]
    data = artifact.tensor(f"{name}.weight")
    if not info.quantized:
        values = layout.unpack_rows(data, info.out, info.inputs)
        return bf16_to_f32(values) if info.dtype == "bf16" else values.astype(np.float32)
    codes = (layout.unpack_u4 if info.dtype == "u4" else layout.unpack_i8)(data, info.out, info.inputs)
    scale = layout.unpack_rows(artifact.tensor(f"{name}.scale"), info.out, info.groups)
    scale = bf16_to_f32(scale) if info.scale_dtype == "bf16" else scale
    zero = np.float32(8 if info.dtype == "u4" else 0)
    if info.asym:
        zero = layout.unpack_rows(artifact.tensor(f"{name}.zero"), info.out, info.groups).astype(np.float32)[:, :, None]
    blocks = codes.astype(np.float32).reshape(info.out, info.groups, -1)
    return ((blocks - zero) * scale[:, :, None]).reshape(info.out, info.inputs)


def expected(checkpoint: Checkpoint, module: str) -> np.ndarray:
    if checkpoint.quantization and checkpoint.quantization.scheme(module):
        return read_linear(checkpoint, module).dequantize()
    return checkpoint.read(f"{module}.weight")


def fused(checkpoint: Checkpoint, index: int, role: str, leaf: str) -> np.ndarray:
    """What the rows of qkv, out, up or down must be."""
    linears = checkpoint.parts.block(index).linears
    roles = {"qkv": ("q", "k", "v"), "out": ("o",), "up": ("gate", "up"), "down": ("down",)}[role]
    names = ["qkv"] if "qkv" in linears and role == "qkv" else [item for item in roles if item in linears]
    parts = [
        expected(checkpoint, linears[item].module)
        if leaf == "weight"
        else checkpoint.read(f"{linears[item].module}.bias")
        for item in names
    ]
    values = np.concatenate(parts)
    if names == ["qkv"]:
        spec = checkpoint.spec
        grouped = values.reshape(spec.heads, 3, spec.head_dim, *values.shape[1:])
        values = np.concatenate([grouped[:, part].reshape(spec.hidden, *values.shape[1:]) for part in range(3)])
    return values


def assert_blocks_equal(artifact: Artifact, checkpoint: Checkpoint, tolerance: float = 0.0) -> None:
    for index in range(checkpoint.spec.layers):
        for role in ("qkv", "out", "up", "down"):
            name = f"blocks.{index}.{role}"
            want = fused(checkpoint, index, role, "weight")
            assert np.abs(unpacked(artifact, name) - want).max() <= tolerance * np.abs(want).max()
            if artifact.linears[name].bias:
                assert np.array_equal(artifact.tensor(f"{name}.bias"), fused(checkpoint, index, role, "bias"))
            else:
                assert checkpoint.spec.family == "llama" and not artifact.has(f"{name}.bias")


def edit(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"].update(changes)
    (folder / "config.json").write_text(json.dumps(settings))
