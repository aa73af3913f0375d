"""Options of the other commands that change nothing are said, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

PROMPT = ("run", "MODEL", "The river", "-n", 1)
SCORED = ("eval-ppl", "MODEL", "--data", "TEXT", "--seq-len", 32, "--max-windows", 1)
# (command line, what is said about which option)
SAID = [
    ((*PROMPT, "--seed", 5), "--seed has no effect: the likeliest token is taken each time"),
    ((*PROMPT, "--top-k", 5, "--min-p", 0.1), "--top-k, --min-p have no effect"),
    ((*PROMPT, "--temp", 0, "--top-p", 0.5), "--top-p has no effect"),
    ((*PROMPT, "--temp", 1, "--top-k", 1, "--seed", 2), "--seed has no effect: the filters leave one token"),
    ((*PROMPT, "--stop", ""), "--stop has no effect where it is empty"),
    ((*PROMPT, "--no-prune"), "--no-prune has no effect: the model prunes no tokens"),
    ((*SCORED, "--split", "test"), "--split has no effect: `TEXT` is a file"),
    ((*SCORED, "--text-field", "text"), "--text-field has no effect: `TEXT` is no jsonl file"),
    ((*SCORED, "--weights-only"), "--weights-only has no effect: a packed file is computed as it is packed"),
]
REFUSED = [
    ((*PROMPT, "--skip-done", "x"), "--skip-done needs --jsonl"),
    ((*PROMPT, "--parallel", 2), "--parallel needs --jsonl"),
    ((*PROMPT, "--speculate", 2, "--temp", 1), "--speculate needs --temp 0"),
    ((*PROMPT, "--prune-scores", "fp"), "`--prune-scores` needs `--prune`"),
    ((*SCORED, "--device", "cpu"), "`--device` is for folders"),
    ((*SCORED, "--stride", 8), "stride"),
    ((*SCORED, "--max-ratio", 2), "--max-ratio needs --baseline"),
    (("bench", "MODEL", "--json", "--output", "csv"), "--json and --output csv exclude each other"),
    (("pack", "MODEL", "--act-bits", 8), "is a safetensors file"),
    (("pack", "FOLDER", "-o", "OUT", "--act-bits", 8), "`--act-bits` is for GGUF files"),
    (("quantize", "FOLDER", "--print-config", "--json"), "--print-config and --json exclude each other"),
    (("quantize", "FOLDER", "--print-config", "--dry-run"), "--print-config and --dry-run exclude each other"),
    (("calibrate", "FOLDER", "--sparsity", 0.1), "need --search-pruning"),
]


@pytest.fixture
def files(demo_artifact: Path, demo_model: Path, demo_text: Path, tmp_path: Path) -> dict[str, Path]:
    return {"MODEL": demo_artifact, "FOLDER": demo_model, "TEXT": demo_text / "heldout.txt", "OUT": tmp_path / "out"}


@pytest.mark.parametrize(("line", "words"), SAID, ids=[words.split(" h")[0] for _, words in SAID])
def test_it_is_said(call, files: dict[str, Path], line: tuple[object, ...], words: str) -> None:
    result = call(*(files.get(str(word), word) for word in line))
    for name, path in files.items():
        words = words.replace(name, str(path))
    assert result.code == 0 and f"warning: {words}" in result.err, result.err


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_it_is_refused(call, files: dict[str, Path], line: tuple[object, ...], words: str) -> None:
    result = call(*(files.get(str(word), word) for word in line))
    assert result.code == 2 and result.out == "" and words in result.err, result.err


def test_what_counts_is_not_mentioned(call, files: dict[str, Path]) -> None:
    line = (*PROMPT, "--temp", 1, "--seed", 5, "--top-k", 5, "--repeat-penalty", 1.1)
    assert call(*(files.get(str(word), word) for word in line)).err == ""
