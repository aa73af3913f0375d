"""The section of attention: what the first token gets, and what pruning removes."""

from __future__ import annotations

from agq.report.document import Lines, Missing, Section, Series
from agq.report.facts import Subject
from agq.report.measure import Observed


def attention(
    subject: Subject, observed: Observed | None, original: Observed | None, tokens: int, reason: str
) -> Section:
    """Attention to the first token, and what pruning removes of a prompt of `tokens` tokens."""
    section = Section(
        "Attention to the first token",
        "Heads that have nothing to say attend to the first token; tokens that attend to it most are those that "
        "pruning keeps.",
    )
    layers = range(subject.spec.layers)
    lines = [
        Series(name, found.attention)
        for name, found in (("original", original), ("quantized", observed))
        if found is not None
    ]
    if lines:
        section.items.append(Lines("Mean probability of the first token", "block", "probability", layers, lines))
    else:
        section.items.append(Missing(f"attention to the first token: {reason}"))
    options = subject.pruning
    if options is None:
        section.items.append(Missing("what pruning removes: the recipe prunes no tokens"))
    else:
        left = options.check(subject.spec.layers).counts(tokens, subject.spec.layers)
        title = f"Tokens of a prompt of {tokens} that are left: {options.describe()}"
        section.items.append(Lines(title, "block", "tokens", layers, [Series("left", left)]))
    return section
