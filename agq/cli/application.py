"""The Typer application: commands loaded when they are invoked, global options before or after the command."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from agq.cli import failures
from agq.cli.commands import COMMANDS, help_text, version_text
from agq.cli.help import arrange
from agq.errors import AgqError
from agq.reporting import console

_PANEL = "Global options"


def _markup() -> Any:
    """rich panels on a terminal, plain text where help is piped."""
    return "rich" if console.is_terminal(sys.stdout) else None


class LazyGroup(typer.core.TyperGroup):
    """The commands of the table; a command's module is imported when the command is looked up."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise failures.unknown_command(args[0], list(COMMANDS))
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_text())


def _set_verbosity(value: int) -> int:
    if value:
        console.configure(verbosity=value)
    return value


def _set_quiet(value: int) -> int:
    if value:
        console.configure(verbosity=-value)
    return value


def _set_color(value: str | None) -> str | None:
    if value is not None:
        if value not in ("auto", "always", "never"):
            raise typer.BadParameter(f"`{value}` is not one of auto, always, never")
        console.configure(color=value)
    return value


def _set_progress(value: bool) -> bool:
    if value:
        console.configure(progress=False)
    return value


def _global_options(
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            metavar=" ",
            callback=_set_verbosity,
            rich_help_panel=_PANEL,
            show_default=False,
            help="More on stderr; -vv still more.",
        ),
    ] = 0,
    quiet: Annotated[
        int,
        typer.Option(
            "--quiet",
            "-q",
            count=True,
            metavar=" ",
            callback=_set_quiet,
            rich_help_panel=_PANEL,
            show_default=False,
            help="Only warnings and errors on stderr; -qq only errors.",
        ),
    ] = 0,
    color: Annotated[
        str | None,
        typer.Option(
            "--color",
            metavar="auto|always|never",
            callback=_set_color,
            rich_help_panel=_PANEL,
            help="Colour; NO_COLOR counts too.",
        ),
    ] = None,
    no_progress: Annotated[
        bool,
        typer.Option("--no-progress", callback=_set_progress, rich_help_panel=_PANEL, help="No progress on stderr."),
    ] = False,
) -> None:
    """Carries the options; never called."""


def _global_parameters() -> list[Any]:
    """The global options as parameters that any command can take, without its function seeing them."""
    probe = typer.Typer(add_completion=False, rich_markup_mode=None)
    probe.command("global")(_global_options)
    parameters = [item for item in typer.main.get_command(probe).params if item.param_type_name == "option"]
    for parameter in parameters:
        parameter.expose_value = False
    return parameters


def load_command(name: str) -> Any:
    """The click command of a subcommand: its module is imported, its options get environment variables and the global
    options.
    """
    sub = typer.Typer(
        add_completion=False, rich_markup_mode=_markup(), context_settings={"help_option_names": ["-h", "--help"]}
    )
    import_module(COMMANDS[name][0]).register(sub)
    command = typer.main.get_command(sub)
    if hasattr(command, "commands"):
        command = command.commands[name]
    command.name = name
    taken = {option for parameter in command.params for option in getattr(parameter, "opts", [])}
    for parameter in command.params:
        _name_variable(parameter)
    for parameter in _global_parameters():
        if not taken & set(parameter.opts):
            command.params.append(parameter)
    arrange(command, panels=_markup() is not None)
    return command


def _name_variable(parameter: Any) -> None:
    """AGQ_<OPTION> for an option that names no variable itself (`--help` needs none)."""
    if parameter.param_type_name != "option" or getattr(parameter, "envvar", None) or parameter.name == "help":
        return
    name = max(parameter.opts, key=len).lstrip("-").replace("-", "_").replace(".", "_").upper()
    parameter.envvar = f"AGQ_{name}"
    if hasattr(parameter, "show_envvar"):
        parameter.show_envvar = True


app = typer.Typer(
    cls=LazyGroup,
    add_completion=True,
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Show versions and exit.")] = False,
) -> None:
    if version:
        print(version_text())
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        print(help_text(), file=sys.stderr)
        raise typer.Exit(2)


def run(arguments: list[str]) -> int:
    """Parses and runs a command line; returns the exit code. Exceptions are the caller's: `agq.cli.failures` words
    them.
    """
    import os

    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    command = typer.main.get_command(app)
    command.params += _global_parameters()
    if "_AGQ_COMPLETE" in os.environ:  # the shell asks for completions
        command.main(args=arguments, prog_name="agq", standalone_mode=True)
        return 0
    with command.make_context("agq", arguments) as context:
        try:
            result = command.invoke(context)
        except Exception as error:
            _name_command(error, context)
            raise
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _name_command(error: Exception, context: Any) -> None:
    """Says of a usage error whose command line it is about: Typer leaves that open for an option without its value."""
    name = context.invoked_subcommand
    if getattr(error, "ctx", error) is None and name in COMMANDS:
        error.ctx = typer.Context(load_command(name), parent=context, info_name=name)  # type: ignore[attr-defined]


__all__ = ["AgqError", "app", "load_command", "run"]
