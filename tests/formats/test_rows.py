"""The rows of agq/formats, against what they describe: the C library's constants, stored codes, bytes."""

from __future__ import annotations

import numpy as np
import pytest

from agq.artifact import layout
from agq.errors import AgqError, UsageError
from agq.formats import (
    ACTIVATIONS,
    EMBEDDING,
    FITTED,
    FLOATS,
    HEAD,
    KV_CACHE,
    PER_ROW,
    TABLES,
    WEIGHTS,
    activation_format,
    any_of,
    cache_format,
    integer_format,
    weight_format,
)
from agq.formats.activations import BY_CODE, FLOAT, NARROW, WIDE
from agq.formats.cache import DEFAULT_CACHE, DEFAULT_TABLE, FLOAT_CACHE, LOG2_CACHE
from agq.formats.weights import BY_STORED, BYTE_CODES, EXACT, SCALE, SCALES
from agq.native._agq_cdef import ffi
from agq.runtime.descriptor import dtype


def test_every_element_type_has_its_own_constant_of_the_library() -> None:
    numbers = [dtype(ffi, name) for name in WEIGHTS]
    assert sorted(numbers) == list(range(len(WEIGHTS)))
    assert dtype(ffi, "u4") == ffi.integer_const("AGQ_U4") and dtype(ffi, "bf16") == ffi.integer_const("AGQ_BF16")
    with pytest.raises(AgqError, match="unknown element type `u5`"):
        weight_format("u5")


def test_code_ranges() -> None:
    assert integer_format(4).limits(True) == (-8, 7) == integer_format(4).limits(False)
    assert integer_format(8).limits(True) == (-127, 127) and integer_format(8).limits(False) == (-128, 127)
    with pytest.raises(AgqError, match="weights of 3 bits") as caught:
        integer_format(3)
    assert caught.value.hint == "use 4 or 8 (16: not quantized)"


@pytest.mark.parametrize("row", [row for row in WEIGHTS.values() if row.integer], ids=lambda row: row.name)
def test_codes_survive_the_layout_of_an_artifact(row) -> None:
    low, high = row.limits(False)
    codes = np.random.default_rng(3).integers(low, high + 1, (21, 40)).astype(np.int8)
    codes[0, :2] = low, high
    packed = layout.pack_codes(row, codes)
    assert packed.nbytes == layout.weight_bytes(row, 21, 40)
    assert np.array_equal(layout.unpack_codes(row, packed, 21, 40), codes)


def test_stored_codes_of_u4_are_not_negative() -> None:
    """docs/artifact.md: 0..15, the signed code plus 8."""
    codes = np.array([[-8, 0, 7]], np.int8)
    stored = layout.unpack_u4(layout.pack_codes(WEIGHTS["u4"], codes), 1, 3)
    assert stored.tolist() == [[0, 8, 15]]


def test_bytes_of_elements() -> None:
    assert {name: row.bytes for name, row in FLOATS.items()} == {"f32": 4, "f16": 2, "bf16": 2}
    assert BYTE_CODES.bytes == 1 and BYTE_CODES.name == "i8"
    with pytest.raises(ValueError, match="share bytes"):
        _ = WEIGHTS["u4"].bytes
    assert {stored: row.name for stored, row in BY_STORED.items()} == {"F32": "f32", "F16": "f16", "BF16": "bf16"}
    assert SCALE in SCALES and EXACT in SCALES


def test_defaults_of_formats() -> None:
    assert integer_format(4).group == FITTED and integer_format(8).group == PER_ROW
    assert activation_format(4).group == FITTED and activation_format(8).group == PER_ROW
    assert not activation_format(4).symmetric and activation_format(8).symmetric
    with pytest.raises(AgqError, match="activations of 5 bits"):
        activation_format(5)


def test_activations_in_recipes_and_in_artifacts() -> None:
    """Floats are 16 there and 32 here; integers are the same."""
    assert {bits: row.code for bits, row in ACTIVATIONS.items()} == {4: 4, 8: 8, 16: 32}
    assert BY_CODE[32] is FLOAT and BY_CODE[4] is NARROW and BY_CODE[8] is WIDE
    assert NARROW.coarse and not WIDE.coarse and not FLOAT.coarse and not FLOAT.quantized


@pytest.mark.parametrize("widths", [KV_CACHE, HEAD, EMBEDDING], ids=lambda widths: widths.what)
def test_widths(widths) -> None:
    widths.check(None)
    for bits in widths.bits:
        widths.check(bits)
    with pytest.raises(UsageError, match=f"{widths.what} of 5 bits is not available") as caught:
        widths.check(5, UsageError)
    assert caught.value.hint == f"use {widths.words}" and " or 32" in widths.words
    assert True not in widths and "8" not in widths and 8 in widths
    assert widths.metavar.replace("|", ", ") == ", ".join(map(str, widths.bits))


def test_widths_that_stand_for_others() -> None:
    assert (DEFAULT_CACHE.bits, FLOAT_CACHE.bits, LOG2_CACHE.bits, DEFAULT_TABLE.bits) == (8, 32, 8, 8)
    assert TABLES[8].integer and not TABLES[16].integer
    assert TABLES[16].of(None, "f32").name == "f16" and TABLES[16].of("int8", "bf16").name == "bf16"
    assert TABLES[16].of("f16", "bf16").name == "f16" and TABLES[32].of("f16").name == "f32"
    assert TABLES[8].of("f16").name == "i8"


@pytest.mark.parametrize(
    ("bits", "channels", "expected"),
    [(32, 64, 512), (8, 64, 2 * 68), (4, 64, 32 + 32 + 10), (4, 256, 128 + 128 + 20), (4, 80, 40 + 48 + 10)],
)
def test_bytes_of_a_head_in_the_cache(bits: int, channels: int, expected: int) -> None:
    assert cache_format(bits).head_bytes(channels) == expected


def test_integer_attention_keeps_codes_alone() -> None:
    assert LOG2_CACHE.head_bytes(64) == 128
    with pytest.raises(AgqError, match="a KV cache of 6 bits"):
        cache_format(6)


def test_choices_in_words() -> None:
    assert any_of([4, 8, 32]) == "4, 8 or 32" and any_of([4, 8]) == "4 or 8" and any_of(["x"]) == "x"
