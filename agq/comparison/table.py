"""A comparison as rows of texts, for a terminal and a page alike."""

from __future__ import annotations

from agq.comparison.results import Compared, Comparison
from agq.comparison.tasks import mean_recovery
from agq.formats.effective import number
from agq.reporting.output import counted, human_size

FLOOR = "floor"


def answer_title(found: Comparison) -> str:
    """Above the table of answers."""
    return f"Answers to {counted(len(found.prompts.prompts), 'prompt')}"


def answer_columns(found: Comparison) -> list[str]:
    """Heads of the table of answers. Measures that were not run have no column."""
    return [
        "model",
        "scheme",
        "size",
        "same",
        "prefix",
        "median",
        *(["ROUGE-1", "ROUGE-L"] if found.has("rouge_l") else []),
        *(["BERTScore", "STS"] if found.has("bert_score") else []),
        *(["tasks"] if any(row.tasks for row in found.others) else []),
    ]


def answer_row(found: Comparison, row: Compared) -> list[str | None]:
    """A model's answers, under answer_columns."""
    item = row.summary
    tasks = mean_recovery(row.tasks)
    return [
        label(found, row),
        row.made.form,
        human_size(row.made.bytes),
        f"{100 * item.same:.0f} %",
        f"{item.prefix:.1f}",
        f"{item.prefix_median:g}",
        *([_measure(item.rouge1), _measure(item.rouge_l)] if found.has("rouge_l") else []),
        *([_measure(item.bert_score), _measure(item.sts)] if found.has("bert_score") else []),
        *([None if tasks is None else f"{100 * tasks:.1f} %"] if any(one.tasks for one in found.others) else []),
    ]


TEXT_COLUMNS = ("model", "KL", "+- KL", "top-1", "abits", "ppl", "ratio", "+-")


def text_row(found: Comparison, row: Compared, index: int) -> list[str | None]:
    """A model's predictions over a text, under TEXT_COLUMNS."""
    text, bits = row.texts[index], row.made.activation_bits
    return [
        label(found, row),
        f"{text.kl:.5f}",
        f"{text.kl_stderr:.5f}",
        f"{100 * text.same_top1:.1f} %",
        None if bits is None else number(bits.mean),
        f"{text.ppl:.3f}",
        f"{text.ratio:.4f}",
        None if text.ratio_stderr is None else f"{text.ratio_stderr:.4f}",
    ]


def text_titles(found: Comparison) -> list[str]:
    """Above the tables of texts."""
    return [f"Next tokens of {text.data}" for text in found.others[0].texts]


def kind_columns(found: Comparison) -> list[str]:
    """Heads of the table of kinds of prompts."""
    return ["model", *found.prompts.kinds]


def kind_row(found: Comparison, row: Compared) -> list[str | None]:
    """Tokens of the original before the first other one, and ROUGE-L where it was run, for each kind of prompts."""
    kinds = row.by_kind(found.prompts)
    cells = [
        f"{item.prefix:.1f}" + ("" if item.rouge_l is None else f"; {item.rouge_l:.3f}") for item in kinds.values()
    ]
    return [label(found, row), *cells]


def label(found: Comparison, row: Compared) -> str:
    """What a row is called."""
    return FLOOR if row is found.floor else row.made.name


def _measure(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
