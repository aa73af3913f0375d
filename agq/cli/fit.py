"""`agq fit`: whether a model fits into so much memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agq.errors import AgqError, UsageError

if TYPE_CHECKING:
    from agq.planning.fit import Fit


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("fit")(fit)


def fit(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Packed file, folder, GGUF file, recipe name, hub id, or a config.json."),
    ],
    memory: Annotated[
        str | None, typer.Option("--memory", "-m", help="Such as 4G or 900M. Default: what is free here.")
    ] = None,
    machine: Annotated[
        str | None, typer.Option("--machine", help="The memory of this machine, such as pi4-4gb. Default: this one.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", "-c", min=1, help="Tokens that it must hold. Default: 512, or the model's if less."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say whether a model fits into memory: with which scheme, KV cache and context.

    Weights, KV cache and the engine's workspace are counted, as the engine itself allocates them. Exit code 0 where it
    fits, 1 where it does not.
    """
    from agq.cli.planning import size_in_bytes
    from agq.planning.fit import LEAST_CONTEXT, best, fits
    from agq.planning.machines import machine as find_machine
    from agq.planning.recommend import candidates
    from agq.planning.source import read_model
    from agq.reporting.output import print_json
    from agq.system.memory import available_memory

    if memory is not None and machine is not None:
        raise UsageError("--memory and --machine exclude each other")
    there = find_machine(machine) if machine is not None else None
    if there is not None and there.card:
        raise UsageError(f"`{there.key}` is a graphics card, which agq does not run on", hint="name a computer")
    limit = size_in_bytes(memory, "--memory") if memory is not None else there.free if there else available_memory()
    planned = read_model(model)
    if context is not None and context > planned.spec.context:
        raise UsageError(
            f"--context is {context}, and the model has {planned.spec.context} positions", hint="use a smaller one"
        )
    wanted = context or min(LEAST_CONTEXT, planned.spec.context)
    found = candidates(planned, [planned.artifact] if planned.artifact else [])
    rows = fits(found, limit, wanted)
    taken = best(rows)
    sentence = _sentence(planned.name, taken, limit, wanted)
    if json_output:
        print_json(
            {
                "model": planned.name,
                "memory_bytes": limit,
                "wanted_context": wanted,
                "model_context": planned.spec.context,
                "fits": taken is not None and taken.fits,
                "taken": taken and taken.to_dict(),
                "rows": [row.to_dict() for row in rows],
                "sentence": f"{sentence}.",
            }
        )
    else:
        _show(planned.name, rows, limit)
    if taken is None or not taken.fits:
        raise AgqError(sentence, hint="a smaller model, or more memory")
    if not json_output:
        print(f"{sentence}.")


def _show(name: str, rows: list[Fit], limit: int) -> None:
    """A line for each scheme and file: how many tokens fit with each cache."""
    from agq.reporting.output import human_size, print_table

    print(f"{name} in {human_size(limit)}: tokens of context that fit, with keys and values of so many bits")
    widths = sorted({row.kv_bits for row in rows}, reverse=True)
    found: dict[str, dict[int, Fit]] = {}
    for row in rows:
        found.setdefault(row.candidate.label, {})[row.kv_bits] = row
    cells = []
    for label, by_width in found.items():
        weights = human_size(next(iter(by_width.values())).memory.weights)
        cells.append([label, weights, *(_context(by_width.get(bits)) for bits in widths)])
    print_table(["scheme", "weights", *(f"{bits} bits" for bits in widths)], cells, right=range(1, 2 + len(widths)))


def _context(row: Fit | None) -> str:
    """ "1,142", "294, too few", "none"."""
    if row is None:
        return "-"
    return f"{row.context:,}{'' if row.fits else ', too few'}" if row.context else "none"


def _sentence(name: str, taken: Fit | None, limit: int, wanted: int) -> str:
    """What the table says, without its full stop."""
    from agq.reporting.output import human_size

    room = human_size(limit)
    if taken is None:
        return f"{name} does not fit into {room} in any format"
    how = f"as {taken.candidate.scheme} with a KV cache of {taken.kv_bits} bits and up to {taken.context:,} tokens"
    if not taken.fits:
        return f"{name} does not fit into {room} with {wanted:,} tokens; the most is {how}"
    return f"{name} fits into {room} {how}, {human_size(taken.memory.peak)} in all"
