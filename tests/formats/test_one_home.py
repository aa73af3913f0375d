"""Facts about formats stand in agq/formats alone. What the patterns find elsewhere is a copy of one."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

from tests.support import REPOSITORY

HOME = REPOSITORY / "agq" / "formats"
PATTERNS = {
    "a table of widths": r"\(\s*(4|8)\s*,\s*(8|16)\s*(,\s*(16|32)\s*)?\)",
    "an element type compared by its name": r"""(==|!=)\s*["'](u4|i8|f16|bf16|f32|int8)["']|["'](u4|i8)["']\s*[,)]""",
    "the rule of groups": r"%\s*32\b",
    "a whole row as a number": r"group(_size)?\s*(==|!=|>|<|<=|>=)\s*-?[01]\b|group(_size)?\s*=\s*-1\b",
    "a width that is compared": r"(\b|(weights|activations|scheme|kv|act|head|embed)_)bits\s*(==|!=|<|>)\s*\d",
}


def code(path: Path) -> str:
    """A file without comments, docstrings and messages: of texts only short ones are kept, which may be names."""
    kept = []
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and len(token.string) > 8):
            continue
        kept.append(token.string if token.type != tokenize.NEWLINE else "\n")
    return " ".join(kept).replace(" . ", ".").replace("- ", "-")


def copies(path: Path) -> list[str]:
    """Kinds of facts that a file holds copies of."""
    text = code(path)
    return [kind for kind, pattern in PATTERNS.items() if re.search(pattern, text)]


def test_no_file_outside_formats_holds_a_copy() -> None:
    found = {}
    for path in sorted((REPOSITORY / "agq").rglob("*.py")):
        if path.parent != HOME and path.name != "_agq_cdef.py":
            if kinds := copies(path):
                found[path.relative_to(REPOSITORY).as_posix()] = kinds
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "KV_BITS = (4, 8, 32)",
        "if bits not in (4, 8):",
        "if head_bits not in (8, 16, 32):",
        'bits = 4 if info.dtype == "u4" else 8',
        'return self.dtype in ("u4", "i8")',
        "if group % 32:",
        "size = columns if group_size == -1 else group_size",
        "if scheme.group_size > 0:",
        "if scheme.weights.bits == 16:",
        "if self.kv_bits != 8:",
        "if form.bits == 4 and form.minimum:",
    ],
)
def test_it_sees_what_it_should(tmp_path: Path, line: str) -> None:
    body = line + ("\n    pass" if line.endswith(":") else "")
    (tmp_path / "file.py").write_text(body + "\n")
    assert copies(tmp_path / "file.py")
