"""What vLLM refuses is said when such a folder is planned."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from agq.checkpoint.module_scheme import INT, PACKED
from agq.quantization.peers import unserved
from agq.recipe import Scheme
from tests.quantization.quantization_support import planned


def test_what_vllm_refuses_is_said(short_model: Path, tmp_path: Path) -> None:
    """benchmarks/vs_vllm.py has its words."""
    plans = {
        name: planned(short_model, tmp_path / "q", method="rtn", **options)
        for name, options in {
            "8 in groups": {"scheme": "W8A8", "group_size": 64},
            "8": {"scheme": "W8A8"},
            "8, float inputs": {"scheme": "W8A16", "group_size": 64},
            "FP8": {"scheme": "FP8"},
            "4": {"scheme": "W4A4"},
        }.items()
    }
    assert {name for name, plan in plans.items() if plan.unserved} == {"8 in groups", "4"}
    assert all(plan.unserved == [note for note in plan.notes if "vLLM" in note] for plan in plans.values())
    bloom = SimpleNamespace(family="bloom")
    assert "`weight_shape`" in unserved(bloom, {Scheme.parse("W4A16")}, PACKED)[0]
    assert not unserved(bloom, {Scheme.parse("W8A8")}, INT)
