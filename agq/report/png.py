"""The charts of a page as PNG files, drawn by matplotlib (`pip install '.[plot]'` in the source folder)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from agq.errors import AgqError
from agq.files import atomic_writer
from agq.report.document import Bars, Chart, Heat, Lines, Page

_DPI = 160


def check_available() -> None:
    """Raises AgqError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise AgqError(
            "pictures need matplotlib, which is not installed", hint="pip install matplotlib, or leave `png:` away"
        ) from None


def write(page: Page, folder: Path) -> list[Path]:
    """Writes each chart into a folder, which is made where it is not there: `03-input-of-o-channels.png`. AgqError
    where it cannot be written."""
    check_available()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AgqError(f"`{folder}` cannot be made: {error.strerror or error}") from error
    charts = [chart for section in page.sections for chart in section.charts]
    return [_write(chart, folder / f"{index:02d}-{_slug(chart.title)}.png") for index, chart in enumerate(charts, 1)]


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:48].rstrip("-")


def _write(chart: Chart, path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.4))
    if isinstance(chart, Lines):
        _lines(chart, axes)
    elif isinstance(chart, Bars):
        _bars(chart, axes)
    else:
        _heat(chart, axes, figure)
    axes.set_title(chart.title, fontsize=9)
    figure.tight_layout()
    with atomic_writer(path) as file:
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _lines(chart: Lines, axes: Any) -> None:
    for series in chart.series:
        values = [float("nan") if y is None or (chart.log and y <= 0) else y for y in series.y]
        axes.plot(chart.x, values, marker="." if len(chart.x) <= 40 else None, label=series.name)
    if chart.log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.grid(True, alpha=0.3)
    if chart.keyed:
        axes.legend(fontsize=8)


def _bars(chart: Bars, axes: Any) -> None:
    names = [name for name, _, _ in chart.rows]
    drawn = axes.barh(names, [value for _, value, _ in chart.rows])
    axes.bar_label(drawn, [words for _, _, words in chart.rows], padding=3, fontsize=8)
    axes.margins(x=0.2)
    axes.invert_yaxis()


def _heat(chart: Heat, axes: Any, figure: Any) -> None:
    cells = [[float("nan") if cell is None else cell[1] for cell in row] for row in chart.cells]
    image = axes.imshow(cells, aspect="auto", cmap="Oranges", vmin=0, vmax=1)
    axes.set_yticks(range(len(chart.rows)), chart.rows)
    axes.set_xlabel(chart.x_label)
    bar = figure.colorbar(image, ticks=[0, 1])
    bar.ax.set_yticklabels([chart.low, chart.high])
