"""Any codes of any shape -> stored bytes -> the same codes; any value in a header -> one clear error or none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agq.artifact import layout, open_artifact
from agq.artifact.header import header_bytes, header_hash
from agq.artifact.pack import pack
from agq.checkpoint.packing import pack_int, pack_zero_points, unpack_int, unpack_zero_points
from agq.errors import AgqError
from agq.formats import WEIGHTS
from tests.checkpoint.folders import config, write_quantized

ROWS, COLUMNS, SEEDS = st.integers(1, 70), st.integers(1, 140), st.integers(0, 2**32 - 1)


def codes_of(seed: int, bits: int, rows: int, columns: int) -> np.ndarray:
    """Every signed code of so many bits is as likely as any other."""
    return np.random.default_rng(seed).integers(-(1 << (bits - 1)), 1 << (bits - 1), (rows, columns)).astype(np.int8)


@pytest.mark.parametrize("bits", [4, 8])
@settings(deadline=None)
@given(seed=SEEDS, rows=ROWS, columns=COLUMNS)
def test_words_of_a_folder(bits: int, seed: int, rows: int, columns: int) -> None:
    codes = codes_of(seed, bits, rows, columns)
    words = pack_int(codes, bits)
    assert words.shape == (rows, -(-columns * bits // 32))
    assert np.array_equal(unpack_int(words, bits, columns), codes)
    zero = pack_zero_points(codes, bits)
    assert zero.shape == (-(-rows * bits // 32), columns)
    assert np.array_equal(unpack_zero_points(zero, bits, rows), codes)
    # One code by the definition of the format, not by the inverse.
    row, column, per = rows - 1, columns - 1, 32 // bits
    word = int(words[row, column // per]) & 0xFFFFFFFF
    assert (word >> bits * (column % per)) % (1 << bits) == int(codes[row, column]) + (1 << (bits - 1))


@settings(deadline=None)
@given(seed=SEEDS, rows=ROWS, columns=COLUMNS)
def test_panels_of_a_packed_file(seed: int, rows: int, columns: int) -> None:
    four, eight = (codes_of(seed, 4, rows, columns) + 8).astype(np.uint8), codes_of(seed, 8, rows, columns)
    stored = layout.pack_u4(four)
    assert stored.size == layout.weight_bytes(WEIGHTS["u4"], rows, columns) and np.array_equal(
        layout.unpack_u4(stored, rows, columns), four
    )
    stored = layout.pack_i8(eight)
    assert stored.size == layout.weight_bytes(WEIGHTS["i8"], rows, columns) and np.array_equal(
        layout.unpack_i8(stored, rows, columns), eight
    )
    for values in (eight, eight.astype(np.float32), eight.astype(np.uint16)):
        stored = layout.pack_rows(values)
        assert stored.nbytes == layout.rows_bytes(rows, columns, values.itemsize)
        assert np.array_equal(layout.unpack_rows(stored, rows, columns), values)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small packed file."""
    folder = tmp_path_factory.mktemp("small")
    tiny = config(
        "llama", hidden_size=32, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1
    )
    pack(write_quantized(folder / "q", tiny), folder / "a")
    return (folder / "a").read_bytes()


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(("u4", "i8", "f32", "bf16", "log2", "", "\ud800", "llama")),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in ((*path, key), *places(item, (*path, key)))]


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_value_anywhere_in_a_header(
    artifact: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The hash fits what was put in: the checks of each value alone stand between it and the kernels."""
    start = 8 + int.from_bytes(artifact[:8], "little")
    header = json.loads(artifact[8:start])
    metadata = header["__metadata__"]
    model = json.loads(metadata["agq.model"])
    inside = data.draw(st.booleans(), label="inside agq.model")
    target = model if inside else header
    path = data.draw(st.sampled_from(places(target)))
    for key in path[:-1]:
        target = target[key]
    if data.draw(st.booleans(), label="remove") and isinstance(target, dict):
        del target[path[-1]]
    else:
        target[path[-1]] = data.draw(VALUES)
    if inside:
        metadata["agq.model"] = json.dumps(model)
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"]["agq.header_sha256"] = header_hash(header)
        raw = header_bytes(header)
    else:
        text = json.dumps(header, separators=(",", ":")).encode()
        raw = len(text).to_bytes(8, "little") + text
    file = tmp_path_factory.getbasetemp() / "forged"
    file.write_bytes(raw + artifact[start:])
    try:
        opened = open_artifact(file)
    except AgqError:
        return
    for name in opened.names():
        opened.tensor(name)
