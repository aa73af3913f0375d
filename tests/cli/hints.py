"""The hints that stand in the source, and what a person types who follows one."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from agq.cli.commands import COMMANDS
from tests.support import REPOSITORY

# What makes a hint one that can be followed: an option, a command of agq or of another program, a variable.
_DONE = re.compile(
    r"`[a-z][a-z0-9_.]*:(?: [^`]*)?`|(?<![\w-])--?[a-z]|\bagq (?:COMMAND)\b|\bpip install|`make [a-z]+`|\bpython -c|"
    r"\bAGQ_|\biconv\b|\bgit lfs|\bulimit|\bPYTHON[A-Z]|\bHF_|from_pretrained|(?<![\w`/.])/[a-z]+ ".replace(
        "COMMAND", "|".join(COMMANDS)
    )
)
# Names of variables that hold a hint, or a part of one.
_HOLDERS = re.compile(r"hint|advice|broken")
# Option with its value, or a command, as a hint names it.
_STEP = re.compile(
    r"`(agq [^`]+)`|(agq run \S+ '[^']*')|`(--?[a-z][a-z-]*)(?: ([^`]+))?`|"
    r"(?<![\w`-])(--?[a-z][a-z-]*)(?: ([A-Z]+|\d+)\b)?"
)
_LEAVE = re.compile(r"leave (?:out|away|it out|them out)|\bleave\b[^;]*\baway\b")


def _texts(node: ast.expr, names: Mapping[str, list[str]]) -> list[str]:
    """The texts that an expression may have, `{}` for what is filled in; nothing for other expressions."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        found = [""]
        for part in node.values:
            if isinstance(part, ast.Constant):
                more = [str(part.value)]
            else:
                inner = part.value if isinstance(part, ast.FormattedValue) else part
                more = _texts(inner, names) if isinstance(inner, ast.Name) and inner.id.isupper() else []
            found = [text + end for text in found for end in more or ["{}"]]
        return found
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _texts(node.left, names) or ["{}"], _texts(node.right, names) or ["{}"]
        return [one + two for one in left for two in right]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, names) + _texts(node.orelse, names)
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in _texts(value, names)]
    if isinstance(node, ast.Name):
        return names.get(node.id, [])
    return []


def _of(tree: ast.Module, pairs: bool) -> Iterator[str]:
    """The hints of a file. pairs: functions return (message, hint)."""
    names: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = _texts(node.value, names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            given = [item.value for item in node.keywords if item.arg in ("hint", "advice")]
            if (called.endswith("Error") or called in ("error", "Kind")) and len(node.args) > 1:
                given.append(node.args[1])
            for value in given:
                yield from _texts(value, names)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if _HOLDERS.search(node.targets[0].id):
                yield from _texts(node.value, names)
        elif pairs and isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            yield from _texts(node.value.elts[-1], names)


@cache
def hints() -> frozenset[str]:
    """Every hint of agq that can be followed, `{}` for what is filled in."""
    found: set[str] = set()
    for path in sorted((REPOSITORY / "agq").rglob("*.py")):
        found |= set(_of(ast.parse(path.read_text(encoding="utf-8")), path.name == "failures.py"))
    return frozenset(text for text in found if _DONE.search(text))


def matches(template: str, text: str) -> bool:
    """Whether `text` is the hint `template`, filled in. Both with their options as they are typed."""
    return re.fullmatch(".*".join(map(re.escape, template.split("{}"))), text) is not None


def steps(hint: str, arguments: Sequence[str], values: Mapping[str, str]) -> list[list[str]]:
    """The command lines that a hint proposes to somebody who typed `arguments`: one for each command and option in it.

    values: for what a hint leaves open: a placeholder (`FILE`), a command or an option without its value; "" for an
    option that belongs to another command of the hint.
    """
    found = []
    for match in _STEP.finditer(hint):
        command, quoted, *options = match.groups()
        if command or quoted:
            words = values.get(command or quoted, command or quoted)
            found.append(shlex.split(words)[1:])
            continue
        name, value = (options[0], options[1]) if options[0] else (options[2], options[3])
        before = hint[: match.start()]
        clause = re.split(r"[;,] (?:or )?(?!or)", before)[-1] + hint[match.start() : match.end() + 12]
        if _LEAVE.search(clause):
            found.append(without(arguments, name))
            continue
        value = values.get(value, value) if value else values.get(name)
        if value != "":
            found.append(with_option(arguments, name, value))
    return found


def without(arguments: Sequence[str], name: str) -> list[str]:
    """The arguments without an option and its value."""
    rest = list(arguments)
    if name in rest:
        place = rest.index(name)
        more = place + 1 < len(rest) and not rest[place + 1].startswith("--")
        del rest[place : place + 1 + more]
    return rest


def with_option(arguments: Sequence[str], name: str, value: str | None) -> list[str]:
    """The arguments with an option set: in its place, or at the end."""
    rest = [word for word in arguments if word != f"--no-{name.removeprefix('--')}"]
    if value is None:
        return rest if name in rest else [*rest, name]
    return [*without(rest, name), name, value]
