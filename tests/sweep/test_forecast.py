"""The time left of a sweep, by a made-up clock."""

from __future__ import annotations

import pytest

from agq.sweep import forecast as module
from agq.sweep.forecast import REST, SOLVE, TRANSFORM, TUNE, Forecast, Told

# Seconds that each part was expected to take, and how many times as long it takes.
ENTRIES = [
    {REST: 9.0},
    {REST: 10.0, SOLVE: 1.0},
    {REST: 10.0, SOLVE: 8.0, TRANSFORM: 0.0},
    {REST: 10.0, SOLVE: 8.0, TRANSFORM: 10.0, TUNE: 70.0},
    {REST: 10.0, SOLVE: 8.0, TRANSFORM: 30.0, TUNE: 70.0},
]
STAGES = {TRANSFORM: ("transform", 6), TUNE: ("tune", 32)}


@pytest.mark.parametrize("factors", [{}, {TUNE: 2.2, TRANSFORM: 0.6}, {TUNE: 0.5, REST: 1.4}, {SOLVE: 4, TRANSFORM: 2}])
def test_times_left_are_right_within_a_factor(factors: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first tenth of the work; where parts take what was not expected, after a step of each."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    whole = sum(seconds * factors.get(part, 1) for entry in ENTRIES for part, seconds in entry.items())
    forecast = Forecast(ENTRIES)
    told = Told(forecast, lambda what: None)
    assert forecast.left() is None
    seen, looks = set(), 0

    def spend(seconds: float, part: str) -> None:
        nonlocal looks
        for _ in range(4):
            now[0] += seconds / 4
            left = whole - now[0]
            known = not factors or seen == {SOLVE, TRANSFORM, TUNE}
            if now[0] > whole / 10 and left > 4 and known:
                looks += 1
                assert left / 1.5 <= forecast.left() <= left * 1.5, (now[0], left, forecast.left())

    for entry in ENTRIES:
        forecast.entry()
        real = {part: seconds * factors.get(part, 1) for part, seconds in entry.items()}
        spend(real[REST] / 2, REST)
        for part in (TRANSFORM, SOLVE, TUNE):
            if not real.get(part):
                continue
            name, steps = STAGES.get(part, ("", 6))
            told.start(steps) if part == SOLVE else told.stage(name, steps)
            for step in range(steps):
                spend(real[part] / steps, part)
                told.block(step, 1.0, False) if part == SOLVE else told.advance("")
                seen.add(part)
        told.stage("write", None)
        spend(real[REST] / 2, REST)
        forecast.end()
    assert forecast.left() == 0 and looks > 100


def test_a_part_left_out_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without time for tuning the entry goes on; what a later stage does is no second solving."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    forecast = Forecast([{REST: 4.0, SOLVE: 10.0, TUNE: 100.0}])
    forecast.entry()
    forecast.part(SOLVE, 2)
    now[0] = 5.0
    forecast.advance()
    assert forecast.left() == pytest.approx(5 + 4 + 100)
    now[0] = 10.0
    forecast.part(REST)
    assert forecast.left() == pytest.approx(4)
    now[0] = 100.0
    assert forecast.left() == pytest.approx(0.4)


def test_tuning_that_is_judged_now_and_then_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its steps told is not forgotten meanwhile."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    forecast = Forecast([{REST: 4.0, TUNE: 10.0}])
    told = Told(forecast, lambda what: None)
    forecast.entry()
    told.stage("tune", 64)
    for _ in range(16):
        now[0] += 2
        told.advance("")
    assert forecast.left() == pytest.approx(48 * 2 + 4 * 128 / 10)
    told.stage("judge weights", 3)
    told.advance("")
    now[0] += 6
    told.stage("tune", 48)
    assert forecast.left() == pytest.approx(48 * 2 - 6 + 4 * 128 / 10)
