"""Short windows are computed several at once, and nothing but the time changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agq.evaluation.engine_scorer import EngineScorer
from agq.evaluation.methods import plan_tokens
from agq.evaluation.perplexity import evaluate_plan
from agq.evaluation.scorers import default_rows
from agq.reference.decoder import ReferenceModel
from tests.families import CASES, make
from tests.runtime.runtime_support import relative_error
from tests.runtime.test_against_transformers import packed


@pytest.mark.parametrize(
    ("method", "length", "rows"), [("gptq", 24, None), ("llama.cpp", 40, None), ("strided", 31, 70)]
)
def test_same_number_bit_for_bit(demo_artifact: Path, method: str, length: int, rows: int | None) -> None:
    tokens = np.random.default_rng(3).integers(3, 8000, 500)
    plan = plan_tokens(method, tokens, length, stride=10 if method == "strided" else None, max_windows=23)
    together, alone = EngineScorer(demo_artifact, length, 1), EngineScorer(demo_artifact, length, 1)
    calls: list[int] = []
    several = together.logits_of_several
    together.logits_of_several = lambda windows: calls.append(len(windows)) or several(windows)  # type: ignore
    alone.at_once = lambda length: 1  # type: ignore[method-assign]
    done: list[int] = []
    found = evaluate_plan(together, plan, method, rows, lambda count, total, ppl: done.append(count))
    assert found == evaluate_plan(alone, plan, method, rows)
    assert max(calls) > 1 and done[-1] == len(plan.windows)
    assert all(count * length <= 256 for count in calls)
    together.close()
    alone.close()


def test_long_windows_stay_alone(demo_artifact: Path) -> None:
    scorer = EngineScorer(demo_artifact, 16, 1)
    assert scorer.at_once(16) == 16 and scorer.at_once(200) == 1 and scorer.at_once(1024) == 1
    logits = np.concatenate(list(scorer.logits(np.arange(3, 303), 0, 300, 64)))
    assert logits.shape == (300, scorer.vocab)  # a window that is longer than what the engine was made for
    scorer.close()


def test_rows_are_whole_chunks_of_the_engine() -> None:
    assert default_rows(32000) == 256 and default_rows(8192) == 512 and default_rows(128256) == 65


@pytest.mark.parametrize("name", ["gpt_neox-dynamic", "phi4"])
def test_windows_beyond_the_original_context_are_computed_at_once(name: str, tmp_path: Path) -> None:
    """Their first keys, too, are turned by the frequencies of the whole length (40 is the original context)."""
    path = packed(make(CASES[name]), tmp_path)
    ids = np.random.default_rng(0).integers(3, 270, 60)
    scorer = EngineScorer(path, 64, 1)
    found = np.concatenate(list(scorer.logits(ids, 20, 40, 8)))
    assert scorer.at_once(40) > 1 and scorer.at_once(41) == 1
    scorer.close()
    expected = ReferenceModel.from_folder(tmp_path / "model").logits(ids)[20:]
    assert relative_error(found, expected) < 1e-4
