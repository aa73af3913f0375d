"""The output of quantization: a compressed-tensors folder that transformers and vLLM load as it is, with agq.json
beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agq.checkpoint import Checkpoint
from agq.checkpoint.compressed_tensors import INT, PACKED, quantization_config
from agq.checkpoint.finite import count_not_finite
from agq.checkpoint.head_matrix import NAME as HEAD_MATRIX
from agq.checkpoint.module_scheme import FLOAT
from agq.checkpoint.static import FILE, StaticRecord
from agq.errors import AgqError
from agq.files import atomic_directory, atomic_write_bytes, atomic_write_text
from agq.formats import cache_format
from agq.formats.weights import BYTE_CODES
from agq.models import ONLINE_PREFIX, ModelParts
from agq.quantization.agile.entries import add_entries
from agq.quantization.numbers import BEYOND_FP16, Numbers
from agq.quantization.state import WorkFolder
from agq.quantization.stored import store_float
from agq.quantization.transforms.plan import TransformPlan
from agq.quantization.written import WrittenModel
from agq.recipe import ActivationScheme, Recipe, Scheme, WeightScheme
from agq.recipe.schemes import FLOAT_INPUT
from agq.reporting import console
from agq.safetensors.shards import SINGLE, Entry, index_single, write_arrays, write_shards
from agq.text.tokenizers import read_files

SHARD_BYTES = 5_000_000_000
# Files that hold a tokenizer where there is no tokenizer.json.
_TOKENIZERS = ("vocab.json", "tokenizer.model")
# Formats of a folder that may be asked for: short name -> that of compressed-tensors.
CT_FORMATS = {"pack": PACKED, "int": INT}


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
    return {module: scheme for module, scheme in schemes.items() if scheme is not None}


def choose_format(schemes: dict[str, Scheme], ct_format: str | None) -> str:
    """compressed-tensors format of a folder: "pack-quantized", unless `ct_format` (of CT_FORMATS) says otherwise, all
    weights have 8 bits, or some are asymmetric (transformers 5.23 with compressed-tensors 0.20 cannot load packed zero
    points).

    Weights of FP8 have a format of their own.

    Raises AgqError for another `ct_format`, or one that the weights do not go with; for a mixture of FP8 and integers.
    """
    floats = [scheme.weights.floats for scheme in schemes.values()]
    if any(floats):
        if not all(floats):
            raise AgqError(
                "weights of FP8 and of integers do not stand in one folder", hint="use overrides of W16A16, or none"
            )
        if ct_format is not None:
            raise AgqError(f"weights of FP8 are stored as {FLOAT}", hint="leave `ct_format:` away")
        return FLOAT
    if ct_format is not None:
        if ct_format not in CT_FORMATS:
            hint = f"use {' or '.join(f'`{name}`' for name in CT_FORMATS)}"
            raise AgqError(f"unknown compressed-tensors format `{ct_format}`", hint=hint)
        return CT_FORMATS[ct_format]
    weights = [scheme.weights for scheme in schemes.values()]
    bytes_already = all(item.format == BYTE_CODES for item in weights)
    return INT if bytes_already or not all(item.symmetric for item in weights) else PACKED


def online_steps(transforms: TransformPlan) -> dict[str, str]:
    """What the folder's weights rely on and other software than agq does not compute at run time: name -> words.

    Quantizers of activations and KV cache that others leave out are not among them: without those the model is only
        more exact.
    """
    steps = {}
    if transforms.hadamard:
        steps["hadamard"] = (
            f"Walsh-Hadamard transform of the feed-forward's hidden layer in blocks of {transforms.hadamard}"
        )
    if transforms.bake_embed_norm:
        steps["bake_embed_norm"] = "a model without the norm of the embeddings, which is part of the table"
    return steps


def runtime_formats(recipe: Recipe, schemes: dict[str, Scheme], clips: dict[str, float]) -> list[str]:
    """Number formats of activations and KV cache in agq.json that config.json cannot express."""
    names = []
    if any(clips.get(module, 1.0) != 1.0 for module in schemes):
        names.append("act_clip")
    if recipe.sink_tokens:
        names.append("sink_tokens")
    if recipe.agile.active:
        names.append("static_activations")
    if cache_format(recipe.kv_bits).quantized:
        names.append(f"kv{recipe.kv_bits}")
    return names


def build_config(parameters: WrittenModel, schemes: dict[str, Scheme], format: str) -> dict[str, Any]:
    """config.json of the output folder.

    Modules with one scheme form a config group. When all quantized linears share one scheme the target is the class
    `Linear` and everything else is listed in `ignore`; otherwise modules are named one by one. Where something has to
    be computed online the model type gets a prefix that other software does not know.
    """
    checkpoint, plan = parameters.checkpoint, parameters.plan
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
    if not parameters.spec.tied:
        config["tie_word_embeddings"] = False
    if not plan.plain:
        config["model_type"] = ONLINE_PREFIX + str(config["model_type"]).removeprefix(ONLINE_PREFIX)
    if plan.bake_embed_norm:
        config["agq_embed_norm"] = False
    config["quantization_config"] = quantization
    return config


def folder_entries(
    parameters: WrittenModel, schemes: dict[str, Scheme], work: WorkFolder, numbers: Numbers
) -> list[Entry]:
    """Every tensor of the output folder, in model order: what the finished blocks hold, the rest of the (transformed)
    model in the source's number formats; bit for bit where nothing was transformed."""
    parts = parameters.parts
    replaced: dict[str, dict[str, Entry]] = {}
    tuned = work.tuned()
    for found in [*map(work.entries, work.finished()), *([tuned[0]] if tuned else [])]:
        for name, item in found.items():
            replaced.setdefault(name.rsplit(".", 1)[0], {})[name] = item
    names = [f"{parts.embed}.weight"]
    names += [name for name in parts.dense_tensors() if name not in names]
    entries = [_entry(parameters, name, numbers) for name in names]
    for linear in parts.all_linears():
        if linear.module in schemes:
            if linear.module not in replaced:
                raise AgqError(f"`{linear.module}` was not quantized: the work folder `{work.path}` is incomplete")
            entries += replaced[linear.module].values()
        elif linear.role != "head" or not parameters.spec.tied:
            entries.append(_entry(parameters, linear.weight, numbers))
        if linear.bias:
            entries.append(_entry(parameters, f"{linear.module}.bias", numbers))
    return [replace(entry, produce=partial(_finite, entry)) for entry in entries]


