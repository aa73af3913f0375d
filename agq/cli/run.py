"""`agq run`: text from a packed model."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agq.cli import pruning
from agq.cli.speed import report_speed
from agq.errors import AgqError, UsageError
from agq.reporting import console

if TYPE_CHECKING:
    from agq.recipe.pruning import PruningOptions
    from agq.runtime.session import Session

DEFAULT_TOKENS = 256  # without --chat: a text model rarely ends by itself


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("run")(run)


def run(
    model: Annotated[
        str,
        typer.Argument(metavar="ARTIFACT", help="Packed artifact; or a model folder, which is packed into the cache."),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]",
            help="Text to continue; `-` reads stdin. Without one: -f, stdin, or a conversation on a terminal.",
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            envvar="AGQ_PROMPT_FILE",
            metavar="FILE",
            help="Read the prompt from a file (`-`: stdin); one newline at its end is dropped.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            "-n",
            min=1,
            help=f"Tokens to generate at most. Default: {DEFAULT_TOKENS}; with --chat until the answer ends.",
        ),
    ] = None,
    temp: Annotated[float, typer.Option("--temp", min=0, help="Temperature; 0: always the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Choose among the K likeliest; 0: off.")] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", min=0, max=1, help="Choose among the likeliest that together reach P; 1: off.")
    ] = 1.0,
    min_p: Annotated[
        float,
        typer.Option(
            "--min-p", min=0, max=1, help="Choose among those at least P times as likely as the likeliest; 0: off."
        ),
    ] = 0.0,
    repeat_penalty: Annotated[
        float, typer.Option("--repeat-penalty", min=0.001, help="Make tokens of the text so far less likely; 1: off.")
    ] = 1.0,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, help="Seed of the random choice. Default: another one each time, given in the statistics."
        ),
    ] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Stop before this text. Repeatable.")] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="One JSON object per token, then one with statistics.")
    ] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Use the model's chat template.")] = False,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="System message of the conversation (--chat).")
    ] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt before its continuation.")] = False,
    threads: Annotated[
        int | None,
        typer.Option("--threads", "-t", min=1, help="Default: the physical (big) cores that this process may use."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", "-c", min=2, help="Tokens of prompt and text together. Default: the model's, at most 4096."
        ),
    ] = None,
    speculate: Annotated[
        int,
        typer.Option(
            "--speculate",
            min=0,
            max=64,
            metavar="N",
            help="Prompt look-up: guess up to N tokens from the text so far and check them at once. Same text, faster "
            "where it repeats the prompt. 0: off.",
        ),
    ] = 0,
    kv_bits: Annotated[
        int | None, typer.Option("--kv-bits", help="Bits of the KV cache: 4, 8 or 32. Default: as packed.")
    ] = None,
    prune: pruning.Prune = None,
    prune_positions: pruning.Positions = None,
    prune_scores: pruning.Scores = None,
    no_prune: Annotated[
        bool,
        typer.Option(
            "--no-prune",
            rich_help_panel="Token pruning",
            help="No token pruning, whatever the artifact's recipe says.",
        ),
    ] = False,
) -> int:
    """Generate text with a packed model.

    Sampling is greedy unless --temp is given. Filters are applied in the order: repetition penalty, temperature,
    top-k, top-p, min-p.
    """
    options: PruningOptions | Literal[False] | None = pruning.pruning_options(prune, prune_positions, prune_scores)
    if no_prune:
        if prune is not None:
            raise UsageError("--prune and --no-prune exclude each other")
        options = False
    if system is not None and not chat:
        raise UsageError("--system needs --chat", hint="a system message is a part of a chat template")
    if echo and (chat or json_output):
        raise UsageError("--echo goes with plain text only", hint="leave out --chat and --json")
    text = _prompt(prompt, file)
    if text == "":
        raise AgqError("the prompt is empty", hint="give a text as argument, with -f FILE, or on stdin")
    if speculate and temp > 0:
        raise UsageError(
            "--speculate needs --temp 0: prompt look-up returns exactly the likeliest tokens",
            hint="leave out --speculate or --temp",
        )
    if text is None and json_output:
        raise UsageError("--json needs a prompt", hint="a conversation on a terminal is plain text")

    # numpy's BLAS computes nothing here: its threads and their memory are not needed. Settled before numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from agq.runtime.sampling import Sampler
    from agq.runtime.session import Session

    sampler = Sampler(temp, top_k, top_p, min_p, repeat_penalty, seed)
    limit = max_tokens if max_tokens is not None or chat else DEFAULT_TOKENS
    with Session(
        model,
        sampler=sampler,
        max_tokens=limit,
        stop=stop or (),
        chat=chat,
        system=system,
        threads=threads,
        context=context,
        kv_bits=kv_bits,
        speculate=speculate,
        pruning=options,
    ) as session:
        _describe(session)
        if text is None:
            from agq.cli.conversation import converse

            return converse(session)
        return _once(session, text, json_output, echo, max_tokens is not None)


def _prompt(prompt: str | None, file: str | None) -> str | None:
    """The prompt's text; None for a conversation."""
    if prompt is not None and file is not None:
        raise UsageError("PROMPT and -f exclude each other", hint="give one of them")
    if prompt is not None and prompt != "-":
        if any(0xD800 <= ord(letter) < 0xE000 for letter in prompt):
            raise AgqError("the prompt is not valid UTF-8 text")
        return prompt
    if file is not None and file != "-":
        try:
            with open(file, "rb") as handle:
                data = handle.read()
        except OSError as error:
            raise AgqError(f"cannot read `{file}`: {error.strerror or error}") from error
        return _decoded(data, f"`{file}`")
    if prompt is None and file is None and console.is_terminal(sys.stdin):
        return None
    if sys.stdin is None:
        return ""
    return _decoded(sys.stdin.buffer.read(), "stdin")


