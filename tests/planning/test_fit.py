"""The longest context that fits is the longest: a token more does not."""

from __future__ import annotations

import pytest

from agq.planning.fit import best, fits, longest
from agq.planning.recommend import candidates
from agq.planning.sizes import Footprint, packed
from agq.planning.source import Planned
from agq.recipe.schemes import Scheme
from tests.planning.tables import spec

PLANNED = Planned("m", (), spec(), "")


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_one_token_more_does_not_fit(bits: int) -> None:
    model = packed(spec(), Scheme.parse("W4A8"))
    taken = Footprint(model, bits)
    for count in (1, 64, 65, 500, 2047):
        found = longest(taken, 2048, taken.at(count).peak)
        # Blocks of the cache are whole, so that a few more may come along.
        assert count <= found < count + 64 and taken.at(found).peak <= taken.at(count).peak
        assert found == 2048 or taken.at(found + 1).peak > taken.at(count).peak
    assert longest(taken, 2048, 10**12) == 2048
    assert longest(taken, 2048, 1000) == 0


def test_rows_and_the_best() -> None:
    found = candidates(PLANNED)
    rows = fits(found, 10**9, 512)
    assert [row.kv_bits for row in rows[:3]] == [32, 8, 4] and len(rows) == 3 * len(found)
    taken = best(rows)
    assert taken is not None and (taken.candidate.scheme, taken.kv_bits, taken.context) == ("W16A16", 32, 2048)
    # So little that 8 bits of the cache hold what 32 do not.
    model = packed(spec(), Scheme.parse("W4A8"))
    limit = Footprint(model, 8).at(1500).peak
    rows = fits(found, limit, 1500)
    taken = best(rows)
    assert taken is not None and taken.fits and taken.kv_bits < 32
    assert taken.memory.peak <= limit
    assert not any(row.fits for row in rows if row.candidate.scheme == "W16A16" and row.kv_bits == 32)
    # Nothing holds what is wanted: the row with the longest context, and what the wanted one would take.
    limit = Footprint(model, 4).at(100).peak
    rows = fits(found, limit, 1500)
    taken = best(rows)
    assert taken is not None and not taken.fits and taken.context >= 100
    assert taken.memory == Footprint(taken.candidate.model, taken.kv_bits).at(1500)
    assert best(fits(found, 1000, 1)) is None
    assert set(fits(found, 1000, 1)[0].to_dict()) == {
        "scheme", "formats", "artifact", "kv_bits", "context", "fits", "memory"
    }  # fmt: skip
