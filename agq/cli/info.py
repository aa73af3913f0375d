"""`agq info`: what a model or packed file is and how it is computed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agq.formats.weights import BYTE_CODES
from agq.reporting import console

# Where an artifact's embedding is, by element type.
_EMBEDDING = {"in the head": "in the head", BYTE_CODES.name: "a scale per row"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("info")(info)


def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Packed file, folder, GGUF file, recipe name or hub id.")
    ],
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object with every layer.")] = False,
) -> None:
    """Show what a model or packed file is and how it is computed.

    Bits per weight count codes, scales and zero points of the linears inside the blocks. Layers of neighbouring
    blocks that are alike share a line; -v gives each its own.
    """
    from agq.reporting.output import print_json

    values = describe(model)
    if json_output:
        print_json(values)
    else:
        _show(values)


def describe(model: str) -> dict[str, Any]:
    """describe_artifact or describe_folder of MODEL."""
    from agq.hub import find_model
    from agq.inspect.describe import describe_artifact, describe_folder

    path, _ = find_model(model)
    if path.is_dir():
        from agq.checkpoint import open_checkpoint

        return describe_folder(open_checkpoint(path))
    from agq.runtime.cache import open_model

    return describe_artifact(open_model(path, console.say))


def _recipe(values: Any) -> str | None:
    """The recipe in a few words; `--json` has all of it."""
    from agq.recipe import METHODS

    if not isinstance(values, dict):
        return None
    inner = values.get("recipe")
    if not isinstance(inner, dict):
        inner = values
    if isinstance(found := inner.get("quantization_config"), dict):
        return f"{found.get('quant_method', 'quantized')} of other software"
    calibration = inner.get("calibration") or {}
    windows = f"{calibration.get('samples')} x {calibration.get('seq_len')} tokens of {calibration.get('data')}"
    steps = [name for name, value in (inner.get("transforms") or {}).items() if value is True]
    tuned = (inner.get("tune") or {}).get("steps")
    words = [
        str(inner.get("method", "")),
        f"weights {inner['weights']}" if isinstance(inner.get("weights"), str) else "",
        windows if calibration and inner.get("method") in METHODS and METHODS[inner["method"]].calibrated else "",
        f"transformations {' '.join(steps)}" if steps else "",
        f"tuned {tuned} steps" if tuned else "",
    ]
    return ", ".join(word for word in words if word) or None


def _rope(rope: dict[str, Any]) -> str:
    return f"{rope['kind']}, base {rope['theta']:g}" + (f", factor {rope['factor']:g}" if "factor" in rope else "")


def _head(values: dict[str, Any]) -> str:
    if values["tied"]:
        return "tied to the embedding" + (" through a matrix" if values["head_matrix"] else "")
    return "its own" + (", packed as the embedding behind a matrix" if values["head_matrix"] else "")


def _window(values: dict[str, Any]) -> str:
    window, local = values["window"], values["rope_local"]
    layers = f"{window['tokens']} tokens in {len(window['layers'])} of {values['layers']} layers"
    return layers + (f", rope {_rope(local)}" if local else "")


def _show(values: dict[str, Any]) -> None:
    from agq.inspect.describe import merged
    from agq.recipe.pruning import PruningOptions
    from agq.reporting.output import human_size, print_pairs, print_table

    heads = f"{values['heads']}" + (
        f" ({values['kv_heads']} for keys and values)" if values["kv_heads"] != values["heads"] else ""
    )
    source = values.get("source") or {}
    rope = values["rope"]
    print_pairs(
        {
            "file": values["path"],
            "form": values["form"],
            "family": values["family"],
            "layers": values["layers"],
            "hidden": f"{values['hidden']}, feed-forward {values['ffn']} ({values['activation']})",
            "heads": f"{heads} of {values['head_dim']}",
            "vocabulary": values["vocab"],
            "context": values["context"],
            "positions": values["position"] + (f", {_rope(rope)}" if rope else ""),
            "sliding window": _window(values) if values["window"] else None,
            "norm": values["norm"],
            "head": _head(values),
            "embedding": f"{values['embed_bits']} bits, {_EMBEDDING.get(values['embedding'], values['embedding'])}"
            if "embedding" in values
            else None,
            "size": human_size(values["bytes"]),
            "bits per weight": f"{values['bits_per_weight']:.3f}"
            + (
                f" in the blocks, {values['bits_per_weight_overall']:.3f} overall"
                if "bits_per_weight_overall" in values
                else ""
            ),
            "activation bits": values["activation_formats"]["words"] if values["activation_formats"] else None,
            "KV cache": f"{values['kv_bits']} bits"
            + (f", {human_size(values['kv_bytes_per_token'])} per token" if "kv_bytes_per_token" in values else "")
            if values["kv_bits"]
            else None,
            "attention": "integers, probabilities as powers of two" if values.get("attention") == "log2" else None,
            "sink tokens": f"the first {values['sink_tokens']} of a sequence, with 8 bits where activations have 4"
            if values["sink_tokens"]
            else None,
            "token pruning": PruningOptions.from_dict(values["pruning"]).describe() if values.get("pruning") else None,
            "chat template": {True: "yes", False: "no", None: None}[values.get("chat_template")],
            "made by": values.get("created_by"),
            "from": f"{source['name']}, sha256 {source['sha256'][:16]}" if source else None,
            "recipe": _recipe(values["recipe"]),
            "numbers": "; ".join(values["numbers"]) or None,
            "kernels": values.get("isa") or values.get("kernel_problem"),
        }
    )
    print()
    layers = values["linears"] if console.settings.verbosity > 0 else merged(values["linears"])
    columns = ["layer", "shape", "weights", "activations"]
    rows = [[item["name"], f"{item['out']} x {item['in']}", item["weights"], item["activations"]] for item in layers]
    if values["form"] == "packed":
        columns += ["accumulator", "kernel: decode", "prefill"]
        rows = [
            [*row, item["accumulator"], item["kernel_decode"], item["kernel_prefill"]]
            for row, item in zip(rows, layers, strict=True)
        ]
    print_table(columns, rows, least=("accumulator", "prefill", "kernel: decode", "shape"))
