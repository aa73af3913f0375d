"""One entry of a sweep: a model quantized as a row says, packed, and measured through the C kernels."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agq.errors import AgqError
from agq.reporting.progress import Progress
from agq.sweep.definition import ModelEntry, Row, Sweep

# Called with a few words about what is being done.
Say = Callable[[str], None]


def make_cell(
    sweep: Sweep,
    model: ModelEntry,
    row: Row,
    source: Path,
    baseline: Path,
    artifact: Path,
    threads: int | None,
    say: Say,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The record of one entry, without its speed.

    Args:
        source: the model's folder. baseline: the unquantized model, packed; made here by its own row. artifact: what
            the row makes, the baseline where it quantizes nothing. Both stay; the quantized folder is removed.
        threads: of the engine and of torch; None: by the machine. progress: of quantizing.

    Returns:
        JSON types: bits_per_weight, bits_per_parameter, activation_bits, kv_bits, bytes, quantize_s, texts {name:
        {ppl, windows, ...}}, kl, same_top1, ratio (against the unquantized model on the windows of kl),
        reference_ratio; or `error`, the reason why this model cannot be quantized that way.
    """
    record: dict[str, Any] = {
        "model": model.name,
        "row": row.name,
        "options": row.options.to_dict(),
        "prune": row.prune,
    }
    folder = artifact.with_suffix(".folder")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if not row.options:
            folder = source
            if not baseline.exists():
                say("packing")
                record.update(_pack(source, baseline, floats=True))
        else:
            say("quantizing")
            started = time.monotonic()
            record.update(_quantize(sweep, model, row, source, folder, progress))
            record["quantize_s"] = round(time.monotonic() - started, 2)
            say("packing")
            record.update(_pack(folder, artifact))
        record.update(_measure(sweep, model, row, folder, artifact, baseline, threads, say))
    except AgqError as error:
        record["error"] = error.message
    finally:
        if row.options:
            shutil.rmtree(folder, ignore_errors=True)
    return record


def _quantize(
    sweep: Sweep, model: ModelEntry, row: Row, source: Path, folder: Path, progress: Progress | None
) -> dict[str, Any]:
    from agq.quantization.execute import execute, refuse_taken_back
    from agq.quantization.plan import plan
    from agq.recipe import Recipe
    from agq.recipe.resolve import adjust_recipe

    recipe = adjust_recipe(Recipe(), sweep.calibration.but(seq_len=model.seq_len))
    changes = row.options.changes.but(preset=row.options.changes.preset or "auto")
    made = plan(str(source), folder, changes, row.options.run, recipe=recipe, force=True)
    report = execute(made, False, progress)
    refuse_taken_back(made, report)
    return {"bits_per_weight": report.bits_per_weight, "fallbacks": report.fallbacks}


def _pack(source: Path, artifact: Path, floats: bool = False) -> dict[str, Any]:
    """floats: nothing is quantized, neither the KV cache nor the head."""
    from agq.artifact.pack import pack
    from agq.checkpoint import open_checkpoint
    from agq.inspect.describe import describe_folder

    bits = None
    if floats:
        # Computed in float32, whatever the folder stores: the figure is the folder's.
        report = pack(source, artifact, weights="f32", kv_bits=32, head_bits=32)
        bits = describe_folder(open_checkpoint(source))["bits_per_weight"]
    else:
        report = pack(source, artifact)
    return {
        "bits_per_weight": report.bits_per_weight if bits is None else bits,
        "bits_per_parameter": report.bits_per_weight_overall,
        "kv_bits": report.kv_bits,
        "head_bits": report.head_bits,
        "bytes": report.bytes,
    }


def _measure(
    sweep: Sweep,
    model: ModelEntry,
    row: Row,
    folder: Path,
    artifact: Path,
    baseline: Path,
    threads: int | None,
    say: Say,
) -> dict[str, Any]:
    from agq.evaluation import evaluate_perplexity
    from agq.recipe.pruning import PruningOptions

    found: dict[str, Any] = {"texts": {}}
    pruning = PruningOptions.parse(row.prune) if row.prune else None
    for text in sweep.texts:
        say(f"perplexity on {text.name}")
        result = evaluate_perplexity(
            artifact, text.data, model.seq_len, max_windows=text.windows, pruning=pruning, threads=threads
        ).to_dict()
        kept = (
            "ppl",
            "ppl_stderr",
            "method",
            "windows",
            "windows_total",
            "tokens",
            "seq_len",
            "add_bos",
            "data_sha256",
            "kernel",
            "ppl_survivors",
            "ppl_unpruned_same_positions",
            "ppl_all",
            "sparsity",
        )
        found["texts"][text.name] = {key: result[key] for key in kept if key in result}
        found["model_sha256"] = result["model_sha256"]
        found["activation_bits"] = result["activation_bits"]
    first = sweep.texts[0]
    if row.options and not row.prune:
        say("divergence from the unquantized model")
        result = evaluate_perplexity(
            artifact,
            first.data,
            model.seq_len,
            max_windows=sweep.divergence_windows,
            baseline=baseline,
            threads=threads,
        ).to_dict()
        found.update(
            {key: result[key] for key in ("kl", "kl_stderr", "same_top1", "same_top1_stderr", "ratio", "ratio_stderr")}
        )
    if sweep.reference_windows and not row.prune:
        say("torch reference")
        found["reference_ratio"] = _reference_ratio(sweep, found["texts"], folder, artifact, model.seq_len, threads)
    return found


def _reference_ratio(
    sweep: Sweep,
    measured: dict[str, dict[str, Any]],
    folder: Path,
    artifact: Path,
    seq_len: int,
    threads: int | None,
) -> float:
    """Perplexity of the packed file over that of the folder in torch, on the first `reference_windows` of every text
    together.
    measured: what is known of the packed file on the texts."""
    from agq.evaluation import evaluate_perplexity

    difference, tokens = 0.0, 0
    for text in sweep.texts:
        known = measured[text.name]
        windows = min(sweep.reference_windows, known["windows"])
        if windows < known["windows"]:
            known = evaluate_perplexity(artifact, text.data, seq_len, max_windows=windows, threads=threads).to_dict()
        reference = evaluate_perplexity(folder, text.data, seq_len, max_windows=windows, threads=threads)
        difference += known["tokens"] * math.log(known["ppl"] / reference.ppl)
        tokens += known["tokens"]
    return math.exp(difference / tokens)


def measure_speed(sweep: Sweep, artifact: Path) -> dict[str, Any]:
    """Tokens per second, medians of repetitions: they tell rows of one sweep apart, no more."""
    from agq.artifact import open_artifact
    from agq.runtime import benchmark

    cases = benchmark.plan([sweep.prefill], [sweep.decode], [0], [sweep.threads], [None])
    found = {}
    for result in benchmark.run(open_artifact(artifact), cases, repetitions=3):
        rates = sorted(result.tokens / (sample * 1e-9) for sample in result.samples_ns)
        found[result.kind] = rates[len(rates) // 2]
    return found
