"""Folders that other libraries wrote: every weight is, bit for bit, what the library itself reads back.

tests/checkpoint/foreign/ holds random LLaMAs of one block (README.md there says how they were made), with the SHA-256
of each weight matrix as the library computed it in float32 (FP8: in bfloat16, the model's type).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from agq.artifact.pack import pack
from agq.checkpoint import FolderCheckpoint, open_checkpoint, read_linear
from agq.safetensors.files import bf16_to_f32, f32_to_bf16
from tests.checkpoint.folders import TOKENIZER

FOLDERS = Path(__file__).parent / "foreign"
NAMES = sorted(path.name for path in FOLDERS.iterdir() if path.is_dir())
# Whose codes no kernel computes.
MADE_ANEW = {"gptqmodel-4-groups-of-16"}
# Whose library multiplies codes and scales in bfloat16.
IN_BF16 = {"llmcompressor-w3-asym", "llmcompressor-head"}


def exact(checkpoint: FolderCheckpoint, module: str) -> np.ndarray:
    """float32 [out, in]: what the stored numbers mean, whatever becomes of them."""
    quantization = checkpoint.quantization
    if quantization.scheme(module) is None:
        return checkpoint.read(f"{module}.weight")
    if module in quantization.rounded:
        return quantization.values(checkpoint._stored, module, slice(None))
    return read_linear(checkpoint, module).dequantize()


def test_there_are_some_of_every_library() -> None:
    assert {name.split("-")[0] for name in NAMES} == {"gptqmodel", "autoawq", "auto_round", "llmcompressor"}


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_is_the_library_s(name: str) -> None:
    checkpoint = open_checkpoint(FOLDERS / name)
    expected = json.loads((FOLDERS / name / "expected.json").read_text())
    modules = {linear.module for linear in checkpoint.parts.block_linears()}
    assert modules <= set(expected) <= modules | {checkpoint.parts.head}
    assert all(checkpoint.quantization.stores(module) for module in modules)
    assert set(checkpoint.quantization.rounded) == (modules if name in MADE_ANEW else set())
    for module, digest in expected.items():
        values = exact(checkpoint, module) + np.float32(0)  # no negative zeros
        values = bf16_to_f32(f32_to_bf16(values)).reshape(values.shape) if name in IN_BF16 else values
        assert hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest() == digest, module


@pytest.mark.parametrize("name", NAMES)
def test_packs_and_computes_what_the_weights_mean(name: str, tmp_path: Path) -> None:
    """The engine's logits of the packed folder, beside those of the same weights as floats in a plain folder."""
    from agq.runtime.engine import Engine
    from tests.checkpoint.folders import save_tensors

    folder = shutil.copytree(FOLDERS / name, tmp_path / "folder")
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    checkpoint = open_checkpoint(folder)
    plain = tmp_path / "plain"
    plain.mkdir()
    settings = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    (plain / "config.json").write_text(json.dumps(settings))
    (plain / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    weights = {linear.weight: exact(checkpoint, linear.module) for linear in checkpoint.parts.block_linears()}
    head = checkpoint.parts.head
    weights[f"{head}.weight"] = exact(checkpoint, head)
    weights |= {dense: checkpoint.read(dense) for dense in checkpoint.parts.dense_tensors()}
    save_tensors(plain / "model.safetensors", {key: ("F32", value) for key, value in weights.items()})
    logits = []
    for source, kind in ((folder, "packed"), (plain, "plain")):
        target = tmp_path / f"{kind}.agq.safetensors"
        coded = checkpoint.quantization.scheme(head) is not None
        pack(source, target, kv_bits=32, head_bits=None if coded and kind == "packed" else 32, embed_bits=32)
        with Engine(target, threads=1) as engine:
            logits.append(np.array(engine.forward(np.arange(5, 37), logits="all")))
    error = np.linalg.norm(logits[0] - logits[1]) / np.linalg.norm(logits[1])
    activations = {checkpoint.quantization.scheme(linear.module) for linear in checkpoint.parts.block_linears()}
    quantized = any(scheme is not None and scheme.activations.quantized for scheme in activations)
    assert error < (0.03 if quantized or name in MADE_ANEW else 1e-4)
