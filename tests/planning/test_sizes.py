"""Sizes of files that are not there, against those of files that are, and against what engines allocate."""

from __future__ import annotations

from pathlib import Path

import pytest

from agq.artifact.reader import open_artifact
from agq.planning.sizes import Footprint, card_memory, packed, read_bytes, served, weight_bytes
from agq.recipe.schemes import SCHEMES, Scheme
from agq.runtime.engine import Engine
from tests.planning.tables import spec


def test_as_large_as_the_file(demo_artifact: Path) -> None:
    """Tensors without documents. `demo_artifact` is rounded without rotations, so its head is the embedding."""
    artifact = open_artifact(demo_artifact)
    plan = packed(artifact.spec, Scheme.parse("W4A8"))
    there = {name: size for name, size in artifact.info.tensors().items() if name not in artifact.info.documents}
    made = {name: size for name, size in plan.tensors().items() if name != "project_out.weight"}
    assert made == there
    assert weight_bytes(plan) == sum(size.stored for size in there.values()) + 4 * 256 * 256
    assert read_bytes(plan) < weight_bytes(plan)


@pytest.mark.parametrize("name", SCHEMES)
def test_engines_say_what_they_take(name: str) -> None:
    """Memory is put together from small engines; one of the whole size allocates the same."""
    from agq.planning.stand_in import StandIn

    plan = packed(spec(), Scheme.parse(name))
    for tokens in (256, 300, 2048):
        with Engine(StandIn(plan), context=tokens) as engine:
            found = Footprint(plan).at(tokens)
            assert found.kv == engine.kv_bytes
            assert found.workspace == pytest.approx(engine.workspace_bytes, rel=0.02)
    assert Footprint(plan).at(300, users=3).kv == 3 * Footprint(plan).at(300).kv


def test_width_of_the_cache() -> None:
    plan = packed(spec(), Scheme.parse("W8A8"))
    four, eight, floats = (Footprint(plan, bits).at(1024).kv for bits in (4, 8, 32))
    assert eight == 2 * 2 * (16 + 4) * 2 * 1024  # keys and values, two heads of 16 bytes and a scale, two layers
    assert floats == 2 * 2 * 4 * 16 * 2 * 1024
    assert four < eight


def test_beside_the_model() -> None:
    found = Footprint(packed(spec(), None)).at(64)
    assert found.process == 48_000_000 + 3 * 390 * 100
    assert found.peak == found.weights + found.kv + found.workspace + found.process
    assert found.to_dict()["peak"] == found.peak


def test_what_a_preset_adds() -> None:
    tied = spec(tie_word_embeddings=True)
    assert "project_out" in packed(tied, Scheme.parse("W4A8")).linears
    assert "project_out" not in packed(tied, Scheme.parse("W8A16")).linears
    assert "project_out" not in packed(spec(), Scheme.parse("W4A8")).linears
    assert packed(spec(), Scheme.parse("W8A8")).kv_bits == 8
    assert packed(spec(), None).kv_bits == 32


def test_on_a_card() -> None:
    assert served(spec(), Scheme.parse("W4A8")) is None
    four, eight, floats = (served(spec(), scheme) for scheme in (Scheme.parse("W4A16"), Scheme.parse("FP8"), None))
    assert four is not None and eight is not None and floats is not None
    assert weight_bytes(four) < weight_bytes(eight) < weight_bytes(floats)
    assert eight.linears["head"].dtype == floats.linears["head"].dtype == "bf16"
    assert card_memory(floats, 100, 3).kv == 100 * 3 * 2 * 2 * 2 * 32  # keys and values of 16 bits, two layers of 32
