"""Options are declared once, at the field of a recipe's dataclass that they set.

`option` declares a field with all that a command line, a Python function, a sweep and a help text need of it. What is
derived from the declarations: the options of the commands (agq/cli/options.py), the keywords of `agq.quantize`, the
keys of a sweep's rows, and the class whose objects carry what was given (`changes_of`). To add an option, declare a
field and use it.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Self, TypeVar

from agq import structured
from agq.errors import AgqError, UsageError
from agq.structured import Path, Place

_T = TypeVar("_T")
_KEY = "option"

# Headings of a command's help.
METHOD = "Method"
TRANSFORMATIONS = "Transformations"
PRUNING = "Token pruning"
CALIBRATION = "Calibration"
OUTPUT = "Output and run"


@dataclass(frozen=True)
class Option:
    """One option, however it is given.

    Attributes:
        name: keyword of the Python functions and key of a sweep's row.
        path: where it stands in a recipe, ("transforms", "learn"); empty where it is more or less than one value.
        kind: its type, int, float, bool, str, a tuple or a union of these.
        help: one or two sentences. `{name}` in them is another option, which each reader knows by its own spelling.
        words: of the command line, without dashes: "rot-steps", "group-size/g"; of a bool the two answers,
            "mse/no-mse".
        panel: heading of the help that it stands under. metavar: the value in the help. env: a variable of its own.
        least, most: bounds of a number, both included.
        inverted: the command line's first answer is False ("act-asym/act-sym" sets act_symmetric).
        last: stands after the others of its panel.
    """

    name: str
    path: tuple[str, ...]
    kind: Any
    help: str
    words: str
    panel: str
    metavar: str | None
    env: str | None
    least: float | None
    most: float | None
    inverted: bool
    last: bool


def option(
    default: Any,
    help: str,
    *,
    name: str | None = None,
    words: str | None = None,
    panel: str = "",
    metavar: str | None = None,
    env: str | None = None,
    least: float | None = None,
    most: float | None = None,
    inverted: bool = False,
    last: bool = False,
) -> Any:
    """A dataclass field that is an option. name: where it is not the field's. words: where they are not the name's.
    The others: see Option."""
    declared = {
        "help": help, "name": name, "words": words, "panel": panel, "metavar": metavar, "env": env,
        "inverted": inverted, "last": last,
    }  # fmt: skip
    return structured.setting(default, least=least, most=most, more={_KEY: declared})


def options_in(kind: Any, path: tuple[str, ...] | None = ()) -> list[Option]:
    """The options that a dataclass and the dataclasses in it declare, in the order of the fields. path: of the
    dataclass in a recipe, None: it is none of a recipe's."""
    found = []
    for item in fields(kind):
        wanted = structured.types(kind)[item.name]
        declared = item.metadata.get(_KEY)
        if isinstance(declared, Option):
            found.append(declared)
        elif declared is not None:
            name = declared["name"] or item.name
            flag = name.replace("_", "-")
            words = declared["words"] or (f"{flag}/no-{flag}" if _plain_kind(wanted) is bool else flag)
            limits = {"least": item.metadata["least"], "most": item.metadata["most"]}
            place = () if path is None else (*path, item.name)
            found.append(Option(**{**declared, **limits, "name": name, "path": place, "kind": wanted, "words": words}))
        elif is_dataclass(wanted) and path is not None:
            found += options_in(wanted, (*path, item.name))
    return found


def _plain_kind(kind: Any) -> Any:
    """`bool` of `bool | None`."""
    parts = [part for part in getattr(kind, "__args__", ()) if part is not type(None)]
    return parts[0] if len(parts) == 1 and not isinstance(kind, type) else kind


class Changes:
    """Base of the classes whose objects carry what somebody asked for: a frozen dataclass of options, each None where
    nothing was given. Values are checked by type when it is built; raises UsageError."""

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            try:
                kept = structured.convert(
                    structured.types(type(self))[name], value, lambda path: f"`{path[0]}`", (name,)
                )
            except AgqError as error:
                raise UsageError(error.message, error.hint) from error
            object.__setattr__(self, name, kept)

    @classmethod
    def options(cls) -> list[Option]:
        """What can be given."""
        return options_in(cls, None)

    @classmethod
    def read(cls, data: Any, place: Place, path: Path) -> Self:
        """From parsed YAML, whose `null` is not given. Raises AgqError that names the place: an unknown key, a value of
        a wrong type."""
        found = structured.table(data, structured.names(cls), place, path)
        kinds = structured.types(cls)
        return cls(**{name: structured.convert(kinds[name], found[name], place, (*path, name)) for name in found})

    def given(self) -> dict[str, Any]:
        """What is not None, by name."""
        values = {name: getattr(self, name) for name in structured.names(self)}
        return {name: value for name, value in values.items() if value is not None}

    def but(self, **other: Any) -> Self:
        """A copy with some values replaced."""
        return type(self)(**{**{name: getattr(self, name) for name in structured.names(self)}, **other})


def changes_of(whole: Any) -> Callable[[type[_T]], type[_T]]:
    """A class decorator that makes a frozen dataclass of `Changes`: with the options that the class itself declares,
    and one for every option of the dataclass `whole`, by default None."""

    def make(cls: type[_T]) -> type[_T]:
        for found in options_in(whole):
            if found.name in cls.__annotations__:
                raise TypeError(f"option {found.name} is declared twice")
            cls.__annotations__[found.name] = found.kind | None
            setattr(cls, found.name, field(default=None, metadata={_KEY: found}))
        return dataclass(frozen=True, kw_only=True)(cls)

    return make


def takes(function: Callable[..., Any], options: Iterable[Option]) -> None:
    """Gives a function that collects options as keywords the signature and the docstring that name each of them."""
    options = sorted(options, key=lambda item: item.name)
    own = inspect.signature(function)
    kept = [item for item in own.parameters.values() if item.kind is not inspect.Parameter.VAR_KEYWORD]
    keywords = [
        inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=item.kind | None)
        for item in options
    ]
    function.__signature__ = own.replace(parameters=[*kept, *keywords])  # type: ignore[attr-defined]  # functions may have it
    lines = [
        textwrap.fill(
            f"{item.name}: {spelled(item.help, lambda name: f'`{name}`')}",
            116, initial_indent=" " * 4, subsequent_indent=" " * 8,
        )
        for item in options
    ]  # fmt: skip
    text = inspect.cleandoc(function.__doc__ or "")
    function.__doc__ = "\n".join([text, "", "Options, by default those of preset and recipe:", *lines])


def given_to(function: Callable[..., Any], given: Mapping[str, Any], *kinds: type[Any]) -> list[Any]:
    """The keywords of a function that `takes` options, as objects of the classes of settings. Raises UsageError: an
    unknown one, with the closest that there is; a value of a wrong type."""
    valid = [name for name, item in inspect.signature(function).parameters.items() if item.kind is item.KEYWORD_ONLY]
    for name in given:
        if name not in valid:
            raise UsageError(f"`{function.__name__}` has no option `{name}`", hint=structured.nearest(name, valid))
    return [kind(**{name: given[name] for name in structured.names(kind) if name in given}) for kind in kinds]


def spelled(help: str, spelling: Callable[[str], str]) -> str:
    """A help text whose `{name}`s are spelled as `spelling` says."""
    return re.sub(r"\{(\w+)\}", lambda match: spelling(match[1]), help)


def section(options: Sequence[Option], *names: str) -> list[Option]:
    """The options of some of a recipe's sections: "calibration"."""
    return [item for item in options if len(item.path) > 1 and item.path[0] in names]
