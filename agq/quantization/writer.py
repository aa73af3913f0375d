"""The output of quantization: a compressed-tensors folder that transformers and vLLM load as it is, with agq.json
beside it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agq.checkpoint import Checkpoint
from agq.checkpoint.compressed_tensors import INT, PACKED, quantization_config
from agq.errors import AgqError
from agq.files import atomic_directory, atomic_write_text
from agq.models import ModelParts
from agq.quantization.shards import Entry, write_shards
from agq.quantization.state import WorkFolder
from agq.recipe import ActivationScheme, Recipe, Scheme, WeightScheme

SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Written:
    """path: the folder; bits_per_weight: stored bits of the quantized linears over their weights (scales and zero
    points included); total_bytes: of the safetensors files; files: their names."""

    path: Path
    bits_per_weight: float
    total_bytes: int
    files: list[str]


def module_schemes(parts: ModelParts, recipe: Recipe) -> dict[str, Scheme]:
    """Scheme of every linear of the decoder blocks whose weights are quantized, in model order."""
    schemes = {linear.module: recipe.scheme_for(linear.module) for linear in parts.block_linears()}
    return {module: scheme for module, scheme in schemes.items() if scheme is not None and scheme.weights.bits < 16}


def choose_format(schemes: dict[str, Scheme], ct_format: str | None) -> str:
    """compressed-tensors format of a folder: "pack-quantized", unless `ct_format` ("pack", "int") says otherwise, all
    weights have 8 bits, or some are asymmetric (transformers 5.23 with compressed-tensors 0.20 cannot load packed zero
    points).

    Raises AgqError for another `ct_format`.
    """
    if ct_format not in (None, "pack", "int"):
        raise AgqError(f"unknown compressed-tensors format `{ct_format}`", hint="use `pack` or `int`")
    if ct_format is not None:
        return PACKED if ct_format == "pack" else INT
    weights = [scheme.weights for scheme in schemes.values()]
    return INT if all(item.bits == 8 for item in weights) or not all(item.symmetric for item in weights) else PACKED


def build_config(checkpoint: Checkpoint, schemes: dict[str, Scheme], format: str) -> dict[str, Any]:
    """config.json of the output folder.

    Modules with one scheme form a config group. When all quantized linears share one scheme the target is the class
    `Linear` and everything else is listed in `ignore`; otherwise modules are named one by one.
    """
    linears = [linear.module for linear in checkpoint.parts.all_linears()]
    ignore = [module for module in linears if module not in schemes]
    by_scheme: dict[Scheme, list[str]] = {}
    for module, scheme in schemes.items():
        by_scheme.setdefault(scheme, []).append(module)
    groups: list[tuple[list[str], WeightScheme, ActivationScheme]] = [
        (["Linear"] if len(by_scheme) == 1 else modules, scheme.weights, scheme.activations)
        for scheme, modules in by_scheme.items()
    ]
    quantization = quantization_config(groups, ignore, format)
    config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    if not checkpoint.spec.tied:
        config["tie_word_embeddings"] = False
    config["quantization_config"] = quantization
    return config


def folder_entries(checkpoint: Checkpoint, schemes: dict[str, Scheme], work: WorkFolder) -> list[Entry]:
    """Every tensor of the output folder, in model order: what the finished blocks hold, the rest copied bit for bit."""
    parts = checkpoint.parts
    replaced: dict[str, dict[str, Entry]] = {}
    for index in work.finished():
        for name, item in work.entries(index).items():
            replaced.setdefault(name.rsplit(".", 1)[0], {})[name] = item
    names = [f"{parts.embed}.weight"]
    names += [name for name in parts.dense_tensors() if name not in names]
    entries = [_copied(checkpoint, name) for name in names]
    for linear in parts.all_linears():
        if linear.module in schemes:
            if linear.module not in replaced:
                raise AgqError(f"`{linear.module}` was not quantized: the work folder `{work.path}` is incomplete")
            entries += replaced[linear.module].values()
        elif linear.role != "head" or not checkpoint.spec.tied:
            entries.append(_copied(checkpoint, linear.weight))
        if linear.bias:
            entries.append(_copied(checkpoint, f"{linear.module}.bias"))
    return entries


def _copied(checkpoint: Checkpoint, name: str) -> Entry:
    return Entry(name, checkpoint.dtype(name), checkpoint.shape(name), lambda: checkpoint.read_raw(name)[1])


def write_folder(
    output: Path,
    checkpoint: Checkpoint,
    recipe: Recipe,
    schemes: dict[str, Scheme],
    format: str,
    work: WorkFolder,
    record: dict[str, Any],
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Writes the folder, whole or not at all.

    record: what agq.json holds beyond the scheme of the activations (recipe, calibration, report, versions); force:
    replace a folder that stands at `output`. Raises AgqError when it may not be written.
    """
    entries = folder_entries(checkpoint, schemes, work)
    with atomic_directory(output, overwrite=force) as folder:
        files = write_shards(folder, entries, shard_bytes)
        config = build_config(checkpoint, schemes, format)
        atomic_write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        for source in checkpoint.tokenizer_files():
            shutil.copyfile(source, folder / source.name)
        activations = {
            module: {
                "bits": scheme.activations.bits,
                "group_size": scheme.activations.group_size,
                "symmetric": scheme.activations.symmetric,
            }
            for module, scheme in schemes.items()
        }
        agq = {
            "format": 1,
            **record,
            "kv_bits": recipe.kv_bits,
            "head_bits": recipe.head_bits,
            "activations": activations,
        }
        atomic_write_text(folder / "agq.json", json.dumps(agq, indent=2) + "\n")
        atomic_write_text(folder / "recipe.yaml", recipe.to_yaml())
        total = sum((folder / name).stat().st_size for name in files)
    return Written(output, bits_per_weight(checkpoint.parts, schemes, entries), total, files)


def bits_per_weight(parts: ModelParts, schemes: dict[str, Scheme], entries: list[Entry]) -> float:
    """Stored bits of the quantized linears, scales and zero points included, over the number of their weights."""
    weights = sum(
        linear.out_features * linear.in_features for linear in parts.block_linears() if linear.module in schemes
    )
    leaves = {"weight", "weight_packed", "weight_scale", "weight_zero_point"}
    stored = 0
    for item in entries:
        module, leaf = item.name.rsplit(".", 1)
        if module in schemes and leaf in leaves:
            stored += item.nbytes * 8
    return stored / weights if weights else 0.0
