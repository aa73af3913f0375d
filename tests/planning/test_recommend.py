"""Which row is taken, and what is said of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from agq.artifact.reader import open_artifact
from agq.planning import recommend
from agq.planning.accuracy import Accuracy
from agq.planning.machines import machine
from agq.planning.recommend import SIXTEEN, Candidate, Row, candidates, choose, reason, rows_here, rows_there
from agq.planning.roofline import Forecast
from agq.planning.sizes import Memory, packed
from agq.planning.source import Planned, read_model
from agq.planning.use_cases import UseCase
from tests.planning.tables import flat, spec, table

MODEL = packed(spec(), None)


def row(scheme: str, seconds: float, ratio: float | None = None, weights: int = 1, fits: bool = True) -> Row:
    """coarse inputs where the scheme has 4-bit ones."""
    accuracy = None if ratio is None else Accuracy(ratio, "t", "s")
    return Row(
        Candidate(scheme, MODEL, coarse=scheme.endswith("A4")),
        Forecast(1, 0, 0, 0, seconds, 1 / seconds),
        Memory(weights, 0, 0, 0),
        fits,
        accuracy,
        None,
    )


BASE = row(SIXTEEN, 10, 1.0, 16)


@pytest.mark.parametrize(
    ("rows", "ratio", "taken"),
    [
        # The fastest of those that lose little.
        ([BASE, row("W8A8", 5, 1.01, 8), row("W4A8", 3, 1.04, 4), row("W4A4", 2, 1.2, 4)], None, "W4A8"),
        ([BASE, row("W8A8", 5, 1.01, 8), row("W4A8", 3, 1.04, 4)], 1.02, "W8A8"),
        ([BASE, row("W8A8", 5, 1.01, 8), row("W4A4", 2, 1.2, 4)], 1.2, "W4A4"),
        # What is not known counts without a floor, but for 4-bit inputs.
        ([BASE, row("W8A8", 5, None, 8), row("W4A4", 2, None, 4)], None, "W8A8"),
        ([BASE, row("W8A8", 5, None, 8)], 1.05, SIXTEEN),
        # Alike in time: what loses least, else more bits.
        ([row("W8A8", 1.05, 1.01, 8), row("W4A8", 1, 1.04, 4)], None, "W8A8"),
        ([row("W8A8", 1.05, None, 8), row("W4A8", 1, None, 4)], None, "W8A8"),
        ([row("W8A8", 1.2, None, 8), row("W4A8", 1, None, 4)], None, "W4A8"),
        # What does not fit.
        ([row(SIXTEEN, 10, 1.0, 16, False), row("W4A8", 11, 1.04, 4)], None, "W4A8"),
        ([row(SIXTEEN, 10, 1.0, 16, False)], None, None),
        ([row("W4A8", 1, 1.2)], None, None),
    ],
)
def test_choice(rows: list[Row], ratio: float | None, taken: str | None) -> None:
    found = choose(rows, ratio)
    assert (found and found.candidate.scheme) == taken


def test_reasons() -> None:
    rows = [BASE, row("W8A8", 5, 1.01, 8), row("W4A8", 4, None, 4)]
    assert reason(rows[1], rows, None, 10**9) == (
        "Take W8A8: an answer comes 2.0 times as fast as with 16 bits; it has 1.010 times the perplexity; W4A8 would "
        "be 1.2 times as fast, with an unknown loss"
    )
    rows = [row(SIXTEEN, 10, 1.0, 2 * 10**9, False), row("W4A8", 4, None, 4)]
    assert reason(rows[1], rows, None, 10**9) == (
        "Take W4A8: 16 bits take 2.0 GB and do not fit; how much it loses is not known for this model; nothing else "
        "that fits is faster"
    )
    assert reason(BASE, [BASE], None, 10**9) == "Take W16A16: nothing else that fits is faster"
    rows = [row(SIXTEEN, 10, 1.0, 3 * 10**9, False), row("W4A8", 4, None, 2 * 10**9, False)]
    assert reason(None, rows, None, 10**9) == "no scheme fits into 1.0 GB: the least is 2.0 GB"
    rows = [row(SIXTEEN, 10, 1.0, 16, False), row("W4A8", 4, None), row("W4A4", 4, 1.3)]
    assert reason(None, rows, 1.1, 10**9) == (
        "no scheme that fits is known to have at most 1.1 times the perplexity; nobody has measured W4A8"
    )


def test_effective_bits_stand_beside_the_perplexity_of_few_codes() -> None:
    four, eight = row("W4A4", 1, 1.2), row("W4A8", 1, 1.2)
    assert (eight.loss, four.loss) == ("1.200 times the perplexity", "1.200 times the perplexity at ? activation bits")
    known = Row(**{**vars(four), "accuracy": Accuracy(1.2, "t", "s", 4.58)})
    assert known.loss == "1.200 times the perplexity at 4.58 activation bits"
    assert row("W4A4", 1).loss == "an unknown loss"


def test_candidates_and_their_files(demo_artifact: Path) -> None:
    planned = read_model(demo_artifact)
    assert planned.artifact is not None
    found = candidates(planned, [planned.artifact])
    assert [item.scheme for item in found] == [SIXTEEN, "W4A4", "W4A8", "W4A16", "W8A8", "W8A16", "W4A8"]
    assert [item.coarse for item in found] == [False, True, False, False, False, False, False]
    # The file was rounded: what a sweep says of the preset's W4A8 says nothing of it.
    assert [item.usual for item in found] == [True] * 6 + [False]
    cards = candidates(Planned("m", (), spec(), ""), card=True)
    assert [(item.scheme, item.floats) for item in cards] == [
        (SIXTEEN, False), ("W4A16", False), ("W8A8", False), ("W8A16", False), ("FP8", True)
    ]  # fmt: skip


def test_rows_of_a_machine_that_is_not_here() -> None:
    found = candidates(Planned("m", (), spec(), ""))
    pi = machine("pi4")
    rates, rows = rows_there(found, pi, UseCase("", 64, 8), 1, None, {"W8A8": Accuracy(1.01, "t", "s")})
    assert len(rates.linears) == 6  # a row for each format of the blocks, the head among them, and for floats
    assert {item.candidate.scheme: item.accuracy and item.accuracy.ratio for item in rows} == {
        SIXTEEN: 1.0, "W4A4": None, "W4A8": None, "W4A16": None, "W8A8": 1.01, "W8A16": None
    }  # fmt: skip
    assert all(item.fits and item.measured is None for item in rows)
    _, rows = rows_there(found, machine("pi4"), UseCase("", 64, 8), 1, 1000, {})
    assert not any(item.fits for item in rows)
    cards = candidates(Planned("m", (), spec(), ""), card=True)
    _, rows = rows_there(cards, machine("a100"), UseCase("", 64, 8), 4, None, {})
    assert [item.candidate.scheme for item in rows] == [SIXTEEN, "W4A16", "W8A8", "W8A16"]


def test_rows_here(demo_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are measured, if they fit."""
    planned = read_model(demo_artifact)
    assert planned.artifact is not None
    found = candidates(planned, [planned.artifact])[-1:]
    monkeypatch.setattr(recommend, "measure", lambda *_, **__: table(found[0].model, forward=flat(1.0)))
    case = UseCase("", 8, 4)
    _, (one,) = rows_here(found, case, 2, None, {"W4A8": Accuracy(1.01, "t", "s")}, 1)
    assert one.measured is not None and one.accuracy is None
    seen = one.measured
    assert 0 < seen.prefill_s and seen.first_token_s == 2 * seen.prefill_s and seen.step_s > 0
    assert math.isclose(seen.answer_s, seen.first_token_s + 3 * seen.step_s)
    assert math.isclose(seen.throughput, 2 * 4 / seen.answer_s)
    values = one.to_dict()
    assert values["artifact"] == str(demo_artifact) and values["measured"]["users"] == 2
    _, (one,) = rows_here(found, case, 1, 1000, {}, 1)
    assert one.measured is None and not one.fits


def test_recipe_of_a_file(demo_artifact: Path) -> None:
    recipe = {"recipe": {"method": "gptq", "transforms": {"r1": True}}}
    assert recommend._as_preset(recipe, "W4A8")
    assert not recommend._as_preset(recipe, "W8A16")
    assert not recommend._as_preset({"recipe": {"method": "rtn", "transforms": {"r1": True}}}, "W4A8")
    assert not recommend._as_preset({"quantization_config": {"quant_method": "gguf"}}, "W4A8")
    assert not recommend._as_preset(open_artifact(demo_artifact).recipe, "W4A8")
