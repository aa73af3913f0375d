"""The results of a sweep as Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from agq.files import atomic_write_text
from agq.formats.effective import number
from agq.recipe.files import split_sources
from agq.sweep.definition import ModelEntry, Row, Sweep
from agq.version import __version__

Records = dict[tuple[str, str], dict[str, Any]]


def by_name(records: list[dict[str, Any]]) -> Records:
    """(model, row) -> record."""
    return {(record["model"], record["row"]): record for record in records}


def relative(records: Records, model: str, row: str, text: str) -> float | None:
    """Perplexity over the unquantized model's on the same windows; of a pruned row all tokens count. None where there
    is none."""
    found = records.get((model, row), {}).get("texts", {}).get(text)
    base = next((r for (m, _), r in records.items() if m == model and not r["options"] and not r["prune"]), None)
    if not found or base is None or text not in base.get("texts", {}):
        return None
    return found.get("ppl_all", found["ppl"]) / base["texts"][text]["ppl"]


def write_json(path: Path, sweep: Sweep, records: list[dict[str, Any]]) -> None:
    """All records, with what they were measured on."""
    document = {
        "version": __version__,
        "calibration": sweep.calibration.given(),
        "texts": [vars(text) for text in sweep.texts],
        "records": records,
    }
    atomic_write_text(path, json.dumps(document, indent=1, default=str) + "\n")


def machine() -> str:
    """Processor, cores and kernels, and the CUDA device that quantized, in words."""
    from agq.native.library import load_library

    name = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    torch = sys.modules.get("torch")
    device = f", quantized on {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else ""
    return f"{name}, {len(os.sched_getaffinity(0))} cores, kernels {load_library().isa}{device}"


def _machines(records: list[dict[str, Any]]) -> str:
    """What the records were made on: entries of one sweep may come from several machines."""
    return "; ".join(dict.fromkeys(record.get("machine", "") for record in records))


def to_markdown(sweep: Sweep, records: list[dict[str, Any]], command: str) -> str:
    """One table a model for the methods, one for the ablations, then what could not be made."""
    table = by_name(records)
    lines = [
        "# Sweep",
        "",
        f"agq {__version__}, {_machines(records)}. Made by `{command}`.",
        "",
        _protocol(sweep),
        "",
        "r: perplexity over that of the unquantized model on the same windows (1 is no loss). KL: mean divergence from "
        "the unquantized model's predictions, nats. top-1: share of positions with the same likeliest token. bpw: "
        "stored bits a weight in the linears of the blocks. abits: effective bits of their inputs, a mean over "
        "multiply-accumulates; -: floats. ref: perplexity of the packed file over that of the "
        f"quantized folder in torch, on the first {sweep.reference_windows} windows of all texts together.",
    ]
    for model in sweep.models:
        rows = sweep.rows_of(model)
        lines += ["", f"## {model.name}", ""]
        if model.twin is not None:
            strengths = ", ".join(f"{value:g}" for value in model.twin.strengths)
            lines += [
                f"Outlier-injected twin: seed {model.twin.seed}, channels times {strengths}; the same function.",
                "",
            ]
        lines += _table(sweep, model, [row for row in rows if not row.ablation], table)
        ablations = [row for row in rows if row.ablation]
        if ablations:
            lines += ["", "Ablation:", "", *_table(sweep, model, ablations, table)]
        pruned = [row for row in rows if row.prune]
        if pruned:
            lines += ["", *_pruning(sweep, model, pruned, table)]
    failed = [record for record in records if "error" in record]
    if failed:
        lines += ["", "## Not made", ""]
        lines += [f"- {record['model']} / {record['row']}: {record['error']}" for record in failed]
    return "\n".join(lines) + "\n"


def _protocol(sweep: Sweep) -> str:
    texts = "; ".join(
        f"{text.name}: `{Path(text.data).name}`, {f'first {text.windows} windows' if text.windows else 'all windows'}"
        for text in sweep.texts
    )
    calibration = ", ".join(
        f"{key} {' and '.join(Path(part).name for part in split_sources(value)) if key == 'data' else value}"
        for key, value in sweep.calibration.given().items()
    )
    return (
        f"Perplexity: GPTQ protocol, non-overlapping windows of the model's length, computed by the C kernels from the "
        f"packed file. Texts: {texts}. Calibration: {calibration}. KL and top-1: first {sweep.divergence_windows} "
        f"windows of {sweep.texts[0].name}. Speed: prefill of {sweep.prefill} tokens, decode of {sweep.decode}, "
        "medians of 3; only rows of one table compare."
    )


def _table(sweep: Sweep, model: ModelEntry, rows: list[Row], records: Records) -> list[str]:
    heads = [
        "row",
        *[f"{text.name} ppl | r" for text in sweep.texts],
        "KL",
        "top-1",
        "bpw",
        "abits",
        "KV",
        "ref",
        "quantize s",
        "prefill tok/s",
        "decode tok/s",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + len(sweep.texts))]
    for row in rows:
        record = records.get((model.name, row.name))
        if record is None or "error" in record:
            continue
        cells = [row.name]
        for text in sweep.texts:
            found = record["texts"][text.name]
            cells.append(f"{found.get('ppl_all', found['ppl']):.2f}")
            cells.append(_number(relative(records, model.name, row.name, text.name), ".4f"))
        top1 = record.get("same_top1")
        cells += [
            _number(record.get("kl"), ".4f"),
            "-" if top1 is None else f"{100 * top1:.1f} %",
            _number(record.get("bits_per_weight"), ".2f"),
            effective_bits(record),
            str(record.get("kv_bits", "-")),
            _number(record.get("reference_ratio"), ".4f"),
            _number(record.get("quantize_s"), ".0f"),
            _number(record.get("prefill"), ",.0f"),
            _number(record.get("decode"), ",.0f"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _pruning(sweep: Sweep, model: ModelEntry, rows: list[Row], records: Records) -> list[str]:
    """Three perplexities of each pruned row; the first is the paper's metric and compares with the second only."""
    text = sweep.texts[0].name
    lines = [
        f"Token pruning ({text}): survivors only (the paper's metric) compares with the unpruned model on the same "
        "positions.",
        "",
        "| row | sparsity | survivors only | unpruned, same positions | all tokens |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        record = records.get((model.name, row.name))
        if record is None or "error" in record:
            continue
        found = record["texts"][text]
        names = ("ppl_survivors", "ppl_unpruned_same_positions", "ppl_all")
        values = " | ".join(f"{found[name]:.2f}" for name in names)
        lines.append(f"| {row.name} | {found['sparsity']:.3f} | {values} |")
    return lines


def effective_bits(record: dict[str, Any]) -> str:
    """Of the activations: "4.58"; "-" for floats, "?" where an earlier version made the record."""
    value = record.get("activation_bits", "?")
    return "-" if value is None else value if isinstance(value, str) else number(value)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
