"""The arithmetic of a report, against figures that are worked by hand or computed anew."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agq.checkpoint import open_checkpoint, read_linear
from agq.recipe.pruning import PruningOptions
from agq.report.attention import Read, section
from agq.report.document import Bars, Lines, Table
from agq.report.errors import badness, decibels
from agq.report.losses import Losses
from agq.report.measure import InputRanges, Observed, middle, observe, spread
from agq.report.ranges import OUTLIER, outliers
from agq.report.ratios import Ratio, sqnr


def test_sqnr() -> None:
    assert sqnr(100.0, 1.0) == pytest.approx(20) and sqnr(1.0, 10.0) == pytest.approx(-10)
    assert sqnr(1.0, 0.0) == math.inf and sqnr(0.0, 1.0) == -math.inf
    ratio = Ratio()
    ratio.add(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5]))
    ratio.add(torch.tensor([5.0]), torch.tensor([5.0]))
    assert (ratio.energy, ratio.error) == (50, 0.25) and ratio.sqnr == pytest.approx(10 * math.log10(200))
    assert decibels(ratio.sqnr) == "23.0 dB" and decibels(math.inf) == "exact"
    assert badness(0) == 1 and badness(100) == 0 and badness(10) > badness(20) > badness(30)


def test_ranges_and_trip() -> None:
    channels = np.array([1.0, 2.0, 40.0, 3.0], np.float32)
    assert spread(channels) == 16 and spread(np.zeros(3, np.float32)) == 0
    silent = np.array([0, 0, 0, 0, 2, 2, 3], np.float32)  # behind a ReLU
    assert middle(silent) == 2 and spread(silent) == 1.5
    assert outliers(InputRanges(0, "down", silent, silent)).tolist() == []
    item = InputRanges(0, "down", channels, channels, np.array([0, 1, 3, 1], np.uint8))
    assert item.after_trip.tolist() == [1, 1, 5, 1.5] and spread(item.after_trip) == 4
    assert outliers(item).tolist() == [2] and 40 > OUTLIER * 2.5
    assert InputRanges(0, "o", channels, channels).after_trip is channels


@pytest.mark.parametrize(
    ("original", "weights", "whole", "share"),
    [(10, 10.5, 11, math.log(1.05) / math.log(1.1)), (10, 9, 11, None), (10, 12, 11, None), (11, 11, 10, None)],
)
def test_the_share_of_the_weights(original: float, weights: float, whole: float, share: float | None) -> None:
    losses = Losses(*(SimpleNamespace(ppl=value) for value in (whole, original, weights)))  # type: ignore[arg-type]
    assert losses.share_of_weights == (None if share is None else pytest.approx(share))
    assert losses.ratio == pytest.approx(whole / original)


@pytest.fixture(scope="module")
def seen(turned: Path, short_model: Path) -> tuple[np.ndarray, Observed, Observed]:
    windows = np.random.default_rng(0).integers(3, 8000, (2, 24))
    quantized, original, comparison = observe(open_checkpoint(turned), open_checkpoint(short_model), windows)
    assert quantized is not None and original is not None and comparison is not None
    # A rotated model: without the rotation nothing would be alike.
    assert comparison.reason == "" and all(5 < ratio.sqnr < 40 for ratio in comparison.blocks)
    return windows, quantized, original


def test_the_first_input(turned: Path, seen: tuple[np.ndarray, Observed, Observed]) -> None:
    """What q of the first block reads: the embedding under its norm; the rounding error of k's output on it."""
    from agq.reference.decoder import ReferenceModel

    windows, quantized, _ = seen
    assert quantized.weights == {}  # rotated: the original's are others
    model = ReferenceModel(open_checkpoint(turned))
    block = model.blocks[0]
    with torch.inference_mode():
        x = torch.cat([block.attention_input(model.embedding(torch.from_numpy(row)[None])) for row in windows])
        read = torch.cat([block.linears["k"].transform(part[None]) for part in x])
    first = quantized.inputs[0]
    assert (first.block, first.place, first.exponents) == (0, "attention", None)
    np.testing.assert_allclose(first.channels, x.abs().amax(dim=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(first.tokens, x.abs().amax(dim=2).flatten(), rtol=1e-5)
    module = open_checkpoint(turned).parts.block(0).linears["k"].module
    weight = read_linear(open_checkpoint(turned), module).dequantize().astype(np.float64)
    exact, found = (values.double().numpy() @ weight.T for values in (x, read))
    expected = 10 * math.log10(np.square(exact).sum() / np.square(found - exact).sum())
    assert quantized.rounding[module].sqnr == pytest.approx(expected, abs=1e-3)


def test_rounded_weights(demo_quantized: Path, demo_model: Path, tmp_path: Path) -> None:
    """Of a model that was rounded only: v of the first block, on what it reads."""
    from agq.reference.decoder import ReferenceModel

    windows = np.array([[5, 6, 7, 8, 9]])
    folder, original = open_checkpoint(demo_quantized), open_checkpoint(demo_model)
    found, _, _ = observe(folder, original, windows)
    assert found is not None and len(found.weights) == 7 * 6
    model = ReferenceModel(folder)
    block, module = model.blocks[0], folder.parts.block(0).linears["v"].module
    with torch.inference_mode():
        x = block.attention_input(model.embedding(torch.from_numpy(windows)))[0]
        read = block.linears["v"].transform(x[None])[0].double().numpy()
    exact = read @ original.read(f"{module}.weight").astype(np.float64).T
    rounded = read @ read_linear(folder, module).dequantize().astype(np.float64).T
    expected = 10 * math.log10(np.square(exact).sum() / np.square(rounded - exact).sum())
    assert 10 < expected < 40 and found.weights[module].sqnr == pytest.approx(expected, abs=1e-2)


def test_attention_is_that_of_the_calibration(short_model: Path, seen: tuple[np.ndarray, Observed, Observed]) -> None:
    from agq.calibration.statistics import gather
    from agq.reference.decoder import Parameters
    from agq.reporting.progress import Progress

    windows, _, original = seen
    found = gather(Parameters(open_checkpoint(short_model)), torch.from_numpy(windows), Progress())
    expected = [float(found[f"attention_to_first.{index}"].mean()) for index in range(2)]
    assert original.attention == pytest.approx(expected, rel=1e-4)
    assert not original.rounding  # nothing of it is rounded


def test_what_pruning_removes(short_model: Path, seen: tuple[np.ndarray, Observed, Observed]) -> None:
    """The second block removes a quarter: the tokens that attend to the first one least, but for both ends."""
    windows, _, original = seen
    assert original.kept is None
    _, pruned, _ = observe(None, open_checkpoint(short_model), windows, PruningOptions("2", 0.25))
    assert pruned is not None and pruned.kept is not None
    assert pruned.kept.shape == windows.shape and (~pruned.kept).sum(axis=1).tolist() == [6, 6]
    assert pruned.kept[:, 0].all() and pruned.kept[:, -1].all()
    shown = section(
        SimpleNamespace(spec=SimpleNamespace(layers=2), pruning=PruningOptions("2", 0.25)),  # type: ignore[arg-type]
        None,
        pruned,
        Read(windows, str),
        24,
        "",
    )
    left, places = shown.charts[1:]
    assert isinstance(left, Lines) and list(left.series[0].y) == [24, 18]
    assert (
        isinstance(places, Bars)
        and sum(3 * value for _, value, _ in places.rows[:4]) + sum(2 * value for _, value, _ in places.rows[4:]) == 6
    )
    assert places.rows[0][0] == "tokens 1-3" and places.rows[-1][0] == "tokens 23-24"
    (table,) = [item for item in shown.items if isinstance(item, Table)]
    assert table.title.endswith("12 of 48 are") and sum(int(row[1]) for row in table.rows) == 12


def test_a_model_against_itself_loses_nothing(short_model: Path) -> None:
    checkpoint = open_checkpoint(short_model)
    _, _, comparison = observe(checkpoint, checkpoint, np.array([[5, 6, 7, 8]]))
    assert comparison is not None and [ratio.sqnr for ratio in comparison.blocks] == [math.inf] * 2
