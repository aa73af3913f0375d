"""Rows of an 8-bit embedding or head."""

from __future__ import annotations

import torch

from agq.reference.quantizers import table_rows


def test_rows_that_are_not_finite_stay_so() -> None:
    """Codes have no NaN: as zeros they would make a perplexity out of nothing."""
    weight = torch.ones(3, 4)
    weight[1, 2] = torch.nan
    assert torch.isfinite(table_rows(weight)).all(dim=1).tolist() == [True, False, True]
