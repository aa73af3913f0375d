"""`agq eval-ppl`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agq.cli import pruning
from agq.errors import AgqError, UsageError
from agq.formats.effective import mean_words
from agq.reporting import console
from agq.reporting.progress_bar import progress

if TYPE_CHECKING:
    from agq.evaluation import Evaluation

_METHODS = ("gptq", "llama.cpp", "lm-eval", "strided")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("eval-ppl")(eval_ppl)


def eval_ppl(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="Packed file, folder (quantized or not), GGUF file, hub id or recipe name.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            envvar="AGQ_PPL_DATA",
            help="wikitext2, c4, c4-new, or a text or jsonl file, which is read as it is.",
        ),
    ] = "wikitext2",
    seq_len: Annotated[
        int | None,
        typer.Option(
            "--seq-len",
            "--ctx",
            envvar="AGQ_PPL_SEQ_LEN",
            min=2,
            show_default=False,
            help="Tokens per window. Default 2048 (llama.cpp: 512), at most the model's context.",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            envvar="AGQ_PPL_METHOD",
            metavar="|".join(_METHODS),
            help="Which published definition; their numbers do not compare.",
        ),
    ] = "gptq",
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, show_default=False, help="Of method strided. Default 512.")
    ] = None,
    add_bos: Annotated[
        bool | None,
        typer.Option(
            "--add-bos/--no-add-bos",
            show_default=False,
            help="With or without BOS. Default: as the model's tokenizer has it.",
        ),
    ] = None,
    max_windows: Annotated[
        int | None,
        typer.Option(
            "--max-windows",
            min=1,
            show_default=False,
            help="Compute only the first so many windows (lm-eval: whole documents). Default: all.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            show_default=False,
            help="Another form of the same model: ratio, KL divergence, same likeliest token. Takes the time of both. "
            "Default: none.",
        ),
    ] = None,
    max_ppl: Annotated[
        float | None,
        typer.Option(
            "--max-ppl",
            min=0,
            show_default=False,
            help="Exit with 1 if the perplexity (with --prune that of all tokens) is higher. Default: no limit.",
        ),
    ] = None,
    max_ratio: Annotated[
        float | None,
        typer.Option(
            "--max-ratio",
            min=0,
            show_default=False,
            help="Exit with 1 if it is more than so many times the baseline's. Default: no limit.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            envvar="AGQ_PPL_SPLIT",
            show_default=False,
            help="Of a named data set: train, validation, test. Default test.",
        ),
    ] = None,
    text_field: Annotated[
        str | None,
        typer.Option(
            "--text-field",
            show_default=False,
            help="The field of a jsonl file's objects that holds the text. Default text.",
        ),
    ] = None,
    weights_only: Annotated[
        bool,
        typer.Option(
            "--weights-only", help="Of a quantized folder: leave activations, KV cache and head in floating point."
        ),
    ] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=1, show_default=False, help="Default: by the machine.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            "-b",
            min=1,
            show_default=False,
            help="Tokens whose logits are in memory at once. Default: by the vocabulary.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="cpu|cuda",
            show_default=False,
            help="Of folders. Default cuda where there is one that they fit on.",
        ),
    ] = None,
    prune: pruning.Prune = None,
    prune_positions: pruning.Positions = None,
    prune_scores: pruning.Scores = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure perplexity of a model, a quantized folder or a packed file.

    A folder is computed by the torch reference in float32 (with its activation quantizers, if it is quantized), a
    packed file by the C kernels. The default is WikiText-2 by the protocol of the GPTQ paper.

    With --prune three perplexities are given: of the surviving tokens, of the unpruned model on the same tokens, and
    of all tokens. Only the first two compare with each other, and only the last with other perplexities.
    """
    options = pruning.pruning_options(prune, prune_positions, prune_scores)
    if method not in _METHODS:
        raise UsageError(f"unknown method `{method}`", hint=f"methods: {', '.join(_METHODS)}")
    if max_ratio is not None and baseline is None:
        raise UsageError("--max-ratio needs --baseline")
    from agq.evaluation import evaluate_perplexity
    from agq.hub import find_model

    path, _ = find_model(model)
    base = find_model(baseline)[0] if baseline is not None else None
    if device is not None and not any(item is not None and item.is_dir() for item in (path, base)):
        raise UsageError("`--device` is for folders: a packed file is computed by the kernels, on the processor")
    for option, why in _without_effect(data, split, text_field, add_bos, weights_only, (path, base)):
        console.warning(f"{option} has no effect: {why}")
    with progress("eval-ppl", unit="windows") as bar:
        bar.update(note="reading model and text")

        def report(done: int, total: int, ppl: float) -> None:
            bar.reach(done, total, f"ppl {ppl:.3f}")

        evaluation = evaluate_perplexity(
            path,
            data,
            seq_len=seq_len,
            method=method,
            stride=stride,
            add_bos=add_bos,
            max_windows=max_windows,
            baseline=base,
            split=split or "test",
            text_field=text_field or "text",
            threads=threads,
            batch=batch,
            fake_quant=not weights_only,
            device=device,
            pruning=options,
            report=report,
            note=console.warning,
        )
    if json:
        from agq.reporting.output import print_json

        print_json({**evaluation.to_dict(), "model": model})
    else:
        _show(evaluation, model)
    _gate(evaluation, max_ppl, max_ratio)


