"""The page in a headless Chromium, light and dark, on a desktop and a telephone: scripts/check_page.py.

Skipped, with the reason, where no browser is found (`apt-get install chromium`).
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agq.report.document import Bars, Section
from agq.report.html import render
from agq.report.make import Made
from tests.support import REPOSITORY

pytestmark = pytest.mark.slow
SCRIPT = REPOSITORY / "scripts" / "check_page.py"
NO_BROWSER = 3


def checked(page: Path) -> tuple[int, str]:
    """Exit code and output of the script."""
    done = subprocess.run([sys.executable, str(SCRIPT), str(page)], capture_output=True, text=True)
    if done.returncode == NO_BROWSER:
        pytest.skip(done.stderr.strip())
    return done.returncode, done.stdout + done.stderr


def test_nothing_is_wrong(made: Made, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    long = Section(
        "Long words", "", [Bars("b", [("a name of many letters", 1.0, "1,234 MMMM"), ("short", 0.5, "9 kB")])]
    )
    more = replace(made.page, sections=[*made.page.sections, long])
    page.write_text(render(more), encoding="utf-8")
    assert checked(page) == (0, "nothing is wrong\n")


# What is put in place of something on the page, and what is said of it.
WRONG = (
    ("</main>", "<div style='width:500px'>wide</div><img src='other.png' alt=''></main>", "telephone, dark: 5"),
    ("--soft:#5f5e5a", "--soft:#bbb", "light: too pale"),
    ('<text class="tick" x="', '<text class="tick" x="-', "cut off"),
    ("prefers-color-scheme:dark", "prefers-color-scheme:none", "light and dark have one paper"),
    ("<main>", "<main>", "1 elements load something"),
)


def test_what_is_wrong_is_seen(made: Made, tmp_path: Path) -> None:
    page, text = tmp_path / "page.html", render(made.page)
    for old, new, _ in WRONG:
        assert old in text
        text = text.replace(old, new)
    page.write_text(text, encoding="utf-8")
    code, words = checked(page)
    assert code == 1 and [told for _, _, told in WRONG if told not in words] == []
