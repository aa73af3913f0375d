"""Sizes that Python lets through are sizes that the C library takes."""

from __future__ import annotations

import re

import pytest

from agq.formats import KV_CACHE, limits
from agq.native._agq_cdef import ffi
from tests.support import REPOSITORY

CHECK = (REPOSITORY / "kernels" / "src" / "model" / "check.c").read_text(encoding="utf-8")


def most(size: str) -> int:
    """The largest value of a size in check.c's table, whose last column is a number, a shift or a constant of agq.h."""
    row = re.search(rf'{{"{size}", \w->{size}, 1, ([^}}]+)}}', CHECK)
    assert row, f"check.c has no row for {size}"
    if row[1].startswith("AGQ_"):
        return int(ffi.integer_const(row[1]))
    number, _, shift = row[1].partition("<<")
    return int(number) << int(shift or 0)


@pytest.mark.parametrize("size", limits.SIZES)
def test_the_library_takes_every_size_that_python_takes(size: str) -> None:
    assert limits.SIZES[size] <= most(size)


def test_sink_tokens_are_the_same() -> None:
    assert limits.MAX_SINK_TOKENS == ffi.integer_const("AGQ_MAX_SINK_TOKENS")


def test_widths_of_the_cache_are_the_same() -> None:
    assert f"not {KV_CACHE.words}" in CHECK


def test_ranges() -> None:
    assert limits.between("layers") == {"low": 1, "high": 1 << 10}
