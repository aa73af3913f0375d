"""Options on the command line come from their declarations; the library names none by its flag."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from agq.cli.application import load_command
from agq.cli.commands import COMMANDS
from agq.cli.options import COMMAND_OPTIONS, flag, in_flags
from agq.recipe import Recipe
from agq.recipe.changes import RecipeChanges, RunOptions
from tests.support import REPOSITORY

LIBRARY = sorted(path for path in (REPOSITORY / "agq").rglob("*.py") if "cli" not in path.relative_to(REPOSITORY).parts)
# `--word`, and `-w` in backticks or quotes.
FLAG = re.compile(r"(?<![\w/-])--[a-z]|[`\"']-[a-z][`\"',)]")
# Flags of other programs, and names of CSS.
OTHERS = {"iconv -f LATIN1 -t UTF-8", "pip install --no-deps"}
CSS = re.compile(r"var\(--[a-z0-9]+\)|--[a-z0-9]+: ?#[0-9a-f]+")
REFERENCE = re.compile(r"`([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?):(?: [^`]*)?`")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(REPOSITORY / "agq")))
def test_the_library_names_no_flag(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for other in OTHERS:
            line = line.replace(other, "")
        line = CSS.sub("", line)
        assert not FLAG.search(line), f"{path}:{number}: {line.strip()}"


def keys(kind: type, path: str = "") -> set[str]:
    """Dotted keys of a recipe, of sections and what is in them."""
    found = set()
    for field in fields(kind):
        found.add(path + field.name)
        if hasattr(field.default, "__dataclass_fields__"):
            found |= keys(type(field.default), f"{path}{field.name}.")
    return found


def test_references_in_messages_are_options() -> None:
    """What the library writes as `key: value` is an option that the command line knows, or a key of recipes."""
    known = {option.name for kind in (RecipeChanges, RunOptions) for option in kind.options()}
    known |= keys(Recipe) | set(COMMAND_OPTIONS)
    seen = set()
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("Error"):
                found = set(REFERENCE.findall(ast.unparse(node)))
                assert found <= known, f"{path}:{node.lineno}: {found - known}"
                seen |= found
    assert {"method", "force", "resume", "samples", "seq_len", "tune", "sink_tokens", "act_group"} <= seen


def test_every_flag_exists() -> None:
    """The flags that references are turned into are those of some command."""
    flags = set()
    for name in COMMANDS:
        for parameter in load_command(name).params:
            flags |= {*parameter.opts, *parameter.secondary_opts}
    declared = {option.name for kind in (RecipeChanges, RunOptions) for option in kind.options()}
    for name in declared | set(COMMAND_OPTIONS):
        assert flag(name) in flags, name
        for answer in ("true", "false"):
            assert in_flags(f"`{name}: {answer}`").strip("`") in flags, name


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("use `method: rtn`", "use `--method rtn`"),
        ("`tune: 0`, `samples:`", "`--tune 0`, `--samples`"),
        ("`transforms.learn: 3` or `rot_steps: 3`", "`--rot-steps 3` or `--rot-steps 3`"),
        ("`gptq.damping: 0.1`", "`--damp 0.1`"),
        ("`mse: true`, `mse: false`", "`--mse`, `--no-mse`"),
        ("`asym: true`, `asym: false`", "`--asym`, `--sym`"),
        ("`act_symmetric: true`, `act_symmetric: false`", "`--act-sym`, `--act-asym`"),
        ("`resume: false`, `force: true`", "`--no-resume`, `--force`"),
        ("`agile.observer: percentile`, `model:`", "`agile.observer: percentile`, `model:`"),
        (
            "`r.yaml`, line 3: `gptq.damping`: `data` is a folder",
            "`r.yaml`, line 3: `gptq.damping`: `data` is a folder",
        ),
    ],
)
def test_options_are_spelled_as_they_are_typed(text: str, typed: str) -> None:
    assert in_flags(text) == typed


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        (("--scheme", "W4A16", "--act-sym"), "`--act-group` and `--act-sym` need quantized", "use `--scheme W4A8`"),
        (
            ("--act-bits", 16, "--act-group", 64),
            "`--act-group` and `--act-sym` need quantized",
            "add `--act-bits 8` or 4",
        ),
        (("--scheme", "W4A8", "--act-bits", 4), "`--scheme` already says the bits", "use either `--scheme` or"),
        (("--act-clip", "x"), "`--act-clip x` is neither", "for example `--act-clip 0.9`"),
        (("--tune", "often"), "`--tune often` is neither", "for example `--tune 200`"),
        (("--preset", "agile", "--tune", 4), "scales are tuned with dynamic", "use `--tune 0`"),
        (("--prune-positions", "paper"), "`--prune-positions` needs `--prune`", None),
        (("--act-asym", "--scheme", "W4A8"), "8-bit activations are symmetric", None),
    ],
)
def test_errors_name_flags(call, demo_model: Path, options: tuple, error: str, hint: str | None) -> None:
    result = call("quantize", demo_model, "--print-config", *options)
    assert result.code == 2 and f"error: {error}" in result.err, result.err
    assert hint is None or f"hint: {hint}" in result.err
    assert "act-symmetric" not in result.err


def test_the_two_answers_of_an_inverted_option(call, demo_model: Path) -> None:
    for answer, symmetric in (("--act-sym", "true"), ("--act-asym", "false")):
        out = call("quantize", demo_model, "--print-config", "--scheme", "W4A4", answer).out
        activations = out[out.index("activations:") :]
        assert f"symmetric: {symmetric}" in activations[: activations.index("method")]


def test_variables_of_the_environment(call, demo_model: Path) -> None:
    """A variable named by the declaration, one made from the flag, and one of a list."""
    env = {"AGQ_CALIBRATION_SAMPLES": "7", "AGQ_DAMP": "0.5", "AGQ_OVERRIDES": "re:.*down_proj=W8A8"}
    out = call("quantize", demo_model, "--print-config", env=env).out
    assert "samples: 7" in out and "damping: 0.5" in out and "pattern: re:.*down_proj" in out


def test_help_has_the_headings_in_order(agq_cli) -> None:
    import os
    import pty
    import subprocess
    import sys

    from tests.support import clean_environment

    parent, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "agq", "quantize", "--help"],
        stdout=child,
        stderr=child,
        env=clean_environment(COLUMNS="100"),
    ) as process:
        os.close(child)
        text = b""
        try:
            while part := os.read(parent, 65536):
                text += part
        except OSError:
            pass  # the end of a terminal
        process.wait()
    plain = re.sub(r"\x1b\[[\d;]*m", "", text.decode())
    headings = re.findall(r"─ ([A-Z][\w ]+?) ─", plain)
    assert headings == [
        "Arguments",
        "Options",
        "Common options",
        "Other options",
        "Method",
        "Transformations",
        "Token pruning",
        "Calibration",
        "Output and run",
        "Global options",
    ]


# Functions that take keywords they do not name: two that make settings objects of them at once, with a signature that
# names them all, and those of the declarations themselves.
COLLECTING = {
    ("quantization/quantize.py", "quantize"),
    ("calibration/calibrate.py", "calibrate"),
    ("recipe/declaration.py", "but"),
    ("recipe/changes.py", "__init__"),
    ("cli/options.py", "with_options"),
    ("cli/options.py", "command"),
    ("cli/quantize.py", "_option"),
}


def test_options_travel_by_name() -> None:
    """No function passes on keywords that nobody can read off its signature."""
    found = set()
    for path in (REPOSITORY / "agq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg:
                found.add((path.relative_to(REPOSITORY / "agq").as_posix(), node.name))
    assert found == COLLECTING
