"""`agq recommend`: which scheme to take for a machine and a use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agq.errors import AgqError, UsageError
from agq.reporting import console
from agq.reporting.progress_bar import progress

if TYPE_CHECKING:
    from agq.planning.kernel_table import KernelTable
    from agq.planning.machines import Machine
    from agq.planning.recommend import Row
    from agq.planning.source import Planned
    from agq.planning.use_cases import UseCase


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("recommend")(recommend)


def recommend(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            show_default=False,
            help="Packed file, folder, GGUF file, recipe name, hub id, or a config.json. Default: llama-7b.",
        ),
    ] = None,
    use: Annotated[
        str | None,
        typer.Option(
            "--use",
            metavar="NAME",
            help="code-completion, docstrings, code-fixing, rag, instructions, chat or summarization: how long prompt "
            "and answer are. Default: chat.",
        ),
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option("--prompt-tokens", min=1, help="Tokens of a prompt. Default: those of --use.")
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option("--answer-tokens", min=1, help="Tokens of an answer. Default: those of --use.")
    ] = None,
    users: Annotated[int, typer.Option("--users", min=1, max=1024, help="Requests at the same time.")] = 1,
    memory: Annotated[
        str | None, typer.Option("--memory", "-m", help="Such as 4G. Default: what is free, or the machine's.")
    ] = None,
    max_ratio: Annotated[
        float | None,
        typer.Option(
            "--max-ratio",
            min=1.0,
            help="Most perplexity over the unquantized model's; a scheme that nobody has measured is not taken then. "
            "Default: 1.05 where it is known.",
        ),
    ] = None,
    accuracy: Annotated[
        Path | None,
        typer.Option("--accuracy", help="results.json of `agq sweep`. Default: that of the docs, if it has the model."),
    ] = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option(
            "--artifact", help="A packed file of the model, which is measured; may be repeated. Default: none."
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option("--machine", help="One that is not here, such as pi5 or pi4-4gb; an estimate. Default: this one."),
    ] = None,
    list_machines: Annotated[bool, typer.Option("--list-machines", help="Show the machines, then exit.")] = False,
    threads: Annotated[
        int | None,
        typer.Option("--threads", "-t", min=1, help="Default: the physical (big) cores that this process may use."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say which scheme to take: what each takes in time and memory, what it loses, and why one is taken.

    This machine's kernels are measured for some seconds; what a model takes is put together from them. Files that are
    named, and MODEL if it is packed, are measured too. Exit code 1 where no scheme will do.
    """
    from agq.cli.planning import machine_rows, show_machines, size_in_bytes
    from agq.planning.accuracy import accuracies
    from agq.planning.machines import machine as find_machine
    from agq.planning.recommend import candidates, choose, reason, rows_here, rows_there
    from agq.planning.source import read_model
    from agq.planning.use_cases import use_case
    from agq.reporting.output import print_json
    from agq.runtime.cache import open_model

    if list_machines:
        print_json(machine_rows()) if json_output else show_machines()
        return
    there = find_machine(machine) if machine is not None else None
    sources = [context.get_parameter_source(name) for name in ("artifact", "threads")]
    measuring = any(source is not None and source.name == "COMMANDLINE" for source in sources)
    if there is not None and measuring:  # what stands in the environment is for other commands, too
        raise UsageError("--machine is measured by nobody here: --artifact and --threads do not go with it")
    case = use_case(use, prompt_tokens, answer_tokens)
    limit = None if memory is None else size_in_bytes(memory, "--memory")
    planned = read_model(model or "llama-7b")
    if planned.spec.position == "learned" and case.tokens > planned.spec.context:
        raise UsageError(
            f"{case.tokens} tokens are more than the model's {planned.spec.context} positions",
            hint="use a shorter prompt, a shorter answer or another use",
        )
    known = accuracies(planned.names, accuracy)
    files = [open_model(path, console.say) for path in artifact or ()]
    for item in files:
        if (item.spec.layers, item.spec.hidden) != (planned.spec.layers, planned.spec.hidden):
            raise UsageError(f"`{item.path}` is another model than {planned.name}: its layers have other sizes")
    if planned.artifact is not None and all(item.path != planned.artifact.path for item in files):
        files.insert(0, planned.artifact)
    found = candidates(planned, files if there is None else (), card=there is not None and there.card)
    if there is not None:
        table, rows = rows_there(found, there, case, users, limit, known)
    else:
        with progress("recommend", unit="measurements") as bar:
            table, rows = rows_here(
                found, case, users, limit, known, threads, lambda note: bar.update(note=f"measuring {note}")
            )
    limit = table.memory if limit is None else limit
    taken = choose(rows, max_ratio)
    sentence = reason(taken, rows, max_ratio, limit)
    if json_output:
        print_json(_document(planned, table, case, users, limit, max_ratio, rows, taken, sentence))
    else:
        _show(planned, table, there, case, users, limit, rows, taken)
    if taken is None and any(row.fits for row in rows):
        raise AgqError(sentence, hint="name results of a sweep with --accuracy, or another --max-ratio")
    if taken is None:
        raise AgqError(sentence, hint="a smaller model, fewer users or tokens, or more memory")
    if not json_output:
        print(f"{sentence}.")
        if taken.accuracy is None:
            console.say("next: agq quantize makes it, agq eval-ppl FILE --baseline MODEL measures what it loses")


