"""Tiny model folders with random weights, plain and quantized, written without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from agq.checkpoint.packing import pack_int, pack_zero_points
from agq.models import Linear, parts, spec_from_config
from agq.safetensors.files import SafetensorsWriter, bf16_to_f32, f32_to_bf16

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 83,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
    },
    "opt": {
        "model_type": "opt",
        "hidden_size": 64,
        "ffn_dim": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 83,
        "max_position_embeddings": 40,
        "bos_token_id": 2,
        "eos_token_id": 2,
    },
    "bloom": {
        "model_type": "bloom",
        "hidden_size": 96,
        "n_layer": 2,
        "n_head": 3,
        "vocab_size": 83,
        "eos_token_id": 2,
    },
}

TOKENIZER = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}}


def config(family: str, **changes: Any) -> dict[str, Any]:
    """A tiny config.json of a family."""
    return {**CONFIGS[family], **changes}


def save_tensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """name -> (dtype, raw elements) into a safetensors file."""
    with open(path, "wb") as file:
        listing = [(name, dtype, values.shape) for name, (dtype, values) in tensors.items()]
        writer = SafetensorsWriter(file, listing, {"format": "pt"})
        for name, (_, values) in tensors.items():
            writer.write(name, values)
        writer.close()


def encode(values: np.ndarray, dtype: str) -> tuple[str, np.ndarray]:
    """float32 values in a stored float type."""
    if dtype == "BF16":
        return dtype, f32_to_bf16(values).reshape(values.shape)
    return dtype, values.astype({"F32": "<f4", "F16": "<f2"}[dtype])


def random_tensors(settings: dict[str, Any], seed: int = 0, dtype: str = "BF16") -> dict[str, tuple[str, np.ndarray]]:
    """Every tensor of a model, by canonical name."""
    rng = np.random.default_rng(seed)
    spec = spec_from_config(settings)
    names = parts(spec)
    shapes = dict(names.dense_tensors())
    for linear in names.all_linears():
        if linear.role == "head" and spec.tied:
            continue
        shapes[linear.weight] = (linear.out_features, linear.in_features)
        if linear.bias:
            shapes[f"{linear.module}.bias"] = (linear.out_features,)
    return {name: encode(rng.normal(0, 0.3, shape).astype(np.float32), dtype) for name, shape in shapes.items()}


def write_folder(
    path: Path,
    settings: dict[str, Any],
    tensors: dict[str, tuple[str, np.ndarray]] | None = None,
    shards: int = 1,
    tokenizer: bool = True,
    prefix: bool = True,
) -> Path:
    """Writes config.json, weights and a token tokenizer.json. prefix=False: names without `model.`/`transformer.`."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(settings))
    tensors = random_tensors(settings) if tensors is None else tensors
    if not prefix:
        base = parts(spec_from_config(settings)).base_prefix
        tensors = {name.removeprefix(base): item for name, item in tensors.items()}
    if shards == 1:
        save_tensors(path / "model.safetensors", tensors)
    else:
        names = list(tensors)
        index = {}
        for shard in range(shards):
            file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
            chosen = names[shard::shards]
            save_tensors(path / file, {name: tensors[name] for name in chosen})
            index.update(dict.fromkeys(chosen, file))
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    if tokenizer:
        (path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return path


def quantize_array(
    values: np.ndarray, bits: int, group: int, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Round to nearest: (codes int8 signed, scale float32 bf16-rounded [out, groups], zero int8 or None)."""
    rows, columns = values.shape
    size = columns if group == -1 else group
    blocks = values.reshape(rows, columns // size, size)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if symmetric:
        scale = bf16_to_f32(f32_to_bf16(np.abs(blocks).max(2) / high))
        codes = np.clip(np.rint(blocks / scale[:, :, None]), -high, high)
        return codes.astype(np.int8).reshape(rows, columns), scale, None
    least, most = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)
    scale = bf16_to_f32(f32_to_bf16((most - least) / (high - low)))
    zero = np.clip(np.rint(low - least / scale), low, high)
    codes = np.clip(np.rint(blocks / scale[:, :, None]) + zero[:, :, None], low, high)
    return codes.astype(np.int8).reshape(rows, columns), scale, zero.astype(np.int8)


def quantized_tensors(
    linear: Linear, values: np.ndarray, bits: int, group: int, symmetric: bool, packed: bool = True
) -> dict[str, tuple[str, np.ndarray]]:
    """A linear's tensors in a compressed-tensors folder."""
    codes, scale, zero = quantize_array(values, bits, group, symmetric)
    name = linear.module
    found = {f"{name}.weight_scale": encode(scale, "BF16")}
    if packed:
        found[f"{name}.weight_packed"] = ("I32", pack_int(codes, bits))
        found[f"{name}.weight_shape"] = ("I64", np.array(codes.shape, "<i8"))
    else:
        found[f"{name}.weight"] = ("I8", codes)
    if zero is not None:
        found[f"{name}.weight_zero_point"] = ("I32", pack_zero_points(zero, bits)) if packed else ("I8", zero)
    return found


def write_quantized(
    path: Path,
    settings: dict[str, Any],
    bits: int = 4,
    group: int = 32,
    symmetric: bool = True,
    packed: bool = True,
    act_bits: int = 8,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A compressed-tensors folder of random weights; every linear but the head is quantized.

    Keywords beyond the scheme replace keys of `quantization_config`.
    """
    from agq.checkpoint.compressed_tensors import quantization_config
    from agq.formats.groups import of_recipe
    from agq.recipe import ActivationScheme, WeightScheme

    tensors = random_tensors(settings, seed)
    for linear in parts(spec_from_config(settings)).all_linears():
        if linear.role != "head":
            values = bf16_to_f32(tensors.pop(linear.weight)[1])
            tensors.update(quantized_tensors(linear, values, bits, group, symmetric, packed))
    table = quantization_config(
        [(["Linear"], WeightScheme(bits, symmetric, of_recipe(group)), ActivationScheme(act_bits, True))],
        ["lm_head"],
        "pack-quantized" if packed else "int-quantized",
    )
    return write_folder(path, {**settings, "quantization_config": {**table, **changes}}, tensors)


WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False}
TOKENS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def group(targets: list[str], **weights: Any) -> dict[str, Any]:
    return {"targets": targets, "weights": {**WEIGHTS, **weights}}
