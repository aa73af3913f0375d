"""`agq pack`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from agq.errors import AgqError, UsageError
from agq.formats import HEAD
from agq.reporting import console
from agq.reporting.progress_bar import progress

SUFFIX = ".agq.safetensors"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("pack")(pack)


def pack(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="A quantized folder, an unquantized model (folder, recipe name or hub id), or a GGUF file.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", show_default=False, help=f"Default: MODEL's name + {SUFFIX}, here.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="f32|f16|bf16|int8|int4",
            show_default=False,
            help="Of an unquantized folder: floats, or W8A8 or W4A8 by rounding, in seconds and without PyTorch. int4 "
            "loses more than `agq quantize` does. Default: the folder's own type.",
        ),
    ] = None,
    kv_bits: Annotated[
        int | None,
        typer.Option(
            "--kv-bits",
            metavar="4|8|32",
            show_default=False,
            help="KV cache of the runs to come. Default: as quantized, 8; 32 for float weights.",
        ),
    ] = None,
    head_bits: Annotated[
        int | None,
        typer.Option(
            "--head-bits",
            metavar=HEAD.metavar,
            show_default=False,
            help="Output head. Default: as quantized, 8; the weights' type for float weights.",
        ),
    ] = None,
    embed_bits: Annotated[
        int | None,
        typer.Option(
            "--embed-bits",
            metavar="8|16|32",
            show_default=False,
            help="Embedding with a head of its own. Default: 8 where a quantized folder's head has 8, else as stored.",
        ),
    ] = None,
    act_bits: Annotated[
        int | None,
        typer.Option(
            "--act-bits",
            metavar="8|16",
            show_default=False,
            help="Of a GGUF file: inputs of linears with 8 bits in groups of 32, or 16: floats. Default 8.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Pack a folder or a GGUF file into one file in the layout of the kernels.

    The file holds weights, tokenizer, chat template, recipe and checksums: all that `agq run` needs.
    """
    from agq.artifact.pack import pack as pack_folder
    from agq.artifact.plan_linears import ROUNDED
    from agq.formats.activations import WIDE
    from agq.gguf.files import is_gguf, stem
    from agq.hub import find_model
    from agq.kinds import kind_of_file
    from agq.reporting.output import human_size, print_json, print_pairs

    source, _ = find_model(folder)
    if source.is_file() and not is_gguf(source):
        kind = kind_of_file(source)
        raise UsageError(f"`{folder}` is {kind.name}, no model folder or GGUF file", hint=kind.advice)
    name = stem(source) if source.is_file() else source.resolve().name
    path = output if output is not None else Path(name + SUFFIX)
    if path.exists() and not path.is_dir() and not force:
        raise AgqError(f"`{path}` exists", hint="choose another name with -o, or pass `--force`")
    with progress("pack", unit="MB") as bar:
        report = pack_folder(
            source,
            path,
            kv_bits=kv_bits,
            head_bits=head_bits,
            embed_bits=embed_bits,
            act_bits=act_bits,
            weights=weights,
            progress=bar.megabytes,
        )
    if json:
        print_json(report.to_dict())
        return
    for note in report.notes:
        console.say(note)
    schemes = "; ".join(f"{count} x {scheme}" for scheme, count in report.schemes.items())
    print_pairs(
        {
            "artifact": report.path,
            "linears": schemes,
            "bits per weight": f"{report.bits_per_weight:.2f} in the linears of the blocks",
            "bits per parameter": f"{report.bits_per_weight_overall:.2f}, whole file",
            "parameters": f"{report.parameters:,}",
            "head, embedding": f"{report.head_bits} bits, {report.embed_bits} bits",
            "KV cache": f"{report.kv_bits} bits",
            "sink tokens": f"{report.sink_tokens} with 8-bit activations" if report.sink_tokens else None,
            "size": f"{human_size(report.bytes)} ({report.bytes} bytes)",
            "time": f"{report.seconds:.1f} s",
        }
    )
    if weights in ROUNDED and ROUNDED[weights].bits < WIDE.bits:
        console.say("note: rounded to nearest, the quick way; `agq quantize` takes minutes and loses less")
    console.say(f"next: agq run {shlex.quote(str(path))}")
