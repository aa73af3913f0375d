"""The sections of perplexity, of tuning, and of where the model comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from agq.formats.effective import number
from agq.report.document import Bars, Lines, Missing, Section, Series, Table
from agq.report.facts import Subject, versions
from agq.report.losses import Losses
from agq.report.reasons import NO_ORIGINAL, NOT_SAID, PACKED


def perplexities(losses: Losses | None, reason: str) -> Section:
    """Perplexities and what they were measured on."""
    section = Section("Perplexity", "How surprised the model is by the text; lower is better.")
    if losses is None:
        section.items.append(Missing(f"perplexities: {reason}"))
        return section
    named = [
        ("original", losses.original),
        ("quantized weights alone", losses.weights),
        ("all that is quantized", losses.whole),
    ]
    rows = [
        (
            name,
            f"{found.ppl:.4f} ± {found.result.ppl_stderr:.4f}",
            "" if losses.original is None else f"{found.ppl / losses.original.ppl:.4f}",
            found.scheme if name != named[1][0] else "",
            number(found.activation_bits.mean) if found.activation_bits is not None else "floats",
            found.kernel,
        )
        for name, found in named
        if found is not None
    ]
    bars = [(name, found.ppl, f"{found.ppl:.2f}") for name, found in named if found is not None]
    section.items.append(Bars("Perplexity", bars))
    section.items.append(
        Table("", ("what", "perplexity", "ratio", "scheme", "activation bits", "computed by"), rows, right=(1, 2, 4))
    )
    whole = losses.whole
    section.items.append(
        Table(
            "",
            ("measured on", ""),
            [
                ("text", whole.data),
                ("SHA-256", whole.data_sha256),
                ("windows", f"{whole.result.windows} of {whole.result.seq_len} tokens, method {whole.result.method}"),
                ("BOS", whole.result.bos),
            ],
        )
    )
    if losses.original is None:
        section.items.append(Missing(f"the original's perplexity: {NO_ORIGINAL}"))
    if losses.weights is None:
        section.items.append(Missing(f"the perplexity of the weights alone: {PACKED}"))
    return section


def tuning(subject: Subject) -> Section:
    """The tuning curve."""
    section = Section(
        "Tuning", "Divergence from the original's predictions on held-out text, in nats a token; lower is better."
    )
    found = subject.tuning
    if found is None:
        why = "it was not tuned" if subject.record.get("report") else NOT_SAID
        section.items.append(Missing(f"the tuning curve: {why}"))
        return section
    steps = found.get("stopped") or found["steps"]
    points = [(0, found["before"]), *[(step, value) for step, value in found.get("looks", [])], (steps, found["after"])]
    section.items.append(
        Lines(
            f"Divergence by steps of {found.get('batch', 1)} windows",
            "step",
            "nats",
            [float(step) for step, _ in points],
            [Series("", [value for _, value in points])],
        )
    )
    if "looks" not in found:
        section.items.append(Missing("points between: a run of fewer than 64 steps, or block by block, has none"))
    kept = "used" if found["kept"] else "not used: it came no nearer"
    section.items.append(
        Table(
            "",
            ("tuning", ""),
            [
                ("result", kept),
                ("codes that changed", f"{100 * found['changed']:.2f} %"),
                ("form", "block by block" if found.get("blocks") else "the whole model"),
            ],
        )
    )
    return section


def origin(subject: Subject, original: str | None) -> Section:
    """Recipe, data and versions."""
    section = Section("How it was made")
    record = subject.record
    calibration = record.get("calibration") or {}
    made = {
        "made by": f"agq {record['version']}" if "version" in record else subject.values.get("created_by"),
        "method": (record.get("recipe") or {}).get("method"),
        "original": original,
        "original's fingerprint": record.get("model_fingerprint"),
        "calibration text": calibration.get("data"),
        "its SHA-256": calibration.get("sha256"),
        "transformations": _transforms(record),
        "odd numbers met": "; ".join(subject.values["numbers"]) or None,
        "computed online": ", ".join(record.get("online") or []) or None,
    }
    rows = [(name, str(value)) for name, value in made.items() if value]
    if rows:
        section.items.append(Table("", ("what", ""), rows))
    recipe = record.get("recipe")
    if isinstance(recipe, dict):
        section.items.append(Table("Recipe", ("key", "value"), list(_flat(recipe)), folded=True))
    else:
        section.items.append(Missing(f"the recipe: {NOT_SAID}"))
    section.items.append(Table("This page was made by", ("program", "version"), list(versions().items())))
    return section


def _transforms(record: dict[str, Any]) -> str | None:
    found = record.get("transforms")
    if not isinstance(found, dict):
        return None
    words = [name for name in ("fold", "permuted", "learned", "bake_embed_norm") if found.get(name)]
    words += [f"{name} {', '.join(found[name])}" for name in ("scaled", "shifted") if found.get(name)]
    words += [f"rotation {name}" for name in ("r1", "r2") if found.get(name) is not None]
    words += [f"hadamard {found['hadamard']}"] if found.get("hadamard") else []
    return ", ".join(words) or None


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested keys with dots."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from _flat({f"{key}[{index}]": item}, prefix)
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
