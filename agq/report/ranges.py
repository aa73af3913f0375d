"""The section of inputs: ranges per channel and token, before and after TRIP, scaling and rotation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from agq.report.document import Chart, Lines, Missing, Section, Series, Table
from agq.report.facts import Subject
from agq.report.measure import PLACES, InputRanges, Observed, middle, spread
from agq.report.reasons import NO_ORIGINAL

# What reads an input, for people.
READERS = {"attention": "q, k, v", "o": "o", "mlp": "gate, up", "down": "down"}
# A channel is an outlier where its range is more than so many times the median channel's.
OUTLIER = 8.0
_SHOWN = 12
# The name of ranges in steps of their exponents.
TRIP = "after TRIP"
# Points of the curve of sorted channels.
_POINTS = 60


def section(subject: Subject, observed: Observed | None, original: Observed | None, reason: str) -> Section:
    """Ranges of inputs. reason: why nothing was observed."""
    made = Section(
        "Inputs and their outliers",
        "Values that share a scale lose precision when one of them is large. The charts show the largest range of a "
        "channel, or of a token, over the median one: 1 would be ideal. What quantizing did to the model (scales, "
        "rotations, TRIP) should bring the channels' lines down.",
    )
    if observed is None and original is None:
        made.items.append(Missing(f"ranges of inputs: {reason}"))
        return made
    if observed is None:
        made.items.append(Missing(f"ranges of the quantized model's inputs: {reason}"))
    if original is None:
        made.items.append(Missing(f"ranges before the transformations: {NO_ORIGINAL}"))
    made.items += _charts(subject, observed, original)
    made.items.append(_outliers(observed, original))
    return made


def outliers(ranges: InputRanges) -> np.ndarray:
    """Indices of the channels whose range is more than OUTLIER times the median channel's, the largest first."""
    found = np.flatnonzero(ranges.channels > OUTLIER * middle(ranges.channels))
    return found[np.argsort(-ranges.channels[found], kind="stable")]


def _named(observed: Observed | None, original: Observed | None) -> list[tuple[str, Observed]]:
    return [(name, found) for name, found in (("original", original), ("quantized", observed)) if found is not None]


def _charts(subject: Subject, observed: Observed | None, original: Observed | None) -> Iterator[Chart]:
    """Of each place, channels and tokens over the blocks, then sorted in the block where channels differ most."""
    blocks = range(subject.spec.layers)
    for place in PLACES:
        for what, of in (("channels", _of_channels), ("tokens", _of_tokens)):
            series = [Series(name, _over_blocks(found, place, of)) for name, found in _named(observed, original)]
            if what == "channels" and observed is not None and _static(observed, place):
                series.append(Series(TRIP, _over_blocks(observed, place, _of_trip)))
            title = f"Input of {READERS[place]}: {what}"
            yield Lines(title, "block", "largest over median", blocks, series, log=True)
        first = _named(observed, original)[0][1]
        worst = max((item for item in first.inputs if item.place == place), key=_of_channels)
        yield from _profiles(worst.block, place, observed, original)


def _profiles(block: int, place: str, observed: Observed | None, original: Observed | None) -> Iterator[Lines]:
    """The ranges of the channels and of the tokens of one input, in descending order."""
    share = np.linspace(0, 1, _POINTS)
    channels, tokens = [], []
    for name, found in _named(observed, original):
        item = next(item for item in found.inputs if (item.block, item.place) == (block, place))
        channels.append(Series(name, _sorted(item.channels, share)))
        tokens.append(Series(name, _sorted(item.tokens, share)))
        if item.exponents is not None:
            channels.append(Series(TRIP, _sorted(item.after_trip, share)))
    for what, series in (("channels", channels), ("tokens", tokens)):
        title = f"Input of {READERS[place]} in block {block}, where channels differ most: {what}, sorted"
        yield Lines(title, f"share of {what}, %", "largest |x|", (100 * share).tolist(), series, log=True)


def _sorted(values: np.ndarray, share: np.ndarray) -> list[float]:
    return np.quantile(values, 1 - share).tolist()


def _of_channels(item: InputRanges) -> float:
    return spread(item.channels)


def _of_trip(item: InputRanges) -> float:
    return spread(item.after_trip)


def _of_tokens(item: InputRanges) -> float:
    return spread(item.tokens)


def _over_blocks(found: Observed, place: str, of: Callable[[InputRanges], float]) -> list[float | None]:
    return [of(item) for item in found.inputs if item.place == place]


def _static(found: Observed, place: str) -> bool:
    return any(item.exponents is not None for item in found.inputs if item.place == place)


def _outliers(observed: Observed | None, original: Observed | None) -> Table:
    rows = []
    for name, found in _named(observed, original):
        picked = [(item, index) for item in found.inputs for index in outliers(item)]
        picked.sort(key=lambda pair: -pair[0].channels[pair[1]] / middle(pair[0].channels))
        rows.append((name, "", f"{len(picked)} in all", "", ""))
        for item, index in picked[:_SHOWN]:
            size = float(item.channels[index])
            times = f"{size / middle(item.channels):.1f} times"
            rows.append((name, str(item.block), f"input of {READERS[item.place]}", str(index), f"{size:.4g}, {times}"))
    title = f"Outlier channels: more than {OUTLIER:g} times the median channel's range"
    return Table(title, ("model", "block", "input", "channel", "largest |x|, over the median"), rows, right=(3, 4))
