"""A comparison as one HTML page that needs nothing else: the table, then the answers that differ, side by side."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from html import escape
from textwrap import shorten

from agq.comparison.results import Compared, Comparison
from agq.comparison.table import (
    TEXT_COLUMNS,
    answer_columns,
    answer_row,
    answer_title,
    kind_columns,
    kind_row,
    text_row,
    text_titles,
)

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_ANSWERS = (
    "same: share of answers with exactly the original's tokens. prefix, median: tokens before the first other one. The "
    "rest: how much the words (ROUGE) and the meaning (BERTScore, STS) have in common; 1 is everything."
)
_TEXTS = (
    "KL: how far the predictions are from the original's, in nats; 0 is not at all. top-1: how often the likeliest "
    "next token is the same. abits: effective bits of the activations; -: floats. ratio: perplexity over the "
    "original's. +-: standard errors."
)
_STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1b1f24; --soft: #5a6472; --line: #d5dae1; --card: #f6f8fa;
  --gone: #ffd8d3; --new: #c8efd0; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --ink: #e6e9ed; --soft: #9aa5b3; --line: #343b45;
  --card: #1c2127; --gone: #6b2a24; --new: #1f5130; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 78rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .6rem 0; background: var(--card); }
summary { cursor: pointer; padding: .6rem .8rem; } .inside { padding: 0 .8rem .8rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; margin: .6rem 0; }
@media (max-width: 44rem) { .pair { grid-template-columns: 1fr; } }
.text { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--back); border: 1px solid var(--line);
  border-radius: .4rem; padding: .6rem; margin: 0; font: inherit; }
del { background: var(--gone); text-decoration: none; } ins { background: var(--new); text-decoration: none; }
"""


def to_html(found: Comparison) -> str:
    """The page. All that models and files say is escaped; nothing is loaded from elsewhere."""
    names = ", ".join(row.made.name for row in found.others)
    body = [
        f"<h1>{escape(found.original.name)} and {escape(names)}</h1>",
        *(f"<p>{escape(sentence)}</p>" for sentence in found.verdict()),
        f"<h2>{answer_title(found)}</h2>",
        _table(answer_columns(found), [answer_row(found, row) for row in found.rows]),
        f'<p class="soft">{_ANSWERS}</p>',
        *(part for index, title in enumerate(text_titles(found)) for part in _text(found, index, title)),
        f'<p class="soft">{_TEXTS}</p>',
        *_kinds(found),
        *(f'<p class="soft">{escape(line)}</p>' for line in found.facts()),
        "<h2>Answers that differ</h2>",
        '<p class="soft">Left the original, right the other model. Marked: <del>what only the left says</del>, '
        "<ins>what only the right says</ins>.</p>",
        *_passages(found),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(found.original.name)} compared</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = ["".join(f"<td>{escape(cell or '-')}</td>" for cell in row) for row in rows]
    inner = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{inner}</tbody></table></div>'


def _text(found: Comparison, index: int, title: str) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", _table(TEXT_COLUMNS, [text_row(found, row, index) for row in found.rows])]


def _kinds(found: Comparison) -> list[str]:
    """A table by kinds, where prompts have some."""
    if not found.prompts.kinds:
        return []
    what = "; then ROUGE-L" if found.has("rouge_l") else ""
    return [
        "<h2>By kind of prompt</h2>",
        f'<p class="soft">Mean tokens before the first that is not the original\'s{what}.</p>',
        _table(kind_columns(found), [kind_row(found, row) for row in found.rows]),
    ]


def _passages(found: Comparison) -> list[str]:
    """One part a prompt with an answer that differs."""
    parts: list[str] = []
    for index, prompt in enumerate(found.prompts.prompts):
        differing = [row for row in found.others if not row.distances[index].same]
        if not differing:
            continue
        original = found.original.answers[index].text
        pairs = "".join(_pair(found.original.name, original, row, index) for row in differing)
        head = f"{prompt.id}: {shorten(prompt.text, 90, placeholder=' ...')}"
        parts.append(
            f"<details{' open' if not parts else ''}><summary>{escape(head)} "
            f'<span class="soft">{len(differing)} of {len(found.others)} differ</span></summary>'
            f'<div class="inside"><p class="soft">Prompt</p><pre class="text">{escape(prompt.text)}</pre>{pairs}</div>'
            "</details>"
        )
    return parts or ["<p>None: all models give the same answers.</p>"]


def _pair(name: str, original: str, row: Compared, index: int) -> str:
    distance = row.distances[index]
    left, right = word_diff(original, row.made.answers[index].text)
    said = f"equal up to token {distance.prefix} of {distance.tokens}"
    return (
        f'<div class="pair"><div><p class="soft">{escape(name)}</p><pre class="text">{left}</pre></div>'
        f'<div><p class="soft">{escape(row.made.name)}: {said}</p><pre class="text">{right}</pre></div></div>'
    )


def word_diff(original: str, other: str) -> tuple[str, str]:
    """Both texts as escaped HTML, what only one of them says marked: <del> in the first, <ins> in the second."""
    one, two = _WORDS.findall(original), _WORDS.findall(other)
    left, right = [], []
    for kind, start, end, begin, stop in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        gone, new = escape("".join(one[start:end])), escape("".join(two[begin:stop]))
        if kind == "equal":
            left.append(gone)
            right.append(new)
            continue
        left.append(f"<del>{gone}</del>" if gone else "")
        right.append(f"<ins>{new}</ins>" if new else "")
    return "".join(left), "".join(right)
