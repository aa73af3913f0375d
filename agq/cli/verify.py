"""`agq verify`: checks a folder or packed file for damage and inconsistencies."""

from __future__ import annotations

from typing import Annotated

import typer

from agq.errors import AgqError
from agq.reporting import console


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("verify")(verify)


def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Packed file, folder, GGUF file, recipe or hub id.")],
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object with the list of problems.")] = False,
) -> None:
    """Check a folder or packed file for damage and inconsistencies.

    A packed file: every byte against its SHA-256. A folder: tensors, shapes, schemes and values. With exit
    code 1 each problem is named.
    """
    from agq.hub import find_model
    from agq.inspect.verify import told
    from agq.inspect.verify import verify as check
    from agq.reporting.output import print_json
    from agq.runtime.cache import packed_gguf

    path = packed_gguf(find_model(model)[0], console.say)
    form, problems = check(path)
    if json_output:
        print_json({"path": model, "form": form, "ok": not problems, "problems": problems})
    if problems:
        hint = (
            "make it anew with `agq pack`, or copy it again"
            if form == "packed"
            else "make the folder anew, or download it again"
        )
        raise AgqError(
            f"`{model}` has {len(problems)} problem{'s' * (len(problems) > 1)}: {'; '.join(problems)}", hint=hint
        )
    if not json_output:
        print(f"{model}: ok")
        for line in told(path):
            console.say(f"note: quantizing met {line}" if line[0].isdigit() else f"note: taken back: {line}")
    console.detail(
        "every byte is as it was written" if form == "packed" else "tensors, shapes, schemes and values are consistent"
    )
