"""Documented machines: each has all figures, and tables follow from them."""

from __future__ import annotations

import pytest

from agq.errors import UsageError
from agq.planning.machines import computes, estimate, machine, machines
from agq.planning.roofline import decode_seconds
from agq.planning.sizes import packed, read_bytes, served
from agq.recipe.schemes import Scheme
from tests.planning.tables import spec
from tests.support import REPOSITORY

LEVELS = (REPOSITORY / "kernels" / "src" / "isa" / "levels.def").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", machines())
def test_figures(name: str) -> None:
    found = machines()[name]
    assert found.sources and found.memory and 0 < found.reach["bandwidth"] <= 1 and 0 < found.reach["rates"] <= 1
    assert found.bandwidth > 0 and all(rate > 0 for rate in found.rates.values()) and "float" in found.rates
    assert found.card or f"LEVEL({found.level}," in LEVELS
    assert not found.name.startswith(name)


def test_names() -> None:
    assert machine("PI4").key == "pi4" and machine("apple-m").key == "apple-m1"
    assert machine("pi4-4gb").memory == (4,) and machine("pi4").free == int(0.85 * 8e9)
    with pytest.raises(UsageError, match="unknown machine `pi44`") as caught:
        machine("pi44")
    assert caught.value.hint == "did you mean `pi4`?"
    with pytest.raises(UsageError, match="no `pi4` with 3 GB"):
        machine("pi4-3gb")
    with pytest.raises(UsageError) as caught:
        machine("abacus")
    assert caught.value.hint.startswith("machines: pi4, pi5, ")


def test_decode_is_bound_by_reading() -> None:
    """A model of 2 GB at 4 GB/s, of which 90 % are reached."""
    shape = spec(hidden_size=4096, intermediate_size=11008, num_attention_heads=32, num_key_value_heads=32)
    model = packed(shape, Scheme.parse("W4A8"))
    pi = machine("pi4")
    seconds = decode_seconds(model, estimate(pi, model), 1, 0, 1, 8)
    assert seconds == pytest.approx(read_bytes(model) / 3.6e9, rel=0.05)


def test_rates_by_what_is_multiplied() -> None:
    """Long prompts are bound by products: floats at 24 billion a second of a Pi 4, integers at 48, of which 70 %."""
    from agq.planning.roofline import prefill_seconds

    shape = spec(hidden_size=4096, intermediate_size=11008, num_attention_heads=32, num_key_value_heads=32)
    pi, took = machine("pi4"), {}
    for name in ("W8A8", "W8A16"):
        model = packed(shape, Scheme.parse(name))
        took[name] = prefill_seconds(model, estimate(pi, model), 512, 1, 8)
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    # Two layers, in the last of which only q, k and v see the whole prompt.
    products = 512 * (layer + 3 * 4096**2)
    assert took["W8A8"] == pytest.approx(products / (0.7 * 48e9), rel=0.15)
    assert took["W8A16"] == pytest.approx(products / (0.7 * 24e9), rel=0.15)


def test_cards_compute_what_they_have_rates_for() -> None:
    eight = served(spec(), Scheme.parse("FP8"))
    assert eight is not None
    assert computes(machine("h100"), eight, floats=True) and not computes(machine("a100"), eight, floats=True)
    assert computes(machine("a100"), eight)
