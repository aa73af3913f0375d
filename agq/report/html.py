"""A page as one HTML file: styles and drawings are inside, nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from agq.report.document import Chart, Heat, Lines, Missing, Page, Section, Table
from agq.report.style import STYLE
from agq.report.svg import draw


def render(page: Page) -> str:
    """The whole file."""
    return "\n".join(_page(page)) + "\n"


def _page(page: Page) -> Iterator[str]:
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{escape(page.title)}: where accuracy went</title>"
    yield f"<style>{STYLE}</style></head><body><main>"
    yield f"<header><h1>{escape(page.title)}</h1><p class=sub>{escape(page.subtitle)}</p>"
    yield "<div class=story>"
    yield from (f"<p>{escape(sentence)}</p>" for sentence in page.story)
    yield "</div></header>"
    for section in page.sections:
        yield from _section(section)
    yield "</main></body></html>"


def _section(section: Section) -> Iterator[str]:
    yield f"<section><h2>{escape(section.title)}</h2>"
    if section.intro:
        yield f"<p class=intro>{escape(section.intro)}</p>"
    charts: list[Chart] = []
    for item in [*section.items, None]:
        if isinstance(item, Chart):
            charts.append(item)
            continue
        if charts:
            yield "<div class=charts>"
            yield from map(_figure, charts)
            yield "</div>"
            charts = []
        if isinstance(item, Table):
            yield from _table(item)
        elif isinstance(item, Missing):
            yield f"<p class=missing>Not shown: {escape(item.text)}</p>"
    yield "</section>"


def _figure(chart: Chart) -> str:
    caption = f"<figcaption>{escape(chart.title)}"
    if isinstance(chart, Lines):
        caption += f" <span class=unit>({escape(chart.y_label)})</span>"
        if chart.keyed:
            keys = (
                f'<span class=key><svg viewBox="0 0 10 10" class=swatch><rect class="fill s{index}" width="10" '
                f'height="10" rx="2"/></svg>{escape(series.name)}</span>'
                for index, series in enumerate(chart.series)
            )
            caption += f"<span class=keys>{''.join(keys)}</span>"
    elif isinstance(chart, Heat):
        caption += (
            f"<span class=keys><span class=key>{escape(chart.low)}</span>"
            '<svg viewBox="0 0 60 10" class=ramp>'
            + "".join(
                f'<rect class="heat" x="{step * 10}" width="10" height="10" fill-opacity="{0.08 + 0.184 * step:.3f}"/>'
                for step in range(6)
            )
            + f"</svg><span class=key>{escape(chart.high)}</span></span>"
        )
    return f"<figure>{caption}</figcaption>{draw(chart)}</figure>"


def _table(table: Table) -> Iterator[str]:
    head = "".join(
        f"<th{' class=right' if index in table.right else ''}>{escape(name)}</th>"
        for index, name in enumerate(table.columns)
    )
    title = escape(table.title)
    if table.folded:
        yield f"<details><summary>{title}</summary>"
    elif title:
        yield f"<h3>{title}</h3>"
    kind = " class=pairs" if len(table.columns) == 2 else ""
    yield f"<div class=scroll><table{kind}><thead><tr>{head}</tr></thead><tbody>"
    for row in table.rows:
        cells = (
            f"<td{' class=right' if index in table.right else ''}>{escape(cell)}</td>" for index, cell in enumerate(row)
        )
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
    if table.folded:
        yield "</details>"
