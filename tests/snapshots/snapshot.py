"""From a case to the text of its snapshot."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.command_server import CommandServer
from tests.snapshots import files, program
from tests.snapshots.case import Case
from tests.snapshots.masks import masked

EXPECTED = Path(__file__).parent / "expected"


def expected_file(case: Case) -> Path:
    """Where a case's snapshot is kept."""
    return EXPECTED / f"{case.name}.txt"


def taken(case: Case, server: CommandServer | None = None) -> str:
    """Runs the case, each time in a fresh folder, and returns its snapshot. server: forks the commands."""
    results = [_run(case, False, server)]
    if case.terminal:
        results.append(_run(case, True, server))
    head = [f"$ {case.line}"]
    head += [f"# {name}={value}" for name, value in case.env.items()]
    if case.stdin:
        head.append(f"# stdin: {case.stdin!r}")
    if case.read_only:
        head.append("# in a folder without the right to write")
    for name, text in case.texts.items():
        head += [f"# {name}:", *(f"#   {line}" for line in text.splitlines())]
    parts = ["\n".join(head)]
    if len(results) == 2 and results[0] == results[1]:
        parts.append("== without a terminal, and on one of 80 columns\n" + results[0])
    else:
        names = ("without a terminal", "on a terminal of 80 columns")
        parts += [f"== {name}\n{text}" for name, text in zip(names, results, strict=False)]
    return "\n\n".join(parts)


def _run(case: Case, on_terminal: bool, server: CommandServer | None) -> str:
    with tempfile.TemporaryDirectory(prefix="snapshot-") as name:
        folder = Path(name) / "here"
        folder.mkdir()
        for item in case.files:
            files.put(item, folder)
        for item, text in case.texts.items():
            (folder / item).write_text(text, encoding="utf-8")
        env = program.environment(Path(name) / "cache", **case.env)
        if case.read_only:
            folder.chmod(0o555)
        if on_terminal:
            result = program.run_on_terminal(case.arguments, folder, env, server)
        else:
            result = program.run(case.arguments, folder, env, case.stdin, server)
        folder.chmod(0o755)
    parts = [f"exit code {result.code}"]
    for stream, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        if text:
            lines = masked(text).removesuffix("\n").split("\n")
            parts.append("\n".join([f"-- {stream}", *(line.rstrip() for line in lines)]))
    return "\n".join(parts) + "\n"
