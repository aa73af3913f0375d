"""Folders in GPTQ's and AWQ's layouts, written number by number from the libraries' descriptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agq.models import parts, spec_from_config
from tests.checkpoint.folders import random_tensors, write_folder

Tensors = dict[str, tuple[str, np.ndarray]]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def string_of(numbers: np.ndarray, bits: int) -> list[int]:
    """Words of 32 bits that hold these numbers one after the other, the first at the low end of the first word."""
    whole = sum(int(number) << bits * place for place, number in enumerate(numbers))
    count = -(-len(numbers) * bits // 32)
    return [whole >> 32 * word & 0xFFFFFFFF for word in range(count)]


def as_words(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, np.uint32).view("<i4")


def gptq_linear(
    name: str, codes: np.ndarray, zero: np.ndarray, scale: np.ndarray, index: np.ndarray, bits: int, less_one: bool
) -> Tensors:
    """codes [out, in], zero and scale [out, groups], index [in]: group of each column."""
    stored = (zero.astype(int) - 1) % (1 << bits) if less_one else zero
    return {
        f"{name}.qweight": ("I32", np.ascontiguousarray(as_words([string_of(row, bits) for row in codes]).T)),
        f"{name}.qzeros": ("I32", as_words([string_of(row, bits) for row in stored.T])),
        f"{name}.scales": ("F16", np.ascontiguousarray(scale.T.astype("<f2"))),
        f"{name}.g_idx": ("I32", index.astype("<i4")),
    }


def awq_linear(name: str, codes: np.ndarray, zero: np.ndarray, scale: np.ndarray) -> Tensors:
    def rows(numbers: np.ndarray) -> np.ndarray:
        return as_words(
            [
                [string_of([row[at + place] for place in AWQ_ORDER], 4)[0] for at in range(0, len(row), 8)]
                for row in numbers
            ]
        )

    return {
        f"{name}.qweight": ("I32", rows(codes.T)),
        f"{name}.qzeros": ("I32", rows(zero.T)),
        f"{name}.scales": ("F16", np.ascontiguousarray(scale.T.astype("<f2"))),
    }


def write_words(
    path: Path,
    settings: dict[str, Any],
    table: dict[str, Any],
    order: Callable[[int, int], np.ndarray] | None = None,
    change: Callable[[Tensors], None] | None = None,
    of: Callable[[str], dict[str, Any]] | None = None,
) -> dict[str, np.ndarray]:
    """Writes a folder of random codes; gives float32 [out, in] of each of its quantized linears.

    table: its quantization_config. order: (columns, group size) -> group of each column. change: of all tensors before
    they are written. of: module -> what its `dynamic` entry says of it.
    """
    tensors = random_tensors(settings, dtype="F16")
    expected = {}
    rng = np.random.default_rng(3)
    for linear in parts(spec_from_config(settings)).block_linears():
        del tensors[linear.weight]
        own = {**table, **(of(linear.module) if of else {})}
        bits, rows, columns = own["bits"], linear.out_features, linear.in_features
        size = columns if own["group_size"] == -1 else own["group_size"]
        top = (1 << bits) - 1
        codes = rng.integers(0, top + 1, (rows, columns))
        zero = rng.integers(1, top + 1, (rows, columns // size))
        if own.get("sym", False):
            zero[:] = 1 << (bits - 1)
        scale = rng.uniform(0.01, 0.03, zero.shape).astype(np.float16).astype(np.float32)
        index = order(columns, size) if order else np.arange(columns) // size
        if table["quant_method"] == "awq":
            tensors |= awq_linear(linear.module, codes, zero, scale)
        else:
            less_one = table.get("checkpoint_format", "gptq") == "gptq"
            tensors |= gptq_linear(linear.module, codes, zero, scale, index, bits, less_one)
        expected[linear.module] = (codes - zero[:, index]).astype(np.float32) * scale[:, index]
    if change is not None:
        change(tensors)
    write_folder(path, {**settings, "quantization_config": table}, tensors)
    return expected
