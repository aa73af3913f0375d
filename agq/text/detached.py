"""Text as tokenized corpora write it. WikiText, the Penn Treebank and what else went through Moses' tokenizer put
spaces around punctuation and mark what was joined: `a well @-@ known 1 @,@ 000 , he said .`

A model meets both forms: most text is written as people write, the usual perplexity is measured on WikiText. What 4
bits lose on a form that calibration lacks is several times what they lose on the other, and half the windows of each
cost nothing on either (docs/results-small-models.md).
"""

from __future__ import annotations

import re

# In turn. A character beside `@` belongs to a mark that is there already.
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=[^\W_])-(?=[^\W_])", " @-@ "),
        (r"(?<=\d),(?=\d)", " @,@ "),
        (r"(?<=\d)\.(?=\d)", " @.@ "),
        (r"(?<=\w)'(?=\w)", " '"),
        (r'(?<=[^\s@])([,;:!?"()\[\]{}])', r" \1"),
        (r'([,;:!?"()\[\]{}])(?=[^\s@])', r"\1 "),
        # The end of a sentence; not the points of `...` and `J. S. Bach`.
        (r"(?<![\s.@])(?<!\b[A-Z])\.(?=\s|$)", " ."),
    )
)
# Characters that `is_detached` looks at, and the share of marks behind a space from which a text is tokenized.
_SAMPLE, _SHARE = 1 << 18, 0.5


def detach(text: str) -> str:
    """`text` with spaces around its punctuation, ` @-@ ` between the parts of compounds, ` @,@ ` and ` @.@ ` in
    numbers. Detaching twice changes nothing."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def is_detached(text: str) -> bool:
    """Whether most commas and points of a text stand apart, as in WikiText."""
    sample = text[:_SAMPLE]
    marks = len(re.findall(r"[,.](?=\s)", sample))
    return bool(marks) and len(re.findall(r"\s[,.](?=\s)", sample)) > _SHARE * marks
