"""Block types: codes, scales and minima mean what the `gguf` package dequantizes; mixtures of types in one matrix."""

from __future__ import annotations

import numpy as np
import pytest

from agq.gguf.forms import FLOAT, ROUNDED, Form, together
from agq.gguf.types import BLOCKS, GROUP
from tests.gguf.gguf_files import Type, gguf, random_blocks


@pytest.mark.parametrize("name", list(BLOCKS))
def test_codes_and_scales(name: str) -> None:
    """Bit for bit, on blocks of random bytes: negative scales and the largest codes among them."""
    row = BLOCKS[name]
    blocks = random_blocks(Type[name], 300, 1)
    codes = row.codes(blocks)
    scale, minimum = row.scales(blocks)
    lowest = 0 if row.minimum else -128
    assert codes.min() >= (-8 if row.bits == 4 and not row.minimum else lowest)
    assert codes.max() <= (15 if row.bits == 4 and row.minimum else 127)
    groups = codes.astype(np.float32).reshape(len(blocks), -1, GROUP)
    values = groups * scale[:, :, None] + (0 if minimum is None else minimum[:, :, None])
    assert (minimum is not None) == row.minimum
    assert np.array_equal(values.reshape(len(blocks), -1), gguf.quants.dequantize(blocks, Type[name]))
    # Values of many blocks, which are made in parts.
    many = random_blocks(Type[name], 5000, 2)
    assert np.array_equal(row.values(many), gguf.quants.dequantize(many, Type[name]))


def test_one_form_for_what_is_computed_together() -> None:
    four, five, six, eight = Form(True, 4, True), Form(True, 8), Form(False, 8), Form(True, 8)
    assert together(["Q4_1", "Q4_K"]) == {"Q4_1": four, "Q4_K": four}
    assert together(["Q5_0", "Q8_0", "Q6_K"]) == {"Q5_0": five, "Q8_0": eight, "Q6_K": six}
    assert together(["Q4_1", "Q8_0"]) == {"Q4_1": Form(True, 8, True), "Q8_0": Form(True, 8, True)}
    # codes -8..7 and 0..15 with minima: bytes
    assert together(["Q4_0", "Q4_1"]) == {"Q4_0": Form(True, 8, True), "Q4_1": Form(True, 8, True)}
    assert together(["F16", "F32"]) == {"F16": FLOAT, "F32": FLOAT}
    assert together(["F16", "Q8_0"]) == {"F16": ROUNDED, "Q8_0": eight}
    assert together(["Q2_K", "Q4_K"]) == {"Q2_K": Form(False, 8, True), "Q4_K": Form(True, 8, True)}
