"""Charts as inline SVG. Colours are classes of the page's style sheet, so that they follow its light or dark scheme.

Every chart is 360 units wide: on a telephone a unit is about a pixel, and letters keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from agq.report.document import Bars, Chart, Heat, Lines

WIDTH = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 30
_HEIGHT = 190
_ROW = 20
# Letters of the longest name that stands beside its bar.
_BESIDE = 14


def draw(chart: Chart) -> str:
    """The chart as an `svg` element."""
    if isinstance(chart, Lines):
        return _lines(chart)
    return _bars(chart) if isinstance(chart, Bars) else _heat(chart)


def _svg(height: float, title: str, parts: Iterator[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def ticks(low: float, high: float, log: bool = False) -> list[float]:
    """Round numbers between low and high (low < high), at most about five. log: powers of ten; with 2 and 5 between
    where there would be fewer than three, and in even steps where there still are."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        powers = [10.0**power for power in range(first, last + 1, max(1, (last - first) // 4))]
        fine = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
        for tried in (powers, fine):
            found = [value for value in tried if low * 0.999 <= value <= high * 1.001]
            if len(found) >= 3:
                return found
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    start = math.ceil(low / step - 1e-9)
    return [index * step for index in range(start, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A tick's or a table's number in few digits: "0.05", "12", "1,500", "3e-07"."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}" if size < 1e6 else f"{value:.0e}"
    return f"{value:.3g}" if size >= 1e-3 else f"{value:.0e}"


def _span(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return (low / 1.5, high * 1.5) if high / low < 1.01 else (low / 1.1, high * 1.1)
    low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if high > low else (low, low + 1.0)


def _lines(chart: Lines) -> str:
    def usable(value: float | None) -> bool:
        return value is not None and math.isfinite(value) and (not chart.log or value > 0)

    values = [value for series in chart.series for value in series.y if value is not None and usable(value)]
    if not values:
        return _svg(24, chart.title, iter([_text(8, 16, "no values")]))
    low, high = _span(values, chart.log)
    across, down = WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    first, last = float(chart.x[0]), float(chart.x[-1])

    def place_x(value: float) -> float:
        return _LEFT + across * ((value - first) / (last - first) if last > first else 0.5)

    def place_y(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if chart.log else (value - low) / (high - low)
        return _TOP + down * (1 - share)

    def parts() -> Iterator[str]:
        for tick in ticks(low, high, chart.log):
            y = place_y(tick)
            yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield _text(_LEFT - 4, y + 3.5, number(tick), "end")
        marks = ticks(first, last) if last > first else [first]
        if all(float(x).is_integer() for x in chart.x):
            marks = [mark for mark in marks if float(mark).is_integer()]
        for mark in marks:
            x = place_x(mark)
            anchor = "end" if x > WIDTH - _RIGHT - 8 else "middle"
            yield _text(x, _HEIGHT - _BOTTOM + 13, number(mark), anchor)
        yield _text(_LEFT + across / 2, _HEIGHT - 4, chart.x_label, "middle", "axis")
        for index, series in enumerate(chart.series):
            yield from _line(
                index,
                series.name,
                [
                    (place_x(x), place_y(y)) if y is not None and usable(y) else None
                    for x, y in zip(chart.x, series.y, strict=True)
                ],
            )

    return _svg(_HEIGHT, f"{chart.title}: {chart.y_label} by {chart.x_label}", parts())


def _line(index: int, name: str, points: list[tuple[float, float] | None]) -> Iterator[str]:
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    title = f"<title>{escape(name)}</title>"
    for run in runs:
        if len(run) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
            yield f'<polyline class="line s{index}" points="{path}">{title}</polyline>'
        if 0 < len(run) <= 40:
            yield "".join(
                f'<circle class="dot s{index}" cx="{x:.1f}" cy="{y:.1f}" r="2.2">{title}</circle>' for x, y in run
            )


def _bars(chart: Bars) -> str:
    longest = max((len(name) for name, _, _ in chart.rows), default=0)
    above = longest > _BESIDE  # names stand above their bars, not beside them
    label, row = (4, _ROW + 14) if above else (8 + longest * 6, _ROW)
    words = 12 + max((len(text) for _, _, text in chart.rows), default=0) * 7
    most = max((value for _, value, _ in chart.rows), default=0) or 1.0
    room = WIDTH - label - words

    def parts() -> Iterator[str]:
        for index, (name, value, text) in enumerate(chart.rows):
            y, width = index * row, max(room * max(value, 0.0) / most, 1.0)
            yield _text(label, y + 14, name) if above else _text(label - 6, y + 14, name, "end")
            y += row - _ROW
            yield f'<rect class="bar" x="{label}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 6}" rx="2"/>'
            yield _text(label + width + 5, y + 14, text)

    return _svg(max(len(chart.rows), 1) * row + 2, chart.title, parts())


def _heat(chart: Heat) -> str:
    label = 10 + max(len(name) for name in chart.rows) * 6.5
    count = len(chart.columns)
    cell = (WIDTH - label - 2) / count
    height = min(max(cell, 16), 24)
    bottom = len(chart.rows) * height

    def parts() -> Iterator[str]:
        for row, name in enumerate(chart.rows):
            yield _text(label - 5, row * height + height / 2 + 4, name, "end")
            for column, found in enumerate(chart.cells[row]):
                x, gap = label + column * cell, min(1.5, cell / 6)
                box = f'x="{x:.2f}" y="{row * height:.1f}" width="{cell - gap:.2f}" height="{height - 1.5:.1f}"'
                if found is None:
                    yield f'<rect class="none" {box}/>'
                    continue
                words, badness = found
                tip = f"{name}, {chart.x_label} {chart.columns[column]}: {words}"
                yield (
                    f'<rect class="heat" fill-opacity="{0.08 + 0.92 * min(max(badness, 0.0), 1.0):.3f}" {box}>'
                    f"<title>{escape(tip)}</title></rect>"
                )
        step = max(1, math.ceil(count * 22 / (WIDTH - label)))
        for column in range(0, count, step):
            yield _text(label + (column + 0.5) * cell, bottom + 12, chart.columns[column], "middle")
        yield _text(label + (WIDTH - label) / 2, bottom + 26, chart.x_label, "middle", "axis")

    return _svg(bottom + 30, chart.title, parts())
