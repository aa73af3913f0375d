"""docs/json.md names exactly the keys that the commands print, and their types; docs/json.schema.json says the same."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.support import REPOSITORY

pytestmark = pytest.mark.slow

PAGE = (REPOSITORY / "docs" / "json.md").read_text(encoding="utf-8")

SCHEMA = json.loads((REPOSITORY / "docs" / "json.schema.json").read_text(encoding="utf-8"))


def documented(heading: str) -> set[str]:
    """The keys of the table below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`(\w+)`", " ".join(rows)))


def lines(*arguments: object) -> list[Any]:
    """The JSON lines that a command prints. It runs in this process, which loads PyTorch once for all of them."""
    from agq.cli import main

    with redirect_stdout(io.StringIO()) as out:
        assert main([str(argument) for argument in (*arguments, "--json")]) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def printed(*arguments: object) -> dict[str, Any]:
    """Of a command that prints one object."""
    (found,) = lines(*arguments)
    return found


SWEEP = """\
models:
  - {{name: demo, path: {model}, seq_len: 32}}
texts:
  - {{name: words, data: {data}, windows: 1}}
divergence_windows: 1
reference_windows: 0
prefill: 8
decode: 2
threads: 1
rows:
  - {{name: bf16}}
"""
# Headings that name only the keys that come to those of another one.
ADDITIONS = {
    "agq info, a packed file": "agq info",
    "agq eval-ppl --baseline": "agq eval-ppl",
    "agq eval-ppl --method lm-eval": "agq eval-ppl",
    "agq eval-ppl --prune": "agq eval-ppl",
}


@pytest.fixture(scope="module")
def made(
    demo_model: Path, demo_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dict[str, Any]]]:
    """What each command printed, by its heading in the page. An addition such as `agq info, a packed file` is there
    without the keys of the heading before it."""
    folder = tmp_path_factory.mktemp("json")
    patch = pytest.MonkeyPatch()
    patch.setenv("AGQ_CACHE_DIR", str(folder / "cache"))
    options = ("--method", "rtn", "-o", folder / "q")
    packed, data = folder / "m.agq.safetensors", demo_text / "heldout.txt"
    (folder / "short.txt").write_text(data.read_text(encoding="utf-8")[:2000], encoding="utf-8")
    (folder / "sweep.yaml").write_text(SWEEP.format(model=demo_model, data=data))
    windows = ("--data", demo_text / "calibration.txt", "--samples", 1, "--seq-len", 32)
    found = {
        "agq quantize --dry-run": printed("quantize", demo_model, *options, "--dry-run"),
        "agq quantize": printed("quantize", demo_model, *options),
        "agq pack": printed("pack", folder / "q", "-o", packed),
        "agq verify": printed("verify", packed),
        "agq cache": printed("cache"),
        "agq calibrate": printed("calibrate", demo_model, *windows, "-o", folder / "s"),
        "agq calibrate --search-pruning": printed(
            "calibrate", demo_model, *windows, "-o", folder / "p", "--search-pruning"
        ),
        "agq info": printed("info", folder / "q"),
        "agq info, a packed file": printed("info", packed),
        "agq env": printed("env"),
        "agq recommend": printed("recommend", demo_model, "--machine", "pi4"),
        "agq recommend --list-machines": lines("recommend", "--list-machines")[0][0],
        "agq fit": printed("fit", demo_model, "--memory", "1G"),
        "agq sweep --dry-run": printed("sweep", folder / "sweep.yaml", "--dry-run"),
        "agq sweep": printed("sweep", folder / "sweep.yaml", "-o", folder / "sweep", "--no-plot"),
    }
    found["agq run, a token"], _, found["agq run"] = lines("run", packed, "hello", "-n", 2)
    quick = ("-p", 8, "-n", 2, "-r", 1, "--no-limits", "--no-startup", "--profile")
    found["agq bench"] = lines("bench", packed, *quick)[0][0]
    text = (packed, "--data", folder / "short.txt", "--seq-len", 32, "--max-windows", 2)
    found["agq eval-ppl"] = printed("eval-ppl", *text)
    quick = ("--data", folder / "short.txt", "--seq-len", 32, "--max-windows", 1, "-o", folder / "page.html")
    found["agq report"] = printed("report", folder / "q", "--original", demo_model, *quick)
    found["agq eval-ppl --baseline"] = printed("eval-ppl", *text, "--baseline", packed)
    found["agq eval-ppl --method lm-eval"] = printed("eval-ppl", *text, "--method", "lm-eval")
    found["agq eval-ppl --prune"] = printed("eval-ppl", *text, "--prune", "3-5:0.3")
    found["agq compare"] = printed("compare", demo_model, packed, "--limit", 2, "-n", 2, *text[1:])
    for name, base in ADDITIONS.items():
        assert documented(base) <= set(found[name])
        found[name] = {key: value for key, value in found[name].items() if key not in documented(base)}
    yield found
    patch.undo()


HEADINGS = [line[3:] for line in PAGE.splitlines() if line.startswith("## ")]


@pytest.mark.parametrize("heading", HEADINGS)
def test_keys(made: dict[str, dict[str, Any]], heading: str) -> None:
    assert set(made[heading]) == documented(heading)


KINDS = {"string": str, "number": (int, float), "boolean": bool, "object": dict, "array": list, "null": type(None)}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """A value is one that a part of the schema without properties describes."""
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    wanted = [
        kind for kind in kinds if isinstance(value, KINDS[kind]) and (kind == "boolean") == isinstance(value, bool)
    ]
    return bool(wanted) and (
        "items" not in schema or value is None or all(fits(item, schema["items"]) for item in value)
    )


@pytest.mark.parametrize("heading", HEADINGS)
def test_types(made: dict[str, dict[str, Any]], heading: str) -> None:
    definition = SCHEMA["$defs"][heading]
    properties = definition.get("items", definition)["properties"]
    wrong = {key: value for key, value in made[heading].items() if not fits(value, properties[key])}
    assert not wrong


def test_keys_of_what_is_inside(made: dict[str, dict[str, Any]]) -> None:
    assert made["agq sweep --dry-run"]["entries"] == [{"model": "demo", "row": "bf16"}]
    assert [record["row"] for record in made["agq sweep"]["records"]] == ["bf16"]
    assert made["agq cache"]["files"] == []


def test_every_command_has_it(made: dict[str, dict[str, Any]]) -> None:
    from agq.cli.application import load_command
    from agq.cli.commands import COMMANDS

    for name in COMMANDS:
        assert any("--json" in item.opts for item in load_command(name).params), name
        assert f"\n## agq {name}\n" in PAGE


def test_a_rough_time(made: dict[str, dict[str, Any]]) -> None:
    assert 1 <= made["agq quantize --dry-run"]["seconds"] < 60
