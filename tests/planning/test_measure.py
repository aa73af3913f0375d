"""The kernel table of this machine: what is made of times, and one measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from agq.artifact.linear_info import LinearInfo
from agq.artifact.reader import open_artifact
from agq.formats import PerGroup
from agq.planning import measure
from agq.planning.kernel_table import Point, format_name
from agq.planning.roofline import decode_seconds, prefill_seconds
from agq.planning.sizes import packed, read_bytes
from agq.recipe.schemes import Scheme
from agq.runtime import benchmark
from agq.runtime.benchmark import OUTSIDE
from tests.planning.tables import spec


def test_two_widths_tell_calls_from_units() -> None:
    found = measure._point(4, (5.0, 10), (25.0, 50))
    assert (found.tokens, found.call, found.unit) == (4, 0.0, 0.5)
    assert measure._point(1, (7.0, 10), (27.0, 50)) == Point(1, 2.0, 0.5)
    # Noise: neither part can be negative.
    assert measure._point(1, (5.0, 10), (30.0, 50)) == Point(1, 0.0, 0.6)
    assert measure._point(1, (9.0, 10), (8.0, 50)) == Point(1, 0.0, 0.16)


def test_layers_tell_what_a_pass_costs_once() -> None:
    times = {OUTSIDE: 30.0, "embedding and positions": 2.0}
    narrow = measure._Probe(12, 100, 10, 64, times)
    wide = measure._Probe(2, 100, 10, 256, {**times, OUTSIDE: 10.0})
    assert measure._outside(1, narrow, wide) == Point(1, 6.0 + 2.0, 2.0)
    assert measure._outside(1, wide, narrow) == Point(1, 10.0 + 2.0, 0.0)


def test_linears_and_inputs_of_a_layer() -> None:
    times = {"qkv": 1.0, "attention output": 2.0, "up and activation": 3.0, "down": 4.0, "head": 100.0}
    probe = measure._Probe(5, 400, 40, 64, times | {"residual, norm, quantization": 60.0})
    assert probe.products == (10 / 5 / 4, 100)
    assert probe.preparing == (60 / 5 / 4, 10)


def test_widths_that_the_format_divides() -> None:
    assert measure._width(LinearInfo(0, 0, "i8"), 256) == 256
    assert measure._width(LinearInfo(0, 0, "u4", "bf16", PerGroup(96)), 256) == 384
    assert measure._width(LinearInfo(0, 0, "u4", "bf16", PerGroup(32), hadamard=512), 256) == 512


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models, few passes."""
    for name, value in {
        "_TOKENS": (1, 4), "_NARROW": 64, "_WIDE": 128, "_SAMPLES": 1, "_SECONDS": 1e-4, "_MOST_BYTES": 1 << 20,
        "_PRODUCTS": 1 << 20, "_DEPTHS": (8, 16),
    }.items():  # fmt: skip
        monkeypatch.setattr(measure, name, value)


def test_a_table_has_what_was_asked_for(hasty: None) -> None:
    models = [packed(spec(), None), packed(spec(), Scheme.parse("W4A4"))]
    wanted = measure.needed([(model, read_bytes(model)) for model in models], [model.kv_bits for model in models])
    said: list[str] = []
    found = measure.measure(wanted, threads=1, say=said.append)
    names = {format_name(info) for model in models for info in model.linears.values()}
    assert set(found.linears) == set(found.inputs) == names and len(names) == 3
    assert set(said) == {*names, "attention, KV cache of 32 bits", "attention, KV cache of 8 bits"}
    assert found.measured and found.threads == 1 and found.bandwidth > 0 and found.peak > 0
    for curve in found.linears.values():
        assert [point.tokens for point in curve.points] == [1, 4]
        assert all(point.unit > 0 and point.call >= 0 for point in curve.points)
    for bits in (8, 32):
        row = found.attention[bits]
        assert row.one > 0 and row.pair > 0 and found.kv_store[bits].points[-1].unit > 0
    assert [(row["format"], row["tokens"]) for row in found.rates()] == [
        (name, tokens) for name in found.linears for tokens in (1, 4)
    ]


@pytest.mark.slow
def test_forecasts_are_near_what_is_measured(demo_artifact: Path) -> None:
    """Within a factor of two and a half, by the best of some attempts: other tests run beside it. What the error is on
    a machine of its own, benchmarks/recommend_error.py says."""
    artifact = open_artifact(demo_artifact)
    model, cases = artifact.info, [benchmark.Case("prefill", 256, 0, 1), benchmark.Case("decode", 32, 64, 1)]
    for _ in range(5):
        table = measure.measure(measure.needed([(model, read_bytes(model))], [model.kv_bits]), threads=1)
        forecast = [prefill_seconds(model, table, 256, 1, 8), decode_seconds(model, table, 32, 64, 1, 8)]
        taken = [min(item.samples_ns) * 1e-9 for item in benchmark.run(artifact, cases, limits=False)]
        if all(0.4 < one / other < 2.5 for one, other in zip(forecast, taken, strict=True)):
            return
    pytest.fail(f"forecast {forecast}, measured {taken}")
