"""Statistics files that are not what they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agq.calibration.file import FORMAT, open_statistics, tokens_sha256
from agq.errors import AgqError
from agq.safetensors.shards import Entry, write_file


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    tokens, values = np.arange(6, dtype=np.int32).reshape(2, 3), np.ones(8, np.float32)
    for wrong in (0, 2):
        values[:wrong] = np.nan
        entries = [Entry.of("tokens", "I32", tokens), Entry.of("m.second_moment", "F32", values)]
        calibration = json.dumps({"tokens_sha256": tokens_sha256(tokens)})
        with open(tmp_path / "s", "wb") as file:
            write_file(file, entries, {"format": FORMAT, "calibration": calibration})
        if not wrong:
            assert open_statistics(tmp_path / "s").second_moment("m").sum() == 8
    with pytest.raises(AgqError, match=r"not finite in `m\.second_moment` \(2 of 8\)"):
        open_statistics(tmp_path / "s")
