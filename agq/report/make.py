"""A report from a model's path: opens, measures, and puts the page together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agq.checkpoint import Checkpoint
from agq.errors import AgqError
from agq.evaluation import Evaluation
from agq.evaluation.evaluate import make_plan
from agq.gguf.opening import open_source
from agq.recipe.files import split_sources
from agq.report import attention, errors, origin, ranges, storage
from agq.report.attention import Read
from agq.report.document import Page
from agq.report.facts import Subject, open_subject
from agq.report.losses import Losses
from agq.report.losses import measure as measure_losses
from agq.report.measure import Comparison, observe
from agq.report.reasons import NO_ORIGINAL, NO_TEXT, PACKED
from agq.report.story import story
from agq.text.tokenizers import TextTokenizer, load_tokenizer

# Tokens of a window and windows, where nobody says.
SEQ_LEN, WINDOWS = 512, 8
# Called with (what is done, steps done, steps in all).
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Made:
    """page: what to write; subject: what was opened; losses: perplexities, None where none were measured."""

    page: Page
    subject: Subject
    losses: Losses | None

    def to_dict(self) -> dict[str, Any]:
        """JSON types: the story, the figures of its sentences, what the page cannot show."""
        losses, bits = self.losses, self.subject.bits
        return {
            "story": list(self.page.story),
            "perplexity": None if losses is None else losses.whole.ppl,
            "original_perplexity": None if losses is None else _ppl(losses.original),
            "weights_perplexity": None if losses is None else _ppl(losses.weights),
            "activation_bits": None if bits is None else bits.mean,
            "not_shown": [text for section in self.page.sections for text in section.missing],
        }


def _ppl(found: Evaluation | None) -> float | None:
    return None if found is None else found.ppl


def make(
    model: Path,
    original: Path | None = None,
    data: str | None = None,
    seq_len: int | None = None,
    windows: int = WINDOWS,
    threads: int | None = None,
    report: Report = lambda what, done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> Made:
    """The report of a quantized folder or a packed file.

    Args:
        original: the unquantized model. data: text to measure on, as of evaluate_perplexity; None: that of the
            calibration where it is a file on this machine, else nothing is measured.
        seq_len, windows: tokens of a window, at most the model's context, and how many. note: is told what to know.

    Raises:
        AgqError: not a quantized model, unreadable text, an original of another shape.
    """
    subject = open_subject(model)
    source = _open_original(subject, original, note)
    text = data or calibration_text(subject)
    losses, observed, before, read = None, None, None, None
    comparison = Comparison(reason=NO_TEXT if text is None else NO_ORIGINAL if source is None else PACKED)
    length = min(seq_len or SEQ_LEN, subject.spec.context)
    if text is not None:
        losses = measure_losses(model, not subject.packed, original, text, length, windows, threads, report)
        seen = subject.checkpoint or source
        if seen is not None:
            tokenizer = load_tokenizer(seen)
            tokens = _windows(tokenizer, text, length, windows)
            read = Read(tokens, tokenizer.piece)
            observed, before, compared = observe(
                subject.checkpoint,
                source,
                tokens,
                subject.pruning,
                lambda done, total: report("inputs and errors", done, total),
            )
            comparison = compared or comparison
    reason = NO_TEXT if text is None else PACKED
    page = Page(
        subject.name,
        _subtitle(subject),
        story(subject, losses, observed),
        [
            origin.perplexities(losses, reason),
            errors.errors(subject, observed, comparison, reason),
            ranges.section(subject, observed, before, reason),
            attention.section(subject, observed, before, read, length, reason),
            storage.activation_bits(subject),
            storage.storage(subject),
            origin.tuning(subject),
            origin.origin(subject, None if original is None else str(original)),
        ],
    )
    return Made(page, subject, losses)


def _open_original(subject: Subject, path: Path | None, note: Callable[[str], None]) -> Checkpoint | None:
    if path is None:
        return None
    source = open_source(path, floats=True)
    if source.quantization is not None and source.quantization.modules():
        raise AgqError(f"`{path}` is quantized itself", hint="name the unquantized model")
    spec, other = subject.spec, source.spec
    sizes = ("layers", "hidden", "ffn", "heads", "vocab")
    if any(getattr(spec, name) != getattr(other, name) for name in sizes):
        raise AgqError(f"`{path}` has other sizes than `{subject.path}`", hint="name the model that was quantized")
    known = subject.record.get("model_fingerprint")
    if known is not None and known != source.fingerprint():
        note(f"`{path}` is not, byte for byte, what `{subject.path}` was made from")
    return source


def calibration_text(subject: Subject) -> str | None:
    """The first text of the calibration that is a file on this machine."""
    source = (subject.record.get("calibration") or {}).get("source")
    files = [name for name in split_sources(source) if Path(name).is_file()] if isinstance(source, str) else []
    return files[0] if files else None


def _windows(tokenizer: TextTokenizer, data: str, seq_len: int, windows: int) -> np.ndarray:
    """The windows whose perplexity was measured, int64 [windows, seq_len]."""
    plan, _ = make_plan(data, tokenizer, "gptq", seq_len, max_windows=windows)
    return np.stack([window.inputs for window in plan.windows])


def _subtitle(subject: Subject) -> str:
    form = "packed file" if subject.packed else "quantized folder"
    bits = f"{subject.values['bits_per_weight']:.2f} bits a weight in the blocks"
    return f"{form}, {subject.values['family']}, {subject.spec.layers} blocks, {bits}"
