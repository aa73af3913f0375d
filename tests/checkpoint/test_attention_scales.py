"""Static scales of attention: kept exactly through their named arrays, refused where they cannot be a grid."""

from __future__ import annotations

import numpy as np
import pytest

from agq.checkpoint.attention_scales import AttentionScales, load_scales, save_scales
from agq.errors import AgqError


def some_scales(seed: int) -> AttentionScales:
    rng = np.random.default_rng(seed)
    return AttentionScales(
        q_scale=rng.uniform(0.01, 1, 4).astype(np.float32),
        k_scale=rng.uniform(0.01, 1, 2).astype(np.float32),
        v_scale=0.0123,
        v_zero=131,
        v_exponent=rng.integers(0, 4, 16).astype(np.uint8),
    )


def test_named_arrays_give_the_same_scales_back() -> None:
    blocks = [some_scales(1), some_scales(2)]
    arrays = save_scales(blocks)
    assert sorted(arrays)[:2] == ["blocks.0.k_scale", "blocks.0.q_scale"]
    back = load_scales(arrays, 2)
    assert back is not None
    for a, b in zip(blocks, back, strict=True):
        assert np.array_equal(a.q_scale, b.q_scale) and np.array_equal(a.k_scale, b.k_scale)
        assert (a.v_scale, a.v_zero) == (b.v_scale, b.v_zero)
        assert np.array_equal(a.v_exponent, b.v_exponent) and b.v_exponent.dtype == np.uint8


def test_absent_scales_are_none_and_partial_ones_an_error() -> None:
    assert load_scales({}, 2) is None
    arrays = save_scales([some_scales(1)])
    with pytest.raises(AgqError, match="block 1 are missing"):
        load_scales(arrays, 2)
    del arrays["blocks.0.v_zero"]
    with pytest.raises(AgqError, match="v_zero is missing"):
        load_scales(arrays, 1)


@pytest.mark.parametrize("change", [{"v_scale": 0.0}, {"v_zero": 256}, {"q_scale": np.array([np.nan])}])
def test_impossible_scales_are_refused(change: dict) -> None:
    with pytest.raises(AgqError, match="attention scales"):
        AttentionScales(**{**some_scales(1).__dict__, **change})
