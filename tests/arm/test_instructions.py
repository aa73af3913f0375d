"""Counting executed instructions on an emulated core: the counts are those of the work, and reproducible."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import clean_environment

pytestmark = pytest.mark.slow

SIZES = "hidden=128,ffn=256,heads=2,kv_heads=1,head_dim=64,layers={},vocab=64"


def count(repository: Path, layers: int) -> dict[str, float]:
    """Test -> instructions per token."""
    result = subprocess.run(
        [sys.executable, str(repository / "benchmarks" / "arm_instructions.py"), "--cores", "cortex-a72", "--json",
         "--sizes", SIZES.format(layers), "--schemes", "W4A8", "-p", "4", "-n", "2"],
        capture_output=True, text=True, timeout=600, env=clean_environment(),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return {row["test"]: 1e6 * row["M instructions/token"] for row in json.loads(result.stdout)["rows"]}


def test_instructions_per_token(repository: Path) -> None:
    one, three = count(repository, 1), count(repository, 3)
    # Multiply-accumulates of a block: qkv 4 x 64 x 128, out 128 x 128, gate and up 2 x 256 x 128, down 128 x 256. An
    # instruction makes at most 8, and everything else beside them is small against 10 instructions for one.
    products = 128 * (4 * 64 + 128 + 3 * 256)
    for test in one:
        block = (three[test] - one[test]) / 2
        assert products / 8 < block < 10 * products
    assert one["prefill 4"] < one["decode 2"]  # several tokens share the unpacking
