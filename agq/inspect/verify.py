"""Checks of what lies on disk, without torch: every byte of an artifact; of a folder what other loaders get wrong in
silence.

transformers loads a folder whose `quantization_status` is missing with random weights and only warns; dense weights
beside quantized ones, leftovers of another scheme, and values that are not finite make garbage as quietly.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from agq.artifact.reader import open_artifact
from agq.checkpoint.compressed_tensors import ModuleScheme, activation_scheme
from agq.checkpoint.finite import count_not_finite
from agq.checkpoint.folder import FolderCheckpoint, open_checkpoint
from agq.checkpoint.head_matrix import NAME as HEAD_MATRIX
from agq.checkpoint.head_matrix import head_matrix_problem
from agq.checkpoint.numbers import in_words, numbers_of
from agq.checkpoint.packing import check_range
from agq.errors import AgqError
from agq.formats import words
from agq.formats.weights import BY_STORED
from agq.inspect.numbers import wrong_numbers
from agq.models.folding import fold_names
from agq.models.parts import Linear
from agq.recipe import ActivationScheme
from agq.safetensors.files import load_json

_ROWS = 1 << 22  # elements that are looked at at once


def problems_of_artifact(path: str | os.PathLike) -> list[str]:
    """Damaged parts of a packed artifact; AgqError where it cannot even be opened."""
    artifact = open_artifact(path)
    found = artifact.verify()
    # What the engine refuses at its start (kernels/src/model/check.c), said here too.
    if artifact.has("embed.scale"):
        scale = artifact.tensor("embed.scale")
        if (scale < 0).any():
            found.append("tensor `embed.scale`: values below 0")
    for name, info in artifact.linears.items():
        if info.ordered:
            order = artifact.tensor(f"{name}.input_order")
            if not np.array_equal(np.sort(order), np.arange(info.inputs)):
                found.append(f"tensor `{name}.input_order`: no permutation of {info.inputs} columns")
    return [*found, *wrong_numbers(artifact)]


def problems_of_folder(path: str | os.PathLike) -> list[str]:
    """What is wrong with a model folder; AgqError where it cannot even be opened (missing tensors, wrong shapes,
    ...).
    """
    checkpoint = open_checkpoint(path)
    found = [*_config(checkpoint), *_json_files(checkpoint)]
    named: list[tuple[str, str]] = [*_recorded(checkpoint), *_names(checkpoint)]
    if problem := head_matrix_problem(checkpoint):
        named.append((HEAD_MATRIX, problem))
    for linear in checkpoint.parts.all_linears():
        scheme = checkpoint.quantization.scheme(linear.module) if checkpoint.quantization else None
        if scheme is not None:
            named += _quantized_values(checkpoint, linear, scheme)
    return [*found, *_folded([*named, *_float_values(checkpoint)])]


def _folded(named: Iterable[tuple[str, str]]) -> Iterator[str]:
    """One line for each problem of (name of a module or tensor, problem), with all names that have it."""
    problems: dict[str, list[str]] = {}
    for name, problem in named:
        problems.setdefault(problem, []).append(name)
    for problem, names in problems.items():
        yield f"{fold_names(names)}: {problem}"


def _config(checkpoint: FolderCheckpoint) -> Iterator[str]:
    """Words of quantization_config that loaders take for granted, and agq.json where it says something else."""
    if checkpoint.quantization is None:
        return
    yield from checkpoint.quantization.config_problems(checkpoint)
    if checkpoint.record.sink_tokens and not any(
        _four_bits(checkpoint, linear.module) for linear in checkpoint.parts.block_linears()
    ):
        yield "agq.json: `sink_tokens`, but no linear of the blocks has dynamic 4-bit activations"


def _recorded(checkpoint: FolderCheckpoint) -> Iterator[tuple[str, str]]:
    """Linears whose activations agq.json and config.json describe differently."""
    for module, recorded in checkpoint.record.activations.items():
        scheme = checkpoint.quantization.scheme(module) if checkpoint.quantization else None
        if scheme is not None and scheme.activations != recorded:
            yield module, f"agq.json says activations {_words(recorded)}, config.json {_words(scheme.activations)}"


def _words(scheme: ActivationScheme) -> str:
    return words.activations(scheme.format, scheme.group_size, scheme.symmetric)


def _four_bits(checkpoint: FolderCheckpoint, module: str) -> bool:
    return activation_scheme(checkpoint, module).coarse and module not in checkpoint.statics.inputs


def _json_files(checkpoint: FolderCheckpoint) -> Iterator[str]:
    for path in checkpoint.tokenizer_files():
        if path.suffix == ".json":
            try:
                load_json(path.read_bytes(), f"`{path.name}`")
            except AgqError as error:
                yield error.message
            except OSError as error:
                yield f"`{path.name}` cannot be read: {error.strerror or error}"


def _names(checkpoint: FolderCheckpoint) -> Iterator[tuple[str, str]]:
    """Tensors that nobody asked for: leftovers of another scheme."""
    for name in checkpoint.unneeded():
        yield name, "a tensor that the model does not have"


def _quantized_values(checkpoint: FolderCheckpoint, linear: Linear, scheme: ModuleScheme) -> Iterator[tuple[str, str]]:
    """Ranges of codes and zero points, scales that are finite and positive; a layer that is zero throughout."""
    module = linear.module
    try:
        found = checkpoint.scales(module)
        scale, zero = found.scale, found.zero
        if zero is not None:
            check_range(zero, scheme.bits, f"`{module}.weight_zero_point`")
        if not scale.any():
            yield module, "every scale is zero"
        lost, step = 0, max(_ROWS // linear.in_features, 1)
        for start in range(0, linear.out_features, step):
            rows = slice(start, min(start + step, linear.out_features))
            codes = checkpoint.codes(module, rows).reshape(-1, scale.shape[1], linear.in_features // scale.shape[1])
            middle = np.int8(0) if zero is None else zero[rows, :, None]
            lost += int(((scale[rows] == 0) & (codes != middle).any(axis=2)).sum())
        if lost:
            yield f"{module}.weight_scale", f"zero where codes are not ({lost})"
    except AgqError as error:
        tensor, _, problem = error.message.removeprefix("`").partition("` ")
        yield (tensor, problem) if problem else (module, error.message)


def _float_values(checkpoint: FolderCheckpoint) -> Iterator[tuple[str, str]]:
    for name in checkpoint.names():
        if checkpoint.dtype(name) not in BY_STORED or name.endswith(".weight_scale"):
            continue
        if bad := count_not_finite(*checkpoint.read_raw(name)):
            yield name, f"values that are not finite ({bad})"
        checkpoint.release(name)


def told(path: str | os.PathLike) -> list[str]:
    """What a sound model's record says of odd numbers and of steps that were taken back; nothing of it is a problem."""
    if Path(path).is_dir():
        return in_words(numbers_of(open_checkpoint(path).record.values))
    return in_words(numbers_of(open_artifact(path).recipe))


def verify(path: str | os.PathLike) -> tuple[str, list[str]]:
    """(form, problems) of an artifact ("packed") or a folder ("folder"). AgqError: it does not exist or cannot be
    opened.
    """
    if not Path(path).exists():
        raise AgqError(f"`{path}` does not exist", hint="give a packed artifact or a model folder")
    if Path(path).is_dir():
        return "folder", problems_of_folder(path)
    return "packed", problems_of_artifact(path)
