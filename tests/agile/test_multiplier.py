"""The packed 4-bit multiplier chosen at run time: named where kernels are named, and the same logits bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import agq
from agq.errors import UsageError
from agq.runtime.engine import Engine


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    """The demo model as W4A4 with 8-bit inputs of the down projections: two kinds of products."""
    folder = tmp_path_factory.mktemp("multiplier") / "model"
    agq.quantize(demo_model, folder, scheme="W4A4", method="rtn", mse=False, overrides=["re:.*down_proj=W4A8"])
    agq.pack(folder, folder.with_suffix(".agq.safetensors"))
    return folder.with_suffix(".agq.safetensors")


def test_same_logits(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.arange(300, 340)
    found = {}
    for name in ("", "default", "packed"):
        monkeypatch.setenv("AGQ_MULTIPLIER", name)
        with Engine(packed, threads=1, context=64) as engine:
            prompt, one = engine.forward(ids, logits="all"), engine.forward(ids[:1])
            found[name] = np.concatenate([prompt, one])
            kernels = {
                plan.name.rsplit(".", 1)[-1]: (plan.decode_kernel, plan.prefill_kernel) for plan in engine.plan()
            }
        marked = {name for name, both in kernels.items() if all(kernel.startswith("u4u4_") for kernel in both)}
        assert marked == ({"qkv", "out", "up"} if name == "packed" else set())
    assert np.array_equal(found["packed"], found["default"])
    assert np.array_equal(found[""], found["default"])


def test_it_is_shown(packed: Path, agq_cli: Callable) -> None:
    result = agq_cli("info", packed, env={"AGQ_MULTIPLIER": "packed"}, check=True)
    assert "u4u4_" in result.stdout


def test_unknown_multiplier(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGQ_MULTIPLIER", "booth")
    with pytest.raises(UsageError, match="AGQ_MULTIPLIER is `booth`"):
        Engine(packed, threads=1, context=64)
