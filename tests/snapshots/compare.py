"""A snapshot against the one that is kept."""

from __future__ import annotations

import difflib

from tests.snapshots.case import Case
from tests.snapshots.snapshot import expected_file


def difference(case: Case, text: str) -> str:
    """A unified diff from the kept snapshot to `text`; empty where they are equal."""
    path = expected_file(case)
    kept = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = difflib.unified_diff(
        kept.splitlines(keepends=True), text.splitlines(keepends=True), f"expected/{path.name}", "now", n=2
    )
    return "".join(lines)
