"""README's lines for a Raspberry Pi: scripts/pi.sh types what the page says, and the lines fit each other."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from agq.version import __version__
from tests.docs.pages import Block, blocks
from tests.support import REPOSITORY

README = REPOSITORY / "README.md"
TITLE = "## On a Raspberry Pi"


def section() -> list[Block]:
    """The section's blocks: the PC's and the Pi's."""
    lines = README.read_text(encoding="utf-8").splitlines()
    start = lines.index(TITLE) + 1
    end = next(number for number, line in enumerate(lines[start:], start) if line.startswith("## "))
    return [block for block in blocks(README) if start < block.line <= end]


def typed(repository: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([repository / "scripts" / "pi.sh", "--lines"], capture_output=True, text=True)


def test_the_script_types_the_lines_of_the_page() -> None:
    pc, pi = section()
    assert (len(pc.commands), len(pi.commands)) == (2, 4), "six lines"
    expected = [f"pc\t{line}" for line in pc.commands] + [f"pi\t{line}" for line in pi.commands]
    answer = pi.lines[len(pi.commands) :]
    assert answer and not any(line.startswith("$ ") for line in answer)
    assert typed(REPOSITORY).stdout.splitlines() == [*expected, *(f"answer\t{line}" for line in answer)]


def test_what_is_sent_is_what_the_pi_uses() -> None:
    """The wheel that `make wheel` builds, and one model under one name, which the script packs where it is missing."""
    pc, pi = section()
    wheel, model, target = shlex.split(pc.commands[1])[1:]
    assert fnmatch.fnmatch(f"dist/agq-{__version__}-py3-none-linux_aarch64.whl", wheel) and target.endswith(":")
    assert pi.commands[2].endswith(f" install {Path(wheel).name}") and pi.commands[3].endswith(f" run {model}")
    script = (REPOSITORY / "scripts" / "pi.sh").read_text(encoding="utf-8")
    assert re.search(rf"^model={re.escape(model)} ", script, re.MULTILINE)


def test_a_page_without_an_answer_is_refused(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    text = README.read_text(encoding="utf-8")
    (answer,) = section()[1].lines[4:]
    (tmp_path / "README.md").write_text(text.replace(f"\n{answer}\n", "\n"), encoding="utf-8")
    refused = typed(tmp_path)
    assert refused.returncode == 1 and not refused.stdout
    assert refused.stderr.startswith("error: README.md, section `On a Raspberry Pi`: no line for answer\nhint: ")
