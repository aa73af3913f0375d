"""`agq run`: text from a packed model."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agq.cli import pruning
from agq.cli.prompts import PromptCommand, checked, from_stdin, read_prompt
from agq.cli.sampling import sampler_for
from agq.errors import UsageError
from agq.reporting import console
from agq.runtime.defaults import ANSWER_TOKENS, TEXT_TOKENS, most_tokens

if TYPE_CHECKING:
    from agq.recipe.pruning import PruningOptions

_SAMPLING, _MANY, _ENGINE = "Sampling", "Many prompts", "Engine"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("run", cls=PromptCommand)(run)


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Packed file; or a folder, GGUF file, recipe name or hub id, which is packed into the cache.",
        ),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]",
            help="Question or text to continue; `-` reads stdin. Without one: -f, stdin, or a conversation on a "
            "terminal.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            "-n",
            min=1,
            help=f"Tokens to generate at most. Default: {ANSWER_TOKENS} for an answer, {TEXT_TOKENS} for a text.",
        ),
    ] = None,
    temp: Annotated[
        float | None,
        typer.Option(
            "--temp",
            min=0,
            help="Temperature; 0: always the likeliest token. Default: what the model's generation_config.json says, "
            "else 0.7 with --top-p 0.9, on a terminal; 0 where input or output is a pipe or a file.",
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="System message of the conversation. Default: the model's own."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            envvar="AGQ_PROMPT_FILE",
            metavar="FILE",
            help="Read the prompt from a file (`-`: stdin); a newline at its end is left out. Default: PROMPT.",
        ),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            show_default=False,
            help="Use the model's chat template, or continue the text. Default: --chat where the model has one.",
        ),
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="One JSON object per token, then one with statistics.")
    ] = False,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="Stop before this text. May be repeated. Default: none.")
    ] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt before its continuation.")] = False,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            min=0,
            rich_help_panel=_SAMPLING,
            help="Choose among the K likeliest; 0: off. Default: the model's, else off.",
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p",
            min=0,
            max=1,
            rich_help_panel=_SAMPLING,
            help="Choose among the likeliest that together reach P; 1: off. Default: as --temp's.",
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            "--min-p",
            min=0,
            max=1,
            rich_help_panel=_SAMPLING,
            help="Choose among those at least P times as likely as the likeliest; 0: off. Default: the model's, else "
            "off.",
        ),
    ] = None,
    repeat_penalty: Annotated[
        float | None,
        typer.Option(
            "--repeat-penalty",
            min=0.001,
            rich_help_panel=_SAMPLING,
            help="Make tokens of the text so far less likely; 1: off. Default: the model's, else off.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            rich_help_panel=_SAMPLING,
            help="Seed of the random choice. Default: another one each time, shown by -v and --json.",
        ),
    ] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(
            "--jsonl",
            metavar="FILE",
            rich_help_panel=_MANY,
            help='Answer each line of a file (`-`: stdin), {"prompt": TEXT} or {"messages": [...]}, with one JSON '
            "line, in order. Default: one prompt.",
        ),
    ] = None,
    skip_done: Annotated[
        str | None,
        typer.Option(
            "--skip-done",
            metavar="OUT",
            rich_help_panel=_MANY,
            help="With --jsonl: leave out prompts that OUT, written by an earlier run, answers. Default: none.",
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            "--parallel",
            min=1,
            max=256,
            metavar="N",
            rich_help_panel=_MANY,
            help="With --jsonl: prompts answered at once; each needs a KV cache. Default: 8.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            "-t",
            min=1,
            rich_help_panel=_ENGINE,
            help="Default: the physical (big) cores that this process may use.",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            "-c",
            min=2,
            rich_help_panel=_ENGINE,
            help="Tokens of prompt and text together. Default: the model's, at most 4096.",
        ),
    ] = None,
    speculate: Annotated[
        int,
        typer.Option(
            "--speculate",
            min=0,
            max=64,
            metavar="N",
            rich_help_panel=_ENGINE,
            help="Prompt look-up: guess up to N tokens from the text so far and check them at once. The text is that "
            "of --temp 0, faster where it repeats the prompt. 0: off.",
        ),
    ] = 0,
    kv_bits: Annotated[
        int | None,
        typer.Option(
            "--kv-bits", rich_help_panel=_ENGINE, help="Bits of the KV cache: 4, 8 or 32. Default: as packed."
        ),
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
    """Talk to a packed model, or let it continue a text.

    Filters are applied in the order: repetition penalty, temperature, top-k, top-p, min-p.
    """
    options: PruningOptions | Literal[False] | None = pruning.pruning_options(prune, prune_positions, prune_scores)
    if no_prune:
        if prune is not None:
            raise UsageError("--prune and --no-prune exclude each other")
        options = False
    if prompt is not None and file is not None:
        raise UsageError("PROMPT and -f exclude each other", hint="give one of them")
    if jsonl is not None:
        refused = {"PROMPT": prompt, "--file": file, "--json": json_output, "--speculate": speculate}
        if names := [name for name, value in refused.items() if value]:
            raise UsageError(f"--jsonl and {names[0]} exclude each other")
    elif skip_done is not None or parallel is not None:
        name = "--skip-done" if skip_done is not None else "--parallel"
        raise UsageError(f"{name} needs --jsonl", hint="one prompt is answered alone")
    if echo and json_output:
        raise UsageError("--echo goes with plain text only", hint="leave out --json: its last line has the whole text")
    if system is not None and chat is False:
        raise UsageError("--system and --no-chat exclude each other", hint="a system message is a part of a chat")
    if speculate and temp:
        raise UsageError(
            "--speculate needs --temp 0: prompt look-up returns exactly the likeliest tokens",
            hint="leave out --speculate or --temp",
        )
    for text in (system or "", *(stop or ())):
        checked(text, "--system" if text == system else "--stop")

    # numpy's BLAS computes nothing here: its threads and their memory are not needed. Settled before numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from agq.runtime.cache import find_source, open_model
    from agq.runtime.opening import wanted_pruning

    path, packed = find_source(model)
    piped = jsonl is not None or from_stdin(prompt, file)
    text_given = None if jsonl is not None else read_prompt(prompt, file)
    talking = jsonl is None and text_given is None
    if talking and (json_output or echo):
        name = "--json" if json_output else "--echo"
        raise UsageError(f"{name} needs a prompt", hint="a conversation on a terminal is plain text")
    artifact = packed or open_model(path, console.say)
    templated = artifact.has("chat_template")
    if system is not None and not templated:
        raise UsageError(
            f"--system needs a chat template, and `{model}` has none", hint="write the text that is to be continued"
        )
    chats = templated if chat is None else chat
    if echo and jsonl is None and chats:
        raise UsageError("--echo goes with plain text only", hint="leave it out, or continue the text with --no-chat")
    watched = talking or (not piped and not json_output and console.is_terminal(sys.stdout))
    given = {"temperature": temp, "top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": repeat_penalty}
    if no_prune and not wanted_pruning(artifact, None):
        console.warning("--no-prune has no effect: the model prunes no tokens")
    sampler = sampler_for(artifact, watched and not speculate, given, seed)
    if stop and "" in stop:
        console.warning("--stop has no effect where it is empty")
    limit = max_tokens or most_tokens(chats)
    if jsonl is not None:
        from agq.cli.jsonl import Settings, answer_file, read_done, read_requests

        requests = read_requests(jsonl)
        done = read_done(skip_done) if skip_done is not None else set()
        settings = Settings(
            sampler, limit, stop or (), chats, system, threads, context, kv_bits, options, parallel or 8, echo
        )
        return answer_file(artifact, requests, done, settings)
    from agq.cli.answer import answer_once
    from agq.cli.speed import describe
    from agq.cli.terminal import PromptProgress
    from agq.runtime.session import Session

    progress = PromptProgress()
    with Session(
        artifact,
        sampler=sampler,
        max_tokens=limit,
        stop=stop or (),
        chat=chats,
        system=system,
        threads=threads,
        context=context,
        kv_bits=kv_bits,
        speculate=speculate,
        pruning=options,
        progress=progress.update,
    ) as session:
        describe(session)
        if text_given is None:
            from agq.cli.chat import converse

            return converse(session, progress)
        return answer_once(session, progress, text_given, json_output, echo, max_tokens is not None)
