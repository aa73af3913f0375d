"""docs/json.md names exactly the keys that the commands print."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import REPOSITORY

pytestmark = pytest.mark.slow

PAGE = (REPOSITORY / "docs" / "json.md").read_text(encoding="utf-8")


def documented(heading: str) -> set[str]:
    """The keys of the table below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`(\w+)`", " ".join(rows)))


def printed(agq_cli: Any, *arguments: object) -> dict[str, Any]:
    lines = agq_cli(*arguments, "--json", check=True).stdout.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def made(agq_cli: Any, demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("json")
    options = ("--method", "rtn", "-o", folder / "q")
    return {
        "agq quantize --dry-run": printed(agq_cli, "quantize", demo_model, *options, "--dry-run"),
        "agq quantize": printed(agq_cli, "quantize", demo_model, *options),
        "agq pack": printed(agq_cli, "pack", folder / "q", "-o", folder / "m.agq.safetensors"),
        "agq verify": printed(agq_cli, "verify", folder / "m.agq.safetensors"),
        "agq cache": printed(agq_cli, "cache"),
    }


@pytest.mark.parametrize("heading", ["agq quantize", "agq quantize --dry-run", "agq pack", "agq verify", "agq cache"])
def test_keys(made: dict[str, dict[str, Any]], heading: str) -> None:
    assert set(made[heading]) == documented(heading)


def test_every_command_has_it(made: dict[str, dict[str, Any]]) -> None:
    from agq.cli.application import load_command
    from agq.cli.commands import COMMANDS

    for name in COMMANDS:
        assert any("--json" in item.opts for item in load_command(name).params), name
        assert f"agq {name}" in PAGE


def test_a_rough_time(made: dict[str, dict[str, Any]]) -> None:
    assert 5 <= made["agq quantize --dry-run"]["seconds"] < 60
