"""A page as data: sections of text, tables and charts, before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Series:
    """A line of a chart. y: one value for each x of the chart; None: not measured, the line has a gap."""

    name: str
    y: Sequence[float | None]


@dataclass(frozen=True)
class Lines:
    """A line chart. x: ascending; log: the vertical axis is logarithmic, and values that are not positive are left
    out."""

    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    series: Sequence[Series]
    log: bool = False

    @property
    def keyed(self) -> bool:
        """The names of the series are to be shown: one alone may have none."""
        return any(series.name for series in self.series)


@dataclass(frozen=True)
class Bars:
    """Horizontal bars from 0. rows: (name, value, the value in words)."""

    title: str
    rows: Sequence[tuple[str, float, str]]


@dataclass(frozen=True)
class Heat:
    """A grid of cells, darker where `badness` is higher.

    cells: [row][column] of (value in words, badness from 0 to 1), or None where there is nothing.
    """

    title: str
    x_label: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[tuple[str, float] | None]]
    low: str
    high: str


Chart = Lines | Bars | Heat


@dataclass(frozen=True)
class Table:
    """Cells as text. right: columns of numbers. folded: shown only when asked for."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()
    folded: bool = False


@dataclass(frozen=True)
class Missing:
    """What the page cannot show, and why."""

    text: str


@dataclass
class Section:
    """A heading, a sentence or two on how to read what follows, and what follows."""

    title: str
    intro: str = ""
    items: list[Chart | Table | Missing] = field(default_factory=list)

    @property
    def charts(self) -> list[Chart]:
        """Its charts, in order."""
        return [item for item in self.items if isinstance(item, Chart)]

    @property
    def missing(self) -> list[str]:
        """What it cannot show."""
        return [item.text for item in self.items if isinstance(item, Missing)]


@dataclass(frozen=True)
class Page:
    """title: the model's name; subtitle: what it is; story: the three sentences at the top."""

    title: str
    subtitle: str
    story: Sequence[str]
    sections: Sequence[Section]
