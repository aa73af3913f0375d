"""The page: whole, safe, and open about what it cannot show."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agq.errors import AgqError
from agq.report.document import Bars, Heat, Lines, Page, Section, Series, Table
from agq.report.html import render
from agq.report.make import Made, make
from agq.report.png import write
from agq.report.svg import draw, number, ticks

SECTIONS = (
    "Perplexity",
    "Error of each layer",
    "Inputs and their outliers",
    "Attention to the first token",
    "Bits of the activations",
    "Bits and bytes",
    "Tuning",
    "How it was made",
)
# Elements without an end tag.
VOID = ("meta", "line", "circle", "rect", "polyline")


class Reader(HTMLParser):
    """Elements that are open, those met, text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.met: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.met.add(tag)
        self.links += [name for name, _ in attrs if name in ("src", "href", "onload", "xlink:href")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.met.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_a_page_is_whole_and_loads_nothing(made: Made) -> None:
    page = render(made.page)
    reader = Reader(page)
    assert reader.open == [] and reader.links == [] and "script" not in reader.met
    assert not re.search(r"https?:|url\(|@import", page)
    assert "prefers-color-scheme:dark" in page and "width=device-width" in page
    assert [section.title for section in made.page.sections] == list(SECTIONS)
    for words in (*SECTIONS, *made.page.story):
        assert words in reader.text


def test_the_story_is_that_of_the_figures(made: Made) -> None:
    first, second, third = made.page.story
    assert made.losses is not None and made.losses.original is not None and made.losses.weights is not None
    ratio = made.losses.whole.ppl / made.losses.original.ppl
    assert f"perplexity of {made.losses.whole.ppl:.2f}" in first and f"{made.losses.original.ppl:.2f}" in first
    assert f"{100 * abs(ratio - 1):.1f} %" in first
    assert made.subject.bits is not None and f"{made.subject.bits.mean:.2f}".rstrip("0") in second
    assert re.search(r"weights costs \w+ of block \d .* inputs costs \w+ of block \d", third)


@pytest.mark.slow
def test_pictures(made: Made, tmp_path: Path) -> None:
    page = Page("t", "s", [], [Section("s", "", section.charts[:1]) for section in made.page.sections[:2]])
    drawn = write(page, tmp_path / "pictures")
    assert [path.name for path in drawn] == ["01-perplexity.png", "02-rounding-the-weights-on-calibration-text.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_text_is_escaped() -> None:
    evil = "<script>alert('\"&')</script>"
    charts = [
        Lines(evil, evil, evil, [0, 1], [Series(evil, [1, 2]), Series(evil, [2, None])]),
        Bars(evil, [(evil, 1.0, evil)]),
        Heat(evil, evil, [evil], [evil], [[(evil, 0.5)]], evil, evil),
    ]
    section = Section(evil, evil, [*charts, Table(evil, [evil], [[evil]], folded=True)])
    reader = Reader(render(Page(evil, evil, [evil], [section])))
    assert "script" not in reader.met and reader.open == [] and reader.text.count(evil) > 10


def test_charts_show_their_values() -> None:
    lines = Lines("t", "x", "y", [0, 1, 2, 3], [Series("a", [1.0, None, 10.0, 100.0])], log=True)
    drawn = draw(lines)
    assert drawn.count("<circle") == 3 and drawn.count("<polyline") == 1  # a gap ends a line
    (points,) = re.findall(r'points="([^"]+)"', drawn)
    (x2, y2), (x3, y3) = (tuple(map(float, point.split(","))) for point in points.split())
    (_, y0) = map(float, re.search(r'cx="([\d.]+)" cy="([\d.]+)"', drawn).groups())  # type: ignore[union-attr]
    assert x2 < x3 and y0 - y2 == pytest.approx(y2 - y3, abs=0.11)  # tenfold steps are of one height
    assert "no values" in draw(Lines("t", "x", "y", [0], [Series("a", [None])]))
    widths = [
        float(width)
        for width in re.findall(r'class="bar".*?width="([\d.]+)"', draw(Bars("t", [("a", 2.0, ""), ("b", 1.0, "")])))
    ]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.11)
    shades = re.findall(
        r'fill-opacity="([\d.]+)"', draw(Heat("t", "x", ["r"], ["0", "1"], [[("a", 0.0), ("b", 1.0)]], "", ""))
    )
    assert [float(shade) for shade in shades] == [0.08, 1.0]


def test_ticks() -> None:
    assert ticks(0, 10) == [0, 5, 10] or ticks(0, 10) == [0, 2.5, 5, 7.5, 10]
    assert ticks(1, 1000, log=True) == pytest.approx([1, 10, 100, 1000])
    assert ticks(1.5, 6, log=True) != [] and all(1.5 <= tick <= 6 for tick in ticks(1.5, 6, log=True))
    assert [number(value) for value in (0, 0.05, 12.0, 1500, 2.5e7, 3e-7)] == [
        "0",
        "0.05",
        "12",
        "1,500",
        "2e+07",
        "3e-07",
    ]


def test_a_packed_file_says_what_it_cannot_show(packed: Path, demo_text: Path) -> None:
    made = make(packed, None, str(demo_text / "heldout.txt"), 64, 1)
    missing = " ".join(made.to_dict()["not_shown"])
    assert missing.count("the kernels alone see the inputs") >= 3 and "original model was not named" in missing
    assert made.losses is not None and made.losses.weights is None and made.losses.original is None
    assert "not known" in made.page.story[0] and "0.0 dB" not in render(made.page)


def test_without_a_text_nothing_is_measured(turned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads((turned / "agq.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in turned.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "agq.json").unlink()
    document["calibration"]["source"] = "gone.txt"
    (copy / "agq.json").write_text(json.dumps(document))
    made = make(copy)
    assert made.losses is None and "not known" in made.page.story[0]
    assert "no text was read" in " ".join(made.to_dict()["not_shown"])


def test_what_is_refused(turned: Path, short_model: Path, demo_model: Path) -> None:
    with pytest.raises(AgqError, match="is not quantized"):
        make(short_model)
    with pytest.raises(AgqError, match="is quantized itself"):
        make(turned, turned)
    with pytest.raises(AgqError, match="has other sizes"):
        make(turned, demo_model)


@pytest.mark.slow
def test_the_command(call: Any, turned: Path, short_model: Path, demo_text: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    options = ("--data", demo_text / "heldout.txt", "--seq-len", 32, "--max-windows", 1, "-o", target)
    done = call("report", turned, "--original", short_model, *options, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["output"] == str(target) and found["png"] == [] and len(found["story"]) == 3
    assert found["perplexity"] > found["original_perplexity"] > 1
    assert all(sentence.split("'")[0] in target.read_text() for sentence in found["story"])
    shown = call("report", turned, *options)
    assert shown.out.count("\n") == 3 and str(target) in shown.err
