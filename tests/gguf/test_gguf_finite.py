"""Values of GGUF tensors that are not finite are counted, for every block type, as the `gguf` package dequantizes
them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agq.gguf.finite import not_finite
from agq.gguf.reader import Tensor
from agq.gguf.types import BLOCKS
from tests.gguf.gguf_files import Type, gguf, random_blocks

NAN, INFINITY = 0x7E00, 0xFC00
# Where float16 scales stand in a block.
HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "TQ2_0": (64,), "IQ2_XXS": (0,), "IQ3_S": (0,)} | {
    name: (0, 2) if row.minimum else (0,) for name, row in BLOCKS.items() if name != "MXFP4"
}


def tensor(name: str, blocks: np.ndarray) -> Any:
    return Tensor("t", name, (len(blocks), gguf.GGML_QUANT_SIZES[Type[name]][0]), blocks)


@pytest.mark.parametrize("name", HALVES)
def test_blocks(name: str) -> None:
    blocks = random_blocks(Type[name], 40, 1)
    assert not_finite(tensor(name, blocks)) == 0
    for at in HALVES[name]:
        wrong = blocks.copy()
        for block, bits in ((3, NAN), (17, INFINITY)):
            wrong[block, at : at + 2] = np.array([bits], "<u2").view(np.uint8)
        with np.errstate(all="ignore"):
            values = gguf.quants.dequantize(wrong, Type[name])
        columns = values.shape[1]
        found = not_finite(tensor(name, wrong))
        assert (~np.isfinite(values)).sum() <= found <= 2 * columns and found > columns // 2


def test_floats() -> None:
    values = np.ones((3, 4), np.float32)
    values[1, 2], values[2, 0] = np.nan, np.inf
    assert not_finite(Tensor("t", "F32", (3, 4), values)) == 2
    assert not_finite(Tensor("t", "F16", (3, 4), values.astype(np.float16))) == 2
    bits = (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
    assert not_finite(Tensor("t", "BF16", (3, 4), bits)) == 2
