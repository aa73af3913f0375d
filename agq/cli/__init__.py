"""The `agq` command: one module a subcommand, imported only when it is invoked; errors, exit codes and global options
for all.

A subcommand's module has `register(app: typer.Typer)`, which adds its command with `app.command("name")`. Options
without an environment variable of their own get `AGQ_<OPTION>`. Exit codes: 0 success, 1 bad input or a missed gate, 2
usage (and internal errors), 130 interrupted, 141 nobody reads stdout.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any

from agq.cli import failures
from agq.reporting import console


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code. `arguments`: without the program's name, by default those of the
    process.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Modules and vocabularies are many objects that stay: looking for garbage among them costs more than there is.
    gc.set_threshold(100_000)
    return failures.run(lambda: _main(arguments))


def _main(arguments: list[str]) -> int:
    console.reset()
    if arguments and arguments[0] in ("-h", "--help"):
        from agq.cli.commands import help_text

        print(help_text())
        return 0
    if arguments == ["--version"]:
        from agq.cli.commands import version_text

        print(version_text())
        return 0
    from agq.cli.application import run

    return run(arguments)


def __getattr__(name: str) -> Any:
    if name == "app":  # the Typer application itself, for tools that want one
        from agq.cli.application import app

        return app
    raise AttributeError(f"module 'agq.cli' has no attribute '{name}'")


__all__ = ["main"]