def _finite(entry: Entry) -> np.ndarray:
    """The data of an entry. AgqError for values that are not finite."""
    values = entry.produce()
    if bad := count_not_finite(entry.dtype, values):
        raise AgqError(
            f"`{entry.name}`: {bad} of {values.size} values that would be written are not finite",
            hint="quantize again with fewer transformations, or without tuning",
        )
    return values


def _entry(parameters: WrittenModel, name: str, numbers: Numbers) -> Entry:
    checkpoint = parameters.checkpoint
    dtype = checkpoint.dtype(name)
    if parameters.plan.empty:
        return Entry(name, dtype, checkpoint.shape(name), lambda: checkpoint.read_raw(name)[1])

    def stored() -> np.ndarray:
        values = parameters.values(name)
        if dtype == "F16":
            largest = np.float32(np.finfo(np.float16).max)
            numbers.count(BEYOND_FP16, name, int(np.count_nonzero((np.abs(values) > largest) & np.isfinite(values))))
            values = np.where(np.isfinite(values), np.clip(values, -largest, largest), values)
        return store_float(values, dtype)

    return Entry(name, dtype, checkpoint.shape(name), stored)


def write_folder(
    output: Path,
    parameters: WrittenModel,
    recipe: Recipe,
    schemes: dict[str, Scheme],
    format: str,
    work: WorkFolder,
    record: dict[str, Any],
    clips: dict[str, float],
    force: bool = False,
    statics: StaticRecord | None = None,
    shard_bytes: int = SHARD_BYTES,
    numbers: Numbers | None = None,
) -> Written:
    """Writes the folder, whole or not at all.

    record: what agq.json holds beyond the scheme of the activations (recipe, calibration, report, versions); clips: of
    the activations by module; force: replace a folder that stands at `output`; statics: quantizers of static
    activations; numbers: is told of values that fp16 cannot hold, and its record is kept. Raises AgqError when it may
    not be written, and for values that are not finite.
    """
    checkpoint, plan = parameters.checkpoint, parameters.plan
    numbers = numbers or Numbers()
    entries = folder_entries(parameters, schemes, work, numbers)
    with atomic_directory(output, overwrite=force) as folder:
        files = write_shards(folder, entries, shard_bytes)
        config = build_config(parameters, schemes, format)
        atomic_write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        for name in checkpoint.texts():
            atomic_write_bytes(folder / name, checkpoint.text(name) or b"")
        _write_tokenizer(folder, checkpoint)
        activations = activation_entries(parameters, schemes, clips)
        arrays: dict[str, np.ndarray] = {}
        if statics is not None:
            add_entries(activations, statics)
            arrays |= statics.arrays()
        parts, matrix = checkpoint.parts, None
        # Where fp16 cut a table, one is not the other times the matrix.
        if not numbers.counted(BEYOND_FP16, f"{parts.embed}.weight", f"{parts.head}.weight"):
            matrix = parameters.head_matrix()
        if matrix is not None:
            arrays[HEAD_MATRIX] = matrix
        write_arrays(folder / FILE, arrays)
        if arrays and files == [SINGLE]:
            index_single(folder)
        if found := numbers.record():
            record = {**record, "report": {**record.get("report", {}), "numbers": found}}
        agq = {
            "format": 1,
            **record,
            "kv_bits": recipe.kv_bits,
            "head_bits": recipe.head_bits,
            "activations": activations,
        }
        if recipe.sink_tokens:
            agq["sink_tokens"] = recipe.sink_tokens
        if matrix is not None:
            agq[HEAD_MATRIX] = True
        if not plan.empty:
            agq["transforms"] = plan.to_dict()
        agq["online"] = [*online_steps(plan), *runtime_formats(recipe, schemes, clips)]
        atomic_write_text(folder / "agq.json", json.dumps(agq, indent=2) + "\n")
        atomic_write_text(folder / "recipe.yaml", recipe.to_yaml())
        total = sum((folder / name).stat().st_size for name in files)
    return Written(output, bits_per_weight(checkpoint.parts, schemes, entries), total, files)


def _write_tokenizer(folder: Path, checkpoint: Checkpoint) -> None:
    """tokenizer.json of a model that has its tokenizer in older files: `pack` and other software want one."""
    if checkpoint.text("tokenizer.json") is None and any(name in _TOKENIZERS for name in checkpoint.texts()):
        try:
            document = read_files(checkpoint).document
        except AgqError as error:
            console.warning(f"no tokenizer.json is written, and `agq pack` will want one: {error.message}")
            return
        atomic_write_bytes(folder / "tokenizer.json", document)


def activation_entries(
    parameters: WrittenModel, schemes: dict[str, Scheme], clips: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Of each linear what agq.json says of its input: the quantizer, its clip where it is not 1, the online
    transform."""
    entries: dict[str, dict[str, Any]] = {}
    for linear in parameters.parts.block_linears():
        module, scheme = linear.module, schemes.get(linear.module)
        hadamard = parameters.hadamard(module)
        if scheme is not None:
            entries[module] = scheme.activations.to_dict()
            if clips.get(module, 1.0) != 1.0:
                entries[module]["clip"] = clips[module]
        elif hadamard:
            entries[module] = FLOAT_INPUT.to_dict()
        if hadamard:
            entries[module]["hadamard"] = hadamard
    return entries


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
