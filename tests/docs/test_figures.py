"""Figures of the real model: they stand in the large table of docs/results.md; all other tables round them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import prose
from tests.support import REPOSITORY

RESULTS = REPOSITORY / "docs" / "results.md"
# A scheme as the short tables call it, and as the large one does.
SCHEMES = {
    "the GGUF file": "GGUF Q4_1, as it is",
    "GGUF Q4_1, as it is": "GGUF Q4_1, as it is",
    "W8A8": "W8A8",
    "W4A8 with `-g 32`": "W4A8",
    "W4A8, rounded only": "W4A8, rounded",
    "W4A4, 4.58 activation bits": "W4A4, 4.58 activation bits",
    "W4A4, 4 activation bits (`--no-finer`)": "W4A4, 4 activation bits",
    "W4A16": "W4A16",
}


def table(page: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of the page's only table that has these columns, by column; without asterisks."""
    text = "\n".join(line for _, line in prose(page))
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("| ")]
    found = []
    for lines in tables:
        header, _, *rows = [[cell.strip() for cell in line.replace("*", "").split("|")[1:-1]] for line in lines]
        if set(columns) <= set(header):
            found.append([dict(zip(header, row, strict=True)) for row in rows])
    (rows_by_column,) = found
    return rows_by_column


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, str]]:
    """The rows of the large table, by file."""
    return {row["file"]: row for row in table(RESULTS, "file", "r, wt2", "prompt, tokens/s")}


def test_the_row_names_the_option_that_made_it(measured: dict[str, dict[str, str]]) -> None:
    """The default is another one; a newcomer who leaves the option out gets another file."""
    assert "`--scheme W4A8 -g 32`" in measured["W4A8"]["how it was made"]
    assert "--scheme W4A8 -g 32" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_six_rows(measured: dict[str, dict[str, str]]) -> None:
    rows = table(RESULTS, "file", "perplexity, times that of the unquantized model", "MB")
    assert len(rows) == 6
    for row in rows:
        source = measured[SCHEMES[row["file"]]]
        wanted = [f"{float(source['r, wt2']):.3f}", source["MB"]]
        assert list(row.values())[1:] == wanted, f"docs/results.md, {row['file']}: write {wanted}"


def test_readme(measured: dict[str, dict[str, str]]) -> None:
    rows = table(REPOSITORY / "README.md", "scheme", "take it when")
    assert len(rows) == 6
    for row in rows:
        source = measured[SCHEMES[row["scheme"]]]
        wanted = {
            "file": f"{float(source['MB']):.0f} MB",
            "perplexity": f"x {float(source['r, wt2']):.3f}",
            "prompt, tokens/s": source["prompt, tokens/s"],
            "text, tokens/s": source["text, tokens/s"],
        }
        if source["quantize s"] != "-":
            wanted |= {"made in": f"{source['quantize s']} s", "memory for that": source["memory"]}
        assert {name: row[name] for name in wanted} == wanted, f"README.md, {row['scheme']}: write {wanted}"


def test_a_perplexity_of_w4a4_has_its_activation_bits(measured: dict[str, dict[str, str]]) -> None:
    """In every table of the real model, and beside it that of 4 bits in all inputs."""
    for page in (RESULTS, REPOSITORY / "README.md"):
        names = [line.split("|")[1].strip() for _, line in prose(page) if line.startswith("| W4A4") and " 1." in line]
        assert names and all("activation bits" in name for name in names), page
    exact = f"x {float(measured['W4A4, 4 activation bits']['r, wt2']):.3f}"
    assert exact in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_small_models_name_their_activation_bits() -> None:
    """Every table with perplexities has the column; 4-bit activations without finer formats have 4."""
    page = REPOSITORY / "docs" / "results-small-models.md"
    text = "\n".join(line for _, line in prose(page))
    tables = [
        part.splitlines() for part in text.split("\n\n") if part.startswith("| ") and " ppl |" in part.splitlines()[0]
    ]
    assert len(tables) > 8
    for header, _, *rows in tables:
        place = [cell.strip() for cell in header.split("|")].index("abits")
        for row in rows:
            cells = [cell.strip() for cell in row.split("|")]
            found, name = cells[place], " ".join(cells[1:3])
            wanted = "-" if "bf16" in name or "W4A16" in name else "8" if "W8A8" in name or "W4A8" in name else None
            assert found == wanted if wanted else found == "?" or 4 <= float(found) <= 8, row
            if "without finer" in name or "GPTQ W4A4" in name:
                assert found == "4", row
