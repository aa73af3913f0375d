"""`agq eval-ppl` as a function: a model in any of its forms, a text, a method; a record of all that the number depends
on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from agq.errors import AgqError, UsageError
from agq.evaluation.methods import (
    METHODS,
    Plan,
    check_method,
    detokenize,
    looks_like_wikitext,
    plan_documents,
    plan_tokens,
    those,
    wikitext_documents,
)
from agq.evaluation.opening import open_scorer
from agq.evaluation.perplexity import Divergence, PerplexityResult, Report, compare_plan, evaluate_plan
from agq.evaluation.pruned import PrunedScorer, PruningResult, check_pruned, evaluate_pruned
from agq.evaluation.scorers import Scorer
from agq.formats.effective import ActivationBits
from agq.recipe.pruning import PruningOptions
from agq.text.sources import Text, is_json_lines, is_named, load_documents, load_text
from agq.text.tokenizers import TextTokenizer
from agq.text.windows import random_crops

C4_WINDOWS = 256  # of GPTQ's C4 protocol
C4_NEW_DOCUMENTS = 1100


@dataclass(frozen=True)
class Evaluation:
    """A perplexity and everything it depends on. activation_bits: effective ones, None where inputs are floats;
    baseline, divergence: with `baseline=` only; pruned: with `pruning=` only, where the perplexity is that of all
    tokens."""

    model: str
    form: str
    scheme: str
    kernel: str
    model_sha256: str
    data: str
    data_sha256: str
    result: PerplexityResult
    seconds: float
    threads: int | None
    notes: tuple[str, ...] = ()
    baseline: dict[str, Any] | None = None
    divergence: Divergence | None = None
    pruned: PruningResult | None = None
    activation_bits: ActivationBits | None = None

    @property
    def ppl(self) -> float:
        """The perplexity."""
        return self.result.ppl

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        record: dict[str, Any] = {
            **self.result.to_dict(),
            "model": self.model,
            "form": self.form,
            "scheme": self.scheme,
            "activation_bits": _mean(self.activation_bits),
            "kernel": self.kernel,
            "data": self.data,
            "data_sha256": self.data_sha256,
            "model_sha256": self.model_sha256,
            "seconds": round(self.seconds, 3),
            "threads": self.threads,
            "notes": list(self.notes),
        }
        if self.divergence is not None:
            record["baseline"] = self.baseline
            record.update(self.divergence.to_dict())
        if self.pruned is not None:
            record.update(self.pruned.to_dict())
        return record


def evaluate_perplexity(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] = "wikitext2",
    seq_len: int | None = None,
    method: str = "gptq",
    stride: int | None = None,
    add_bos: bool | None = None,
    max_windows: int | None = None,
    baseline: str | os.PathLike[str] | None = None,
    split: str = "test",
    text_field: str = "text",
    threads: int | None = None,
    batch: int | None = None,
    fake_quant: bool = True,
    device: str | None = None,
    pruning: PruningOptions | None = None,
    report: Report | None = None,
    note: Callable[[str], None] | None = None,
    floats: bool = False,
) -> Evaluation:
    """Perplexity of a model by one of the four published definitions (`agq.evaluation.methods`).

    Args:
        model: a folder, quantized or not (computed by the torch reference), or a packed artifact (computed by the
            kernels).
        data: "wikitext2" (test split; rows joined by blank lines), "c4" (256 random crops of its validation shard, as
            GPTQ), "c4-new" (its first 1100 documents joined by spaces, cut to 256 windows), or a local text or jsonl
            file, read as it is.
        seq_len: tokens per window; default 2048 (llama.cpp: 512), at most the model's context.
        stride: of method strided; default 512.
        add_bos: None: BOS as the model's tokenizer and the method have it; True, False: with or without.
        max_windows: compute only so many.
        baseline: another form of the same model to compare with: ratio of perplexities, KL divergence, same likeliest
            token.
        split: of a named data set. text_field: of a jsonl file.
        threads, batch, device: see `open_scorer`; floats too, of `model`. fake_quant: False leaves activation
            quantizers of a quantized folder out.
        pruning: token pruning, measured as `agq.evaluation.pruned` says (method gptq, no baseline).
        report: called with (windows done, windows in all, perplexity so far). note: called, before anything is
            computed, with each thing that makes the number differ from usual ones; the record has them too.

    Raises:
        AgqError, UsageError: unreadable model or text, text too short, window longer than the model's context, unknown
            method.
    """
    started = time.monotonic()
    if max_windows is not None and max_windows < 1:
        raise UsageError(f"{max_windows} windows say nothing", hint="`max_windows:` is at least 1")
    row = check_method(method, seq_len, stride)
    if pruning is not None:
        check_pruned(method, baseline)
    path = Path(model).expanduser()
    scorer = open_scorer(path, seq_len, threads, batch, fake_quant, device, floats)
    other: Scorer | None = None
    try:
        length, notes = _window_length(scorer, seq_len, method)
        if note is not None:
            for item in notes:
                note(item)
        if stride is None and row.stride is not None:
            stride = min(row.stride, length)
        tokenizer = scorer.tokenizer()
        plan, text = make_plan(data, tokenizer, method, length, stride, add_bos, max_windows, split, text_field)
        _check_vocabulary(plan, scorer)
        divergence = None
        about = pruned = None
        if pruning is not None:
            result, pruned = evaluate_pruned(cast("PrunedScorer", scorer), plan, pruning, batch, report)
        elif baseline is None:
            result = evaluate_plan(scorer, plan, method, batch, report)
        else:
            other = open_scorer(Path(baseline).expanduser(), length, threads, batch, fake_quant, device)
            check_same_tokens(tokenizer, other.tokenizer())
            result, base, divergence = compare_plan(scorer, other, plan, method, batch, report)
            about = {
                "model": str(baseline),
                "form": other.form,
                "scheme": other.scheme,
                "activation_bits": _mean(other.activation_bits),
                "kernel": other.kernel,
                "ppl": base.ppl,
                "ppl_stderr": base.ppl_stderr,
                "model_sha256": other.sha256(),
            }
        return Evaluation(
            model=str(model),
            form=scorer.form,
            scheme=scorer.scheme,
            kernel=scorer.kernel,
            model_sha256=scorer.sha256(),
            data=text.label,
            data_sha256=text.sha256,
            result=result,
            seconds=time.monotonic() - started,
            threads=getattr(scorer, "threads", None),
            notes=tuple(notes),
            baseline=about,
            divergence=divergence,
            pruned=pruned,
            activation_bits=scorer.activation_bits,
        )
    finally:
        scorer.close()
        if other is not None:
            other.close()


def _mean(bits: ActivationBits | None) -> float | None:
    return None if bits is None else bits.mean


def make_plan(
    data: str | os.PathLike[str],
    tokenizer: TextTokenizer,
    method: str,
    seq_len: int,
    stride: int | None = None,
    add_bos: bool | None = None,
    max_windows: int | None = None,
    split: str = "test",
    text_field: str = "text",
) -> tuple[Plan, Text]:
    """(windows, text) of an evaluation; arguments as of `evaluate_perplexity`."""
    source = os.fspath(data)
    if is_named(source, "c4", "c4-new"):
        if not METHODS[method].c4:
            raise UsageError(
                f"data set {source} is not defined for method {method}",
                hint=those(lambda row: row.c4),
            )
        return _plan_c4(source, tokenizer, method, seq_len, stride, max_windows)
    if METHODS[method].documents:
        return _plan_documents(source, tokenizer, seq_len, add_bos, max_windows, split, text_field)
    text = load_text(source, split, text_field)
    ids = tokenizer.encode(text.text, add_bos)
    wants_bos = tokenizer.adds_bos if add_bos is None else add_bos
    plan = plan_tokens(method, ids, seq_len, stride, tokenizer.bos_id, wants_bos, max_windows)
    return plan, text


def _plan_documents(
    source: str,
    tokenizer: TextTokenizer,
    seq_len: int,
    add_bos: bool | None,
    max_windows: int | None,
    split: str,
    text_field: str,
) -> tuple[Plan, Text]:
    """lm-eval: articles of WikiText (detokenized), lines of a jsonl file, or the whole text as one document."""
    if is_named(source, "wikitext2"):
        text = load_text(source, split, raw=True)
        documents = wikitext_documents(text.text)
    elif is_json_lines(Path(source)):
        found = load_documents(source, split, text_field)
        text, documents = found.joined(), list(found.documents)
    else:
        text = load_text(source, split)
        documents = wikitext_documents(text.text)
    if looks_like_wikitext(text.text):
        texts = [detokenize(document) for document in documents]
        text = text._replace(label=f"{text.label}; {len(documents)} articles, detokenized")
    else:
        texts = documents
        text = text._replace(label=f"{text.label}; {len(documents)} document{'s' if len(documents) != 1 else ''}")
    prefix = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if prefix is None:
        raise AgqError("method lm-eval needs a token before the text, and the tokenizer has neither BOS nor EOS")
    # lm-eval adds no special tokens unless it is told to.
    tokens = [tokenizer.encode(item, bool(add_bos)) for item in texts]
    return plan_documents(documents, tokens, seq_len, prefix, bool(add_bos), max_windows), text


def _plan_c4(
    source: str, tokenizer: TextTokenizer, method: str, seq_len: int, stride: int | None, max_windows: int | None
) -> tuple[Plan, Text]:
    """The two C4 protocols of GPTQ's code."""
    documents = load_documents("c4", "validation")
    if source == "c4":
        ids = random_crops(documents.documents, tokenizer, C4_WINDOWS, seq_len, 0).reshape(-1)
        label = f"{documents.label}, {C4_WINDOWS} random crops, seed 0"
    else:
        ids = tokenizer.encode(" ".join(documents.documents[:C4_NEW_DOCUMENTS]))[: C4_WINDOWS * seq_len]
        label = f"{documents.label}, first {C4_NEW_DOCUMENTS} documents joined by spaces, {C4_WINDOWS} windows"
    plan = plan_tokens(method, np.asarray(ids), seq_len, stride, tokenizer.bos_id, False, max_windows)
    return plan, Text("", documents.sha256, label)


