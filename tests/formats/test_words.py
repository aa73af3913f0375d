"""One dialect for schemes."""

from __future__ import annotations

import pytest

from agq.formats import FITTED, PER_ROW, PerGroup, activation_format, words
from agq.formats.weights import WEIGHTS


@pytest.mark.parametrize(
    ("name", "group", "symmetric", "expected"),
    [
        ("u4", PerGroup(64), True, "4 g64"),
        ("u4", PerGroup(128), False, "4 g128 asym"),
        ("i8", PER_ROW, True, "8 per row"),
        ("u4", FITTED, True, "4 groups that fit"),
        ("bf16", PER_ROW, True, "bf16"),
    ],
)
def test_weights(name: str, group: object, symmetric: bool, expected: str) -> None:
    assert words.weights(WEIGHTS[name], group, symmetric) == expected


def test_one_scale_for_a_whole_tensor() -> None:
    assert words.weights(WEIGHTS["i8"], PER_ROW, False, whole="tensor") == "8 per tensor asym"


def test_activations() -> None:
    four, eight, none = (activation_format(bits) for bits in (4, 8, 16))
    assert words.activations(eight, PER_ROW, True) == "8 per token"
    assert words.activations(four, PerGroup(32), False) == "4 g32 asym"
    assert words.activations(none, PER_ROW, True) == "float"
    assert words.static_activations(eight, per_channel=False) == "8 static, TRIP"
    assert words.static_activations(four, per_channel=True) == "4 static per channel"
    assert words.online(128, 0.9) == ", hadamard 128, clip 0.9" and words.online(0, 1.0) == ""


def test_a_linear() -> None:
    assert words.linear("4 g128", "8 per token, hadamard 128") == "W4 g128, A8 per token, hadamard 128"
    assert words.linear("4 g128", "float") == "W4 g128, float activations"
    assert words.linear("f16", "float, hadamard 32") == "f16 weights, float activations, hadamard 32"


def test_names() -> None:
    assert words.name(4, 8, True) == "W4A8" and words.name(8, 16, False) == "W8A16_ASYM"