def _without_effect(
    data: str,
    split: str | None,
    text_field: str | None,
    add_bos: bool | None,
    weights_only: bool,
    models: tuple[Path | None, ...],
) -> Iterator[tuple[str, str]]:
    """(option, why) of what was given and changes nothing."""
    from agq.text.sources import is_json_lines, is_named

    crops, named = is_named(data, "c4", "c4-new"), is_named(data, "wikitext2")
    if split is not None and not named:
        yield "--split", f"the protocol of `{data}` names one" if crops else f"`{data}` is a file"
    if text_field is not None and (crops or named or not is_json_lines(Path(data))):
        yield "--text-field", f"`{data}` is no jsonl file"
    if add_bos is not None and crops:
        yield "--add-bos" if add_bos else "--no-add-bos", f"the protocol of `{data}` has no BOS"
    if weights_only and not any(model is not None and model.is_dir() for model in models):
        yield "--weights-only", "a packed file is computed as it is packed"


def _gate(evaluation: Evaluation, max_ppl: float | None, max_ratio: float | None) -> None:
    if max_ppl is not None and not evaluation.ppl <= max_ppl:
        raise AgqError(f"perplexity {evaluation.ppl:.4f} is above the limit of {max_ppl:g}")
    if max_ratio is not None and evaluation.divergence is not None and not evaluation.divergence.ratio <= max_ratio:
        raise AgqError(
            f"perplexity is {evaluation.divergence.ratio:.4f} x the baseline's, above the limit of {max_ratio:g}"
        )


def _show(evaluation: Evaluation, model: str) -> None:
    from agq.reporting.output import print_pairs

    result = evaluation.result
    forms = {"original": "original folder", "quantized": "quantized folder", "packed": "packed file"}
    windows = (
        f"{result.windows}" if result.windows == result.windows_total else f"{result.windows} of {result.windows_total}"
    )
    unit = " per word" if result.words else ""
    bits = evaluation.activation_bits
    print_pairs(
        {
            "model": model,
            "form": f"{forms[evaluation.form]}, {evaluation.scheme}",
            "activation bits": bits.describe() if bits is not None and bits.coarse else None,
            "kernel": evaluation.kernel,
            "data": f"{evaluation.data}, sha256 {evaluation.data_sha256[:16]}",
            "method": result.method,
            "windows": f"{windows} of {result.seq_len} tokens" + (f", stride {result.stride}" if result.stride else ""),
            "scored": f"{result.tokens} tokens of {result.text_tokens}"
            + (f", {result.words} words" if result.words else ""),
            "BOS": result.bos,
            "time": console.clock(evaluation.seconds),
            "perplexity": f"{result.ppl:.4f} +- {result.ppl_stderr:.4f}{unit}" if evaluation.pruned is None else None,
            "per token": f"{result.token_ppl:.4f}" if result.words else None,
            "bits per byte": f"{result.bits_per_byte:.4f}" if result.bits_per_byte is not None else None,
        }
    )
    if evaluation.pruned is not None:
        found = evaluation.pruned
        share = f"{found.survivors} of {found.tokens} tokens"
        print_pairs(
            {
                "pruning": found.options.describe(),
                "sparsity": f"{100 * found.sparsity:.2f} % of (token, layer) pairs",
                "survivors only": f"{found.ppl_survivors:.4f} +- {found.ppl_survivors_stderr:.4f} ({share})",
                "unpruned, same tokens": f"{found.ppl_unpruned_same_positions:.4f} "
                f"+- {found.ppl_unpruned_same_positions_stderr:.4f}",
                "all tokens": f"{found.ppl_all:.4f} +- {found.ppl_all_stderr:.4f}",
                "unpruned, all tokens": f"{found.ppl_unpruned:.4f} +- {found.ppl_unpruned_stderr:.4f}",
            }
        )
    if evaluation.divergence is not None and evaluation.baseline is not None:
        distance, base = evaluation.divergence, evaluation.baseline
        wide = "" if base["activation_bits"] is None else f", {mean_words(base['activation_bits'])}"
        print_pairs(
            {
                "baseline": f"{base['model']} ({base['form']}, {base['scheme']}{wide}): {distance.baseline_ppl:.4f}",
                "ratio": f"{distance.ratio:.5f} +- {distance.ratio_stderr:.5f}",
                "KL divergence": f"{distance.kl:.6f} +- {distance.kl_stderr:.6f} nats",
                "same top token": f"{100 * distance.same_top1:.2f} +- {100 * distance.same_top1_stderr:.2f} %",
            }
        )
