#!/usr/bin/env python3
"""Looks at a page of `agq report` in a headless Chromium: light and dark, on a desktop and on a telephone.

    python3 scripts/check_page.py PAGE.html [--shots DIR] [--browser PROGRAM]

Nothing may be wider than the screen, letters may not overlap a chart's edge, text must stand out from what is behind
it, and nothing may be loaded. Exit code 1 where something is wrong, 3 where no browser is found. --shots keeps the
pictures, to be looked at.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "chrome")
# Pixels of a desktop and of a telephone.
SCREENS = {"desktop": (1280, 900), "telephone": (375, 812)}
# Chromium's numbers of its setting.
SCHEMES = {"light": 1, "dark": 0}
# Contrast of letters against what is behind them (WCAG 2.2, level AA).
CONTRAST = 4.5
# What the page tells of itself; only in the copy that is looked at.
PROBE = """<script>
function luminance(text) {
  const parts = text.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255);
  const [r, g, b] = parts.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function behind(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (colour !== "rgba(0, 0, 0, 0)") return colour;
  }
  return "rgb(255, 255, 255)";
}
const found = {width: document.documentElement.scrollWidth, screen: innerWidth, pale: [], cut: [], loaded: 0,
               charts: document.querySelectorAll("figure").length, paper: behind(document.body)};
for (const element of document.querySelectorAll("h1,h2,h3,p,th,td,figcaption,text,summary")) {
  if (!element.textContent.trim() || !element.getClientRects().length) continue;
  const style = getComputedStyle(element), svg = element.tagName === "text";
  const [a, b] = [luminance(svg ? style.fill : style.color), luminance(behind(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < LIMIT) found.pale.push(element.textContent.trim().slice(0, 40));
  if (svg) {
    const inner = element.getBoundingClientRect(), outer = element.ownerSVGElement.getBoundingClientRect();
    if (inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1)
      found.cut.push(element.textContent.trim().slice(0, 40));
  }
}
found.loaded = document.querySelectorAll("[src],[href],link,object,iframe").length;
parent.postMessage(JSON.stringify(found), "*");
</script></body>"""
# A frame of the screen's size: a browser's own window is not always as narrow as a telephone.
FRAME = """<!doctype html><meta charset="utf-8"><style>body{{margin:0}}iframe{{border:0;display:block}}</style>
<script>addEventListener("message", told => document.body.append("FOUND" + told.data + "DNUOF"));</script>
<body><iframe src="{page}" width="{width}" height="{height}"></iframe></body>"""


def browser(named: str | None = None) -> str | None:
    """A Chromium on this machine; None where there is none."""
    return next((found for name in ((named,) if named else BROWSERS) if (found := shutil.which(name))), None)


def run(program: str, page: Path, screen: tuple[int, int], scheme: int, *more: str) -> str:
    """Opens a page; what the browser prints."""
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--virtual-time-budget=5000", f"--blink-settings=preferredColorScheme={scheme}", *more]
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        width, height = screen
        frame.write_text(FRAME.format(page=page.as_uri(), width=width, height=height), encoding="utf-8")
        command += [f"--window-size={width},{height}", f"--user-data-dir={folder}/profile", frame.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120).stdout


def look(program: str, page: Path, screen: tuple[int, int], scheme: int) -> dict[str, Any]:
    """What a page tells of itself on a screen."""
    text = page.read_text(encoding="utf-8").replace("</body>", PROBE.replace("LIMIT", str(CONTRAST)))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(text, encoding="utf-8")
        told = run(program, copy, screen, scheme, "--dump-dom")
    words = told.rpartition("FOUND")[2].partition("DNUOF")[0]
    found: dict[str, Any] = json.loads(words.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return found


def problems(program: str, page: Path, shots: Path | None = None) -> list[str]:
    """One line for each thing that is wrong on a screen."""
    lines, papers = [], set()
    for device, screen in SCREENS.items():
        for name, scheme in SCHEMES.items():
            found = look(program, page, screen, scheme)
            where = f"{device}, {name}"
            papers.add((name, found["paper"]))
            if found["screen"] != screen[0]:
                lines.append(f"{where}: the browser's window is {found['screen']} wide, not {screen[0]}")
            if found["width"] > screen[0]:
                lines.append(f"{where}: {found['width']} pixels wide, the screen has {screen[0]}")
            for what, words in (("too pale", found["pale"]), ("cut off", found["cut"])):
                lines += [f"{where}: {what}: {text}" for text in words]
            if found["loaded"]:
                lines.append(f"{where}: {found['loaded']} elements load something")
            if shots is not None:
                shots.mkdir(parents=True, exist_ok=True)
                target = (shots / f"{device}-{name}.png").resolve()
                run(program, page, (screen[0], 6000), scheme, f"--screenshot={target}")
    if len(papers) != len(SCHEMES) or len({paper for _, paper in papers}) != len(SCHEMES):
        lines.append("light and dark have one paper")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--shots", type=Path)
    parser.add_argument("--browser")
    options = parser.parse_args()
    program = browser(options.browser)
    if program is None:
        print(f"no browser: none of {', '.join(BROWSERS)} is on this machine", file=sys.stderr)
        return 3
    found = problems(program, options.page.resolve(), options.shots)
    print(*(found or ["nothing is wrong"]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
