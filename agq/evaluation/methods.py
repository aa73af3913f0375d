"""The four published definitions of perplexity, as windows of tokens: what goes in, and which tokens are scored.

Numbers of different methods, texts, tokenizers or window lengths do not compare; every result carries all of these.

- gptq (GPTQ, AWQ, QuaRot, SpinQuant, Agile-Quant): the whole text is tokenized once, so BOS stands at its very start
  only. Windows of `seq_len` tokens that do not overlap, the incomplete last one dropped; tokens 1.. of each are scored.
  exp of the mean of the windows' mean negative log likelihoods (equal to the mean over all tokens: windows are of one
  size).
- llama.cpp (its `perplexity` tool): the same windows, 512 tokens by default; the first token of each is replaced by BOS
  if the model adds BOS; only the second half is scored, tokens seq_len/2 + 1.. (255 of 512).
- lm-eval (its `wikitext` task): document by document, detokenized; rolling windows in which each token is scored once,
  the first after BOS (EOS where there is none); exp of the negative log likelihood per word of the original text.
- strided (Hugging Face's documentation): windows of `seq_len` that move by `stride`; in each, the tokens that no
  earlier window held are scored (of the first window all but its first token). exp of the mean negative log likelihood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agq.errors import AgqError, UsageError


@dataclass(frozen=True)
class Method:
    """What sets one definition apart from the others.

    Attributes:
        seq_len: tokens of a window where nobody says; least: the fewest that can be scored.
        stride: where nobody says; None: windows do not overlap, or the method has its own rule.
        second_half: only that is scored, and BOS replaces the first token of each window if the model adds one.
        documents: windows belong to documents, not to one text. c4: the windows of GPTQ's C4 are defined for it.
    """

    seq_len: int = 2048
    least: int = 2
    stride: int | None = None
    second_half: bool = False
    documents: bool = False
    c4: bool = False


METHODS = {
    "gptq": Method(c4=True),
    "llama.cpp": Method(seq_len=512, least=4, second_half=True),
    "lm-eval": Method(documents=True),
    "strided": Method(stride=512, c4=True),
}


@dataclass(frozen=True)
class Window:
    """inputs: int64 [n] ids given to the model. The logits at positions first..first+len(targets)-1 are scored against
    targets.
    """

    inputs: np.ndarray
    first: int
    targets: np.ndarray


@dataclass(frozen=True)
class Plan:
    """All windows of an evaluation.

    Attributes:
        windows: those to compute, in order. total: how many there are without `max_windows`.
        tokens: tokens of the text, BOS included. bos: what was done about BOS, for people. add_bos: whether any window
            holds one.
        words, bytes: of the original text behind the windows (lm-eval only).
    """

    windows: list[Window]
    total: int
    tokens: int
    bos: str
    add_bos: bool
    seq_len: int
    stride: int | None = None
    words: int | None = None
    bytes: int | None = None

    @property
    def scored(self) -> int:
        """Tokens that the windows score."""
        return sum(len(window.targets) for window in self.windows)


def those(has: Callable[[Method], bool]) -> str:
    """The methods that have something, for a hint."""
    return "use " + " or ".join(f"`method: {name}`" for name, row in METHODS.items() if has(row))


def check_method(method: str, seq_len: int | None, stride: int | None) -> Method:
    """The row of a method. UsageError for an unknown one or sizes that it cannot work with; None: its default."""
    if method not in METHODS:
        raise UsageError(f"unknown method `{method}`", hint=f"methods: {', '.join(METHODS)}")
    row = METHODS[method]
    seq_len = row.seq_len if seq_len is None else seq_len
    if seq_len < row.least:
        raise UsageError(
            f"windows of {seq_len} tokens cannot be scored", hint=f"`seq_len:` is at least {row.least} with {method}"
        )
    if stride is not None and row.stride is None:
        raise UsageError(f"`stride:` has no meaning with method {method}", hint=those(lambda row: bool(row.stride)))
    if stride is not None and not 1 <= stride <= seq_len:
        raise UsageError(
            f"stride {stride} is not between 1 and the window of {seq_len} tokens", hint="choose a smaller `stride:`"
        )
    return row


def plan_tokens(
    method: str,
    ids: np.ndarray,
    seq_len: int,
    stride: int | None = None,
    bos_id: int | None = None,
    replace_bos: bool = False,
    max_windows: int | None = None,
) -> Plan:
    """Windows of one tokenized text, for gptq, llama.cpp and strided.

    Args:
        ids: int64 [n], with BOS at its start or not.
        stride: of strided; default 512, at most seq_len.
        bos_id: BOS, to tell whether ids begin with it. replace_bos: llama.cpp: put it in place of each window's first
            token.

    Raises:
        AgqError: the text is shorter than one window. UsageError: see check_method.
    """
    row = check_method(method, seq_len, stride)
    starts_with_bos = bos_id is not None and len(ids) > 0 and int(ids[0]) == bos_id
    bos = f"one BOS (id {bos_id}) at the start of the text" if starts_with_bos else "no BOS"
    if row.stride is not None:
        step = min(row.stride, seq_len) if stride is None else stride
        if len(ids) < 2:
            raise AgqError(f"the text has {len(ids)} tokens; at least 2 are needed", hint="use a longer text")
        windows = list(_strided(ids, seq_len, step))
        return Plan(windows[:max_windows], len(windows), len(ids), bos, starts_with_bos, seq_len, step)
    count = len(ids) // seq_len
    if count == 0:
        raise AgqError(
            f"the text has {len(ids)} tokens, which does not fill one window of {seq_len}",
            hint=f"use a longer text or `seq_len: {len(ids)}` or less",
        )
    windows = []
    for index in range(count if max_windows is None else min(count, max_windows)):
        inputs = ids[index * seq_len : (index + 1) * seq_len]
        first = 0
        if row.second_half:
            first = seq_len // 2
            if replace_bos:
                inputs = inputs.copy()
                inputs[0] = bos_id
        windows.append(Window(inputs, first, ids[index * seq_len + first + 1 : (index + 1) * seq_len]))
    replaced = row.second_half and replace_bos
    if replaced:
        bos = f"BOS (id {bos_id}) in place of the first token of each window"
    return Plan(windows, count, len(ids), bos, starts_with_bos or replaced, seq_len)


def _strided(ids: np.ndarray, seq_len: int, stride: int) -> Iterator[Window]:
    scored = 1  # tokens before this one need no score: the first has nothing before it
    for start in range(0, len(ids), stride):
        end = min(start + seq_len, len(ids))
        scored = max(scored, start + 1)  # a stride of seq_len leaves the first token of each window without context
        if end > scored:
            yield Window(ids[start:end], scored - 1 - start, ids[scored:end])
        scored = end
        if end == len(ids):
            return


def plan_documents(
    documents: Sequence[str],
    tokens: Sequence[np.ndarray],
    seq_len: int,
    prefix: int,
    add_bos: bool,
    max_windows: int | None = None,
) -> Plan:
    """Rolling windows over documents, for lm-eval.

    Args:
        documents: the original texts, whose words and bytes count. tokens: ids of each (of the detokenized text), BOS
            in front if add_bos. prefix: the id that stands before the first token and is not scored.
        max_windows: no further document is begun when so many windows are there (words belong to whole documents).

    Raises:
        AgqError: no document has a token.
    """
    check_method("lm-eval", seq_len, None)
    windows: list[Window] = []
    total = words = size = count = 0
    for document, ids in zip(documents, tokens, strict=True):
        of_document = list(_rolling(ids, seq_len, prefix))
        total += len(of_document)
        if max_windows is not None and len(windows) >= max_windows:
            continue
        windows += of_document
        count += len(ids)
        words += len(re.split(r"\s+", document))
        size += len(document.encode("utf-8"))
    if not windows:
        raise AgqError("the text has no tokens", hint="use a longer text")
    bos = f"id {prefix} before each document, not scored" + (", and BOS as its first token" if add_bos else "")
    return Plan(windows, total, count, bos, add_bos, seq_len, words=words, bytes=size)


def _rolling(ids: np.ndarray, seq_len: int, prefix: int) -> Iterator[Window]:
    """Each token scored once: windows of seq_len after one token of context; the last one takes all the context that
    fits.
    """
    n = len(ids)
    if n == 0:
        return
    first = min(seq_len, n)
    yield Window(np.concatenate([[prefix], ids[: first - 1]]).astype(np.int64), 0, ids[:first])
    done = first
    while done < n:
        count = min(n - done, seq_len)
        end = done + count
        inputs = ids[end - seq_len - 1 : end - 1]
        yield Window(inputs, len(inputs) - count, ids[done:end])
        done = end


# ---- the documents of lm-eval's wikitext task

# Undoes WikiText's tokenization, in this order: (regular expression or plain text, replacement). Rules of the task,
# whose
# published numbers rest on them.
_PLAIN = [
    ("s '", "s'"),
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    (" : ", ": "),
    (" ; ", "; "),
    (" . ", ". "),
    (" ! ", "! "),
    (" ? ", "? "),
    (" , ", ", "),
]
_BRACKETS = [
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
]
_REST = [
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" \u00b0 ", "\u00b0"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
]


def detokenize(text: str) -> str:
    """WikiText as ordinary text: "a @-@ b , c" -> "a-b, c"."""
    for old, new in _PLAIN:
        text = text.replace(old, new)
    for pattern, new in _BRACKETS:
        text = re.sub(pattern, new, text)
    for old, new in _REST:
        text = text.replace(old, new)
    return text


def wikitext_documents(text: str) -> list[str]:
    """The articles of a raw WikiText file, cut before each line ` = Title = `; one document where there is no such
    line.
    """
    documents: list[str] = []
    lines: list[str] = []
    for line in text.split("\n"):
        if _is_title(line):
            if "".join(lines).strip():
                documents.append("\n".join(lines))
            lines = []
        lines.append(line)
    documents.append("\n".join(lines))
    return documents


def looks_like_wikitext(text: str) -> bool:
    """Whether any line is the title of a WikiText article."""
    return any(_is_title(line) for line in text.split("\n"))


def _is_title(line: str) -> bool:
    """` = Title = `, but not ` = = Section = = `."""
    line = line.strip()
    return line.startswith("= ") and line.endswith(" =") and not line.startswith("= =") and len(line) > 3