def _decoded(data: bytes, where: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AgqError(
            f"{where} is not UTF-8 text (byte {error.start})", hint="convert it, for example with iconv"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def _once(session: Session, prompt: str, json_output: bool, echo: bool, exact: bool) -> int:
    """One prompt, one text."""
    generation = session.answer(prompt)
    try:
        if echo:
            sys.stdout.write(prompt)
        for piece in generation:
            if json_output:
                _print_object({"token": piece.token, "text": piece.text})
            elif piece.text:
                sys.stdout.write(piece.text)
                sys.stdout.flush()
    except KeyboardInterrupt:
        generation.close()
        _finish(session, generation, json_output)
        raise
    _finish(session, generation, json_output)
    if generation.statistics.finish_reason == "context":
        count = generation.statistics.tokens
        full = f"the context of {session.engine.context} tokens is full after {count} generated ones"
        if exact:
            most = session.engine.spec.context
            raise AgqError(
                full,
                hint=f"use a larger context (-c, up to the model's {most})"
                if session.engine.context < most
                else "shorten the prompt, or ask for fewer tokens with -n",
            )
        console.say(full)
    return 0


def _finish(session: Session, generation: Any, json_output: bool) -> None:
    """The end of the output, and the numbers."""
    if json_output:
        _print_object(session.statistics(generation))
    elif not generation.statistics.text.endswith("\n"):
        sys.stdout.write("\n")
    sys.stdout.flush()
    report_speed(session, generation)


def _print_object(value: dict[str, Any]) -> None:
    from agq.reporting.output import print_json

    print_json(value)


def _describe(session: Session) -> None:
    """`-v`: what computes each layer."""
    if console.settings.verbosity < 1:
        return
    engine = session.engine
    console.detail(
        f"{session.artifact.path}: {engine.spec.family}, {engine.spec.layers} layers; kernels {engine.library.isa}, "
        f"{engine.threads} threads; context {engine.context}, KV cache {engine.kv_bits} bits, "
        f"{engine.kv_bytes / 1e6:.1f} MB; workspace {engine.workspace_bytes / 1e6:.1f} MB"
    )
    if sinks := session.artifact.info.sink_tokens:
        console.detail(f"sink tokens: the first {sinks} of a sequence, with 8 bits where activations have 4")
    if engine.pruning is not None:
        console.detail(f"token pruning: {engine.pruning.describe()}")
    for plan in engine.plan():
        console.detail(
            f"{plan.name}: weights {plan.weights}, activations {plan.activations}, accumulator {plan.accumulator}, "
            f"kernel {plan.decode_kernel} (decode), {plan.prefill_kernel} (prefill)"
        )