def _window_length(scorer: Scorer, seq_len: int | None, method: str) -> tuple[int, list[str]]:
    """The window and what to say about it. AgqError for one that was asked for and is longer than learned positions."""
    context = scorer.context
    if seq_len is None:
        default = METHODS[method].seq_len
        if context is not None and context < default:
            return context, [
                f"windows of {context} tokens, the model's context, instead of {default}: "
                f"not comparable with figures at {default}"
            ]
        return default, []
    if context is not None and seq_len > context:
        if not scorer.extends:
            raise AgqError(
                f"windows of {seq_len} tokens are longer than the {context} positions of the model",
                hint=f"use `seq_len: {context}` or less",
            )
        return seq_len, [f"windows of {seq_len} tokens are longer than the model's context of {context}"]
    return seq_len, []


def _check_vocabulary(plan: Plan, scorer: Scorer) -> None:
    largest = max(int(max(window.inputs.max(), window.targets.max())) for window in plan.windows)
    if largest >= scorer.vocab:
        raise AgqError(
            f"the tokenizer makes token {largest}, the model's vocabulary has {scorer.vocab} entries",
            hint="the tokenizer belongs to another model",
        )


def check_same_tokens(ours: TextTokenizer, theirs: TextTokenizer) -> None:
    probe = "The quick brown fox, 12 jumps\nover \u00fcber \u4f60\u597d."
    if ours.vocab != theirs.vocab or not np.array_equal(ours.encode(probe), theirs.encode(probe)):
        raise AgqError(
            "the models have different tokenizers", hint="only forms of one model can be compared with each other"
        )
