"""What a new weight format needs in Python: one row (and the order of its codes, which the kernels set)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agq.checkpoint.packing import pack_int, unpack_int
from agq.formats import INTEGERS, WeightFormat
from tests.checkpoint.folders import config, random_tensors, write_folder
from tests.support import REPOSITORY


@pytest.mark.slow
def test_three_bits_are_one_row(tmp_path: Path) -> None:
    """The row alone gives the scheme W3A8, its solver's codes, its folder, its sizes in an artifact and its words."""
    settings = config("llama")
    model = write_folder(tmp_path / "m", settings, random_tensors(settings))
    command = [sys.executable, "-m", "tests.formats.new_format", str(model), str(tmp_path / "q")]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert "W3A8" in found["schemes"] and "W3A4" not in found["schemes"]
    assert 3 < found["bits_per_weight"] < 4 and found["dtype"] == "I32"
    assert found["codes"] == [-4, 3] and found["error"] < 0.52  # half a step, of a rounded scale
    assert found["words"] == "3 g32"
    assert found["artifact"] == ["3 g32", 64 * 96 * 3 // 8, 64 * 96 * 3 // 8]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_words_of_every_width_are_those_of_the_library(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """compressed-tensors packs any width as one string of bits; so does agq, once there is a row."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    monkeypatch.setitem(INTEGERS, bits, WeightFormat(f"u{bits}", bits, "AGQ_NONE", integer=True))
    low, high = INTEGERS[bits].limits(symmetric=False)
    for columns in (1, 31, 32, 45, 128):
        codes = np.random.default_rng(bits).integers(low, high + 1, (5, columns)).astype(np.int8)
        words = pack_int(codes, bits)
        assert np.array_equal(words, pack_to_int32(torch.from_numpy(codes), bits).numpy())
        assert np.array_equal(unpack_int(words, bits, columns), codes)
