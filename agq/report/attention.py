"""The section of attention: what the first token gets, and what pruning removes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from agq.recipe.pruning import PruningOptions
from agq.report.document import Bars, Chart, Lines, Missing, Section, Series, Table
from agq.report.facts import Subject
from agq.report.measure import Observed

# Parts of a prompt, and tokens that are listed.
_PARTS, _LISTED = 10, 12


@dataclass(frozen=True)
class Read:
    """The text that was read. tokens: int64 [windows, n]; piece: the text of a token."""

    tokens: np.ndarray
    piece: Callable[[int], str]


def section(
    subject: Subject,
    observed: Observed | None,
    original: Observed | None,
    read: Read | None,
    length: int,
    reason: str,
) -> Section:
    """Attention to the first token, and what pruning removes of prompts of `length` tokens. reason: why nothing was
    observed."""
    made = Section(
        "Attention to the first token",
        "Heads that have nothing to say attend to the first token. A token that attends to it little is one that "
        "pruning removes first.",
    )
    layers = range(subject.spec.layers)
    named = (("original", original), ("quantized", observed))
    lines = [Series(name, found.attention) for name, found in named if found is not None]
    if lines:
        made.items.append(Lines("Mean probability of the first token", "block", "probability", layers, lines))
    else:
        made.items.append(Missing(f"attention to the first token: {reason}"))
    options = subject.pruning
    if options is None:
        made.items.append(Missing("what pruning removes: the recipe prunes no tokens"))
        return made
    made.items.append(_left(subject, options, length))
    seen = observed or original
    if seen is None or seen.kept is None or read is None:
        made.items.append(Missing(f"which tokens pruning removes: {reason}"))
    else:
        made.items += _removed(seen.kept, read)
    return made


def _left(subject: Subject, options: PruningOptions, length: int) -> Chart:
    layers = subject.spec.layers
    left = options.check(layers).counts(length, layers)
    title = f"Tokens of a prompt of {length} that are left ({options.describe()})"
    return Lines(title, "block", "tokens", range(layers), [Series("", left)])


def _removed(kept: np.ndarray, read: Read) -> Iterator[Chart | Table]:
    """Where in a prompt the removed tokens stand, and which are removed most. kept: bool [windows, n]."""
    parts = np.array_split(~kept, min(_PARTS, kept.shape[1]), axis=1)
    shares = [float(part.mean()) for part in parts]
    starts = np.cumsum([0, *(part.shape[1] for part in parts)])
    rows = [
        (f"tokens {first + 1}-{last}", share, f"{100 * share:.0f} %")
        for first, last, share in zip(starts[:-1], starts[1:], shares, strict=True)
    ]
    yield Bars("Share that is removed, by place in the prompt", rows)
    removed, all_of = Counter(read.tokens[~kept].tolist()), Counter(read.tokens.flatten().tolist())
    yield Table(
        f"Tokens that are removed most: {int((~kept).sum())} of {kept.size} are",
        ("token", "removed", "of all of them"),
        [
            (repr(read.piece(token)), str(count), f"{100 * count / all_of[token]:.0f} %")
            for token, count in removed.most_common(_LISTED)
        ],
        right=(1, 2),
    )
