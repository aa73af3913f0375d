"""What differs from run to run or from machine to machine, and the name that stands for it in a snapshot."""

from __future__ import annotations

import re

from agq.version import __version__

# (name, pattern): what the pattern's group 1 matches is replaced by <name>; the whole match where it has no group.
MASKS: tuple[tuple[str, str], ...] = (
    ("version", r"(?m)^agq\s+(\d\S*)$"),
    ("version", rf"(?<=agq ){re.escape(__version__)}(?=\s|,|$)"),
    ("version", r"(?m)^(?:python|numpy|torch|transformers|compressed-tensors): (.+)$"),
    ("version", r"\btorch (\S+) reference\b"),
    ("version", r"(?m)^package \S+ +(.+)$"),
    ("version", r"(?m)^python\s+(.+)$"),
    ("library", r"(?m)^(library .+(?:\nlibrary .+)*)$"),
    ("system", r"(?m)^system\s+(.+)$"),
    ("processor", r"(?m)^processor\s+(.+(?:\nfeatures\s+.+)?)$"),
    ("threads", r"(?m)^threads\s+(.+)$"),
    ("memory", r"(?m)^memory\s+(\d[\d.]* GB)$"),
    ("memory", r"\(available: ([^)]*)\)"),
    ("memory", r"peak memory (\S+ MB)"),
    ("device", r"(?m)^device\s+(cpu|cuda)$"),
    ("seconds", r"(?m)^time\s+(\d\S* s)$"),
    ("seconds", r"(?m)^time\s+roughly (\d\S*(?: s)?), by the"),
    ("seconds", r"\b(?:load|first token after) (\d\S*) s\b"),
    ("speed", r"(\d\S*) tok/s\b"),
    ("speed", r"\| (?:pp|tg)\d+\S* \| (\S+ ± \S+) \|"),
    ("seconds", r"\| first token \| (\S+ ± \S+) s \|"),
    ("share", r"\| (\S+ % \| (?:memory|compute), [^|]+) \|"),
    ("perplexity", r"(?m)^(?:perplexity|survivors only|unpruned, \w+ tokens|all tokens)\s+(\d\S* \+- \S+)"),
    ("perplexity", r"(?<=perplexity )(\d\S*)(?= is above)"),
    ("perplexity", r"(?m)^baseline\s+.*\): (\d\S*)$"),
    ("ratio", r"(?m)^ratio\s+(\d\S* \+- \S+)"),
    ("ratio", r"perplexity is (\d\S*) x the baseline"),
    ("divergence", r"(?m)^KL divergence\s+(\S+ \+- \S+) nats"),
    ("share", r"(?m)^same top token\s+(\S+ \+- \S+ %)"),
    ("sparsity", r"(?m)^sparsity\s+(\S+ %)"),
    ("count", r"\((\d+) of \d+ tokens\)"),
    ("levels", r"(?m)^hint: AGQ_ISA can be: (.+)$"),
    ("processor", r"(?m)^agq \S+, (.+ cores), kernels"),
    ("quality", r"(?m)^\| (?:bf16|rounded) \| ([^|]+\|[^|]+\|[^|]+\|[^|]+) \|"),
    ("speed", r"(?m)^\| (?:bf16|rounded) \|.* \| ([^|]+ \| [^|]+ \| [^|]+) \|$"),
)

# Bold and dim, which NO_COLOR leaves; a colour would stay, and be seen.
_WEIGHT = re.compile(r"\x1b\[(?:0|1|2|1;2)m")


def masked(text: str) -> str:
    """`text` with the names in place of what they stand for, without bold and dim."""
    text = _WEIGHT.sub("", text)
    for name, pattern in MASKS:
        text = re.sub(pattern, lambda match, name=name: _named(match, name), text)
    return text


def _named(match: re.Match[str], name: str) -> str:
    group = 1 if match.re.groups else 0
    start, end = (place - match.start() for place in match.span(group))
    whole = match[0]
    return f"{whole[:start]}<{name}>{whole[end:]}"