def _document(
    planned: Planned,
    table: KernelTable,
    case: UseCase,
    users: int,
    limit: int,
    max_ratio: float | None,
    rows: list[Row],
    taken: Row | None,
    sentence: str,
) -> dict[str, Any]:
    return {
        "model": planned.name,
        "machine": {
            "name": table.machine,
            "measured": table.measured,
            "level": table.level,
            "threads": table.threads,
            "bandwidth": table.bandwidth,
            "peak": table.peak,
            "instruction": table.instruction,
            "sources": list(table.sources),
            "kernels": table.rates(),
        },
        "use": case.name or None,
        "prompt_tokens": case.prompt,
        "answer_tokens": case.answer,
        "users": users,
        "memory_bytes": limit,
        "max_ratio": max_ratio,
        "rows": [row.to_dict() for row in rows],
        "taken": taken and taken.to_dict(),
        "sentence": f"{sentence}.",
    }


def _show(
    planned: Planned,
    table: KernelTable,
    there: Machine | None,
    case: UseCase,
    users: int,
    limit: int,
    rows: list[Row],
    taken: Row | None,
) -> None:
    from agq.reporting.output import human_size, print_pairs, print_table

    kind = "measured now" if table.measured else "estimates from documented figures, not measured"
    print_pairs(
        {
            "model": f"{planned.name}, {planned.kind}: {planned.spec.family}, {planned.spec.layers} layers of "
            f"{planned.spec.hidden}",
            "use": f"{case.describe()}, {users} user{'s' * (users > 1)} at a time",
            "machine": f"{table.machine}, {table.threads} thread{'s' * (table.threads > 1)}, {table.level} ({kind})"
            if there is None or not there.card
            else f"{table.machine}, through vLLM ({kind})",
            "limits": f"{table.bandwidth * 1e-9:.1f} GB/s, {2e-9 * table.peak:,.0f} GOPS ({table.instruction})",
            "memory": human_size(limit),
        }
    )
    both = any(row.measured for row in rows)
    cells = []
    for row in rows:
        for kind, speed in (("predicted", row.forecast), ("measured", row.measured)):
            if speed is None:
                continue
            cell = [
                f"{'* ' if row is taken else ''}{row.candidate.label}",
                kind,
                _time(speed.first_token_s),
                _time(speed.answer_s),
                f"{speed.throughput:,.1f}",
                human_size(row.memory.peak) + ("" if row.fits else ", too much"),
                _ratio(row),
            ]
            cells.append(cell if both else [cell[0], *cell[2:]])
    columns = ["scheme", *(["times"] if both else []), "first token", "answer", "tokens/s", "memory", "ppl ratio"]
    print()
    print_table(columns, cells, right=range(1, len(columns)), least=("tokens/s",))
    for source in dict.fromkeys(row.accuracy.source for row in rows if row.accuracy and row.accuracy.text):
        console.detail(f"perplexity: {source}")
    for source in table.sources:
        console.detail(source)
    for rate in table.rates():
        console.detail(f"{rate['format']}, {rate['tokens']} at once: {2e-9 * rate['products_per_s']:,.0f} GOPS")


def _ratio(row: Row) -> str:
    """ "1.014"; where inputs have few codes also their effective bits: "1.075, A4.58"."""
    if row.accuracy is None:
        return "unknown"
    return f"{row.accuracy.ratio:.3f}" + (f", A{row.effective_bits}" if row.candidate.coarse else "")


def _time(seconds: float) -> str:
    """ "12 ms", "3.4 s", "5.2 min"."""
    if seconds < 1:
        return f"{1e3 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 300 else f"{seconds / 60:.1f} min"
