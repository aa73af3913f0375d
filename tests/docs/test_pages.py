"""Links between pages, names of files, length of lines."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import PAGES, RUN, name_of, prose
from tests.support import REPOSITORY

COLUMNS = 120
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
# `agq/models/spec.py`, `kernels/src/ops/`: what begins with a folder of the repository and names a file or a folder.
ROOTS = ("agq", "benchmarks", "configs", "demo", "docs", "kernels", "scripts", "tests")
NAMED = re.compile(rf"`((?:{'|'.join(ROOTS)})/[\w./-]*)`")
MADE = ("kernels/build",)  # by the Makefile


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    found = set()
    for _, line in prose(page):
        if heading := re.match(r"#+ (.*)", line):
            kept = re.sub(r"[^\w\- ]", "", heading[1].lower())
            found.add(kept.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for number, line in prose(page):
        for target in LINK.findall(line):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = unquote(target).partition("#")
            found = (page.parent / path).resolve() if path else page
            if not found.exists() or (anchor and anchor not in anchors(found)):
                wrong.append(f"{name_of(page)}:{number}: {target}")
    assert not wrong, wrong


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page: Path) -> None:
    wrong = [
        f"{name_of(page)}:{number}: {name}"
        for number, line in prose(page)
        for name in NAMED.findall(line)
        if not name.startswith(MADE) and not (REPOSITORY / name).exists()
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_have_at_most_120_columns(page: Path) -> None:
    """Rows of tables apart."""
    lines = page.read_text(encoding="utf-8").splitlines()
    wrong = [number for number, line in enumerate(lines, 1) if len(line) > COLUMNS and not line.startswith("|")]
    assert not wrong, wrong


def test_every_page_is_in_the_index() -> None:
    index = REPOSITORY / "docs" / "README.md"
    linked = {target.partition("#")[0] for _, line in prose(index) for target in LINK.findall(line)}
    assert {page.name for page in RUN[1:] if page != index} <= linked


def glossary() -> tuple[list[str], list[str]]:
    """The words of the glossary's two tables, in small letters."""
    text = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")
    tables = [re.findall(r"^\| (.+?) \|", part, re.MULTILINE)[1:] for part in text.split("\n## ")[1:]]
    first, others = [[word.lower() for word in words] for words in tables]
    return first, others


def test_words_of_the_glossary() -> None:
    """Twenty to begin with, all others in order, none twice."""
    first, others = glossary()
    assert len(first) == 20 and len(others) > 50
    assert others == sorted(others) and not set(first) & set(others)


@pytest.mark.parametrize("name", ["faq.md", "glossary.md"])
def test_words_in_italics_are_explained(name: str) -> None:
    first, others = glossary()
    known = {re.sub(r" \(.*", "", word) for word in (*first, *others)}
    text = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    used = {re.sub("'s$", "", word.lower()) for word in re.findall(r"(?<!\*)\*([A-Za-z][^*\n]*)\*(?!\*)", text)}
    unknown = {word for word in used if not {word, word.removesuffix("s")} & known}
    assert unknown <= {"italics"} and len(used) > 8


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_functions_stand_in_their_files(page: Path) -> None:
    """`walk` (`agq/quantization/walk.py`): that file defines it."""
    text = " ".join(line for _, line in prose(page))
    wrong = []
    for function, path in re.findall(r"`(\w+)` \(`((?:agq|kernels)/[\w/]+\.(?:py|c|h))`", text):
        defined = rf"^(def|class) {function}\b" if path.endswith(".py") else rf"^\w[\w *]*\b{function}\("
        if not re.search(defined, (REPOSITORY / path).read_text(encoding="utf-8"), re.MULTILINE):
            wrong.append(f"{function} in {path}")
    assert not wrong, wrong
