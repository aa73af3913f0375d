"""The command line's side of options that are declared elsewhere (agq/recipe/declaration.py): parameters of commands
made from them, and their names in messages.

The library names an option in backticks as a recipe or a sweep writes it: `method: rtn`, `force: true`, `samples:`.
`in_flags` makes of that what the user types: `--method rtn`, `--force`, `--samples`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Annotated, Any, get_args, get_origin

from agq.recipe import declaration
from agq.recipe.changes import RecipeChanges, RunOptions
from agq.recipe.declaration import Changes, Option

# The order of a command's headings.
PANELS = (
    "",
    declaration.METHOD,
    declaration.TRANSFORMATIONS,
    declaration.PRUNING,
    declaration.CALIBRATION,
    declaration.OUTPUT,
)
# Options of the commands that set nothing in a recipe, by the names of the Python functions' arguments; of a bool the
# two answers.
COMMAND_OPTIONS = {
    "add_bos": "add-bos/no-add-bos",
    "baseline": "baseline",
    "batch": "batch",
    "chat": "chat",
    "config": "config",
    "context": "context",
    "decode": "decode",
    "force": "force",
    "limit": "limit",
    "limits": "limits/no-limits",
    "max_tokens": "max-tokens",
    "max_windows": "max-windows",
    "output": "output",
    "plot": "plot/no-plot",
    "png": "png",
    "prefill": "prefill",
    "prompts": "prompts",
    "resume": "resume/no-resume",
    "speculate": "speculate",
    "startup": "startup/no-startup",
    "stride": "stride",
    "temp": "temp",
    "text_field": "text-field",
}


@dataclass(frozen=True)
class Group:
    """Options of a command that together make one settings object. helps: other help texts than the declared ones."""

    kind: type[Changes]
    options: Sequence[Option]
    helps: dict[str, str] = field(default_factory=dict)


def every(kind: type[Changes]) -> Group:
    """All options of a settings class."""
    return Group(kind, kind.options())


def annotated(name: str, help: str | None = None) -> Any:
    """The annotation of a command's parameter for one option of a recipe. help: instead of the declared one."""
    return _annotation(_declared()[name], help)


def with_options(**groups: Group) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for a command: each of its parameters that is named here is a settings object, in whose place the
    command line has the options that it is made from. They are listed by their headings, in the order of the
    declaration."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function, eval_str=True)
        parameters = [item for name, item in signature.parameters.items() if name not in groups]
        first = next(iter(groups))
        before = list(signature.parameters).index(first)
        listed = [(item, group) for group in groups.values() for item in group.options]
        listed.sort(key=lambda pair: (PANELS.index(pair[0].panel), pair[0].last))
        made = [
            inspect.Parameter(
                item.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=_annotation(item, group.helps.get(item.name)),
            )
            for item, group in listed
        ]
        parameters[before:before] = made

        @wraps(function)
        def command(**values: Any) -> Any:
            for parameter, group in groups.items():
                given = {item.name: _value(item, values.pop(item.name)) for item in group.options}
                values[parameter] = group.kind(**given)
            return function(**values)

        parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in parameters]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # functions may have it
        command.__annotations__ = {item.name: item.annotation for item in parameters}
        return command

    return decorate


def _annotation(option: Option, help: str | None) -> Any:
    import typer

    kind = _typed(option.kind)
    number = kind in (int, float)
    info = typer.Option(
        *_written(option.words),
        rich_help_panel=option.panel or None,
        envvar=option.env,
        metavar=option.metavar,
        show_default=False,
        help=declaration.spelled(help or option.help, lambda name: flag(name) or name),
        min=option.least if number else None,
        max=option.most if number else None,
        autocompletion=_COMPLETED.get(option.name),
    )
    return Annotated[kind | None, info]


def _schemes() -> list[str]:
    from agq.recipe import SCHEMES

    return sorted(SCHEMES)


def _presets() -> list[str]:
    from agq.recipe.files import preset_names

    return preset_names()


def _methods() -> list[str]:
    from agq.recipe import METHODS

    return sorted(METHODS)


def _efforts() -> list[str]:
    from agq.recipe.changes import EFFORT_NAMES

    return list(EFFORT_NAMES)


def _boards() -> list[str]:
    from agq.planning.machines import machines

    return sorted(key for key, item in machines().items() if not item.card)


def _beginning(names: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    """What Typer asks when Tab is pressed: the names that begin with what stands there."""

    def found(incomplete: str) -> list[str]:
        return [name for name in names() if name.lower().startswith(incomplete.lower())]

    return found


# Options whose values the shell completes.
_COMPLETED = {
    "scheme": _beginning(_schemes),
    "preset": _beginning(_presets),
    "method": _beginning(_methods),
    "effort": _beginning(_efforts),
    "board": _beginning(_boards),
}


def _typed(kind: Any) -> Any:
    """What Typer parses: a list of texts for a tuple, a text for a union of texts and other things."""
    if get_origin(kind) is tuple:
        return list[str]
    parts = [part for part in get_args(kind) if part is not type(None)]
    if not parts:
        return kind
    if any(get_origin(part) is tuple for part in parts):
        return list[str]
    return parts[0] if len(parts) == 1 else str


def _value(option: Option, value: Any) -> Any:
    return not value if option.inverted and value is not None else value


def _written(words: str) -> list[str]:
    """ "group-size,g" -> ["--group-size", "-g"]; "asym/sym" -> ["--asym/--sym"]."""
    return ["/".join(_dashed(answer) for answer in name.split("/")) for name in words.split(",")]


def _dashed(word: str) -> str:
    return f"-{word}" if len(word) == 1 else f"--{word}"


# ---- options in messages


@cache
def _declared() -> dict[str, Option]:
    return {item.name: item for kind in (RecipeChanges, RunOptions) for item in kind.options()}


@cache
def _spellings() -> dict[str, tuple[str, str]]:
    """Name, or keys in a recipe -> the flag, of a bool those for true and false."""
    found = {}
    for item in _declared().values():
        yes, _, no = item.words.partition(",")[0].partition("/")
        answers = (no, yes) if item.inverted else (yes, no or yes)
        found[item.name] = answers
        if len(item.path) > 1:
            found[".".join(item.path)] = answers
    for name, words in COMMAND_OPTIONS.items():
        yes, _, no = words.partition("/")
        found[name] = (yes, no or yes)
    return {name: (_dashed(yes), _dashed(no)) for name, (yes, no) in found.items()}


def flag(name: str) -> str | None:
    """The flag of an option by its name; None: no command has it."""
    found = _spellings().get(name)
    return found[0] if found else None


_REFERENCE = re.compile(r"`([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?):(?: ([^`]*))?`")


def in_flags(text: str) -> str:
    """`text` with options in backticks as they are typed; what is no option of a command stays as it is."""

    def typed(match: re.Match[str]) -> str:
        found = _spellings().get(match[1])
        if found is None:
            return match[0]
        if match[2] in ("true", "false"):
            return f"`{found[match[2] == 'false']}`"
        return f"`{found[0]} {match[2]}`" if match[2] else f"`{found[0]}`"

    return _REFERENCE.sub(typed, text)
