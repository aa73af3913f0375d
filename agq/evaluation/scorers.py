"""What gives logits: the engine on a packed artifact (engine_scorer.py), the torch reference on a folder
(reference_scorer.py), or any function.

A scorer hands out logits a few hundred rows at a time, so that a window of 2048 tokens over a vocabulary of 128,000
never stands in memory as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from agq.errors import AgqError
from agq.formats.effective import ActivationBits

if TYPE_CHECKING:
    from agq.text.tokenizers import TextTokenizer

_CHUNK_BYTES = 32 << 20  # logits handed out at once
TOGETHER = 256  # tokens from which on one forward pass gains nothing by more


class Scorer(Protocol):
    """A model to evaluate.

    Attributes:
        form: "original" (unquantized folder), "quantized" (compressed-tensors folder), "packed" (artifact).
        scheme: number formats, e.g. "W4A8". activation_bits: what the inputs have that are computed; None: floats.
        kernel: what computes. vocab: columns of the logits.
        context: positions that the model was made for; None: any number. extends: whether it computes beyond that.
    """

    form: str
    scheme: str
    activation_bits: ActivationBits | None
    kernel: str
    vocab: int
    context: int | None
    extends: bool

    def logits(self, tokens: np.ndarray, first: int, count: int, rows: int) -> Iterator[np.ndarray]:
        """float32 [<= rows, vocab], in order: the logits at positions first..first+count-1 of `tokens` (int64 [n]),
        which start a new sequence. The receiver may overwrite them."""
        ...

    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""
        ...

    def sha256(self) -> str:
        """What the model is: of an artifact the file's SHA-256, of a folder its checkpoint's fingerprint."""
        ...

    def close(self) -> None:
        """Frees what the scorer holds."""
        ...


@runtime_checkable
class Together(Protocol):
    """What a scorer has besides if it can compute several windows in one forward pass."""

    def at_once(self, length: int) -> int:
        """How many windows of up to `length` tokens one forward pass takes."""
        ...

    def logits_of_several(self, windows: Sequence[tuple[np.ndarray, int, int]]) -> list[np.ndarray]:
        """float32 [count, vocab] of each window (tokens, first, count): what `Scorer.logits` gives for each of them."""
        ...


def default_rows(vocab: int) -> int:
    """Rows of logits to hand out at once: 32 MB of them, between 16 and 512; from 256 on whole chunks of the engine,
    which would compute a rest of a few tokens at the price of many.
    """
    rows = max(16, min(512, _CHUNK_BYTES // (4 * vocab)))
    return rows // TOGETHER * TOGETHER if rows >= TOGETHER else rows


class FunctionScorer:
    """A function as a scorer: int64 tokens [n] -> logits [n, vocab] of any float type."""

    form, scheme, kernel = "function", "unknown", "function"
    activation_bits: ActivationBits | None = None
    context: int | None = None
    extends = True

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], vocab: int = 1) -> None:
        self.function, self.vocab = function, vocab

    def logits(self, tokens: np.ndarray, first: int, count: int, rows: int) -> Iterator[np.ndarray]:
        values = np.asarray(self.function(tokens), dtype=np.float32)
        self.vocab = values.shape[1]
        for start in range(first, first + count, rows):
            yield np.array(values[start : min(start + rows, first + count)])

    def tokenizer(self) -> TextTokenizer:
        raise AgqError("a function has no tokenizer", hint="give token ids instead of a text")

    def sha256(self) -> str:
        return ""

    def close(self) -> None:
        pass


def listing(names: Any) -> str:
    """ "W4A8", or "W4A8 (30), W8A8 (6)" where linears differ, the most frequent first."""
    counts = Counter(names).most_common()
    if len(counts) == 1:
        return str(counts[0][0])
    return ", ".join(f"{name} ({count})" for name, count in counts)
