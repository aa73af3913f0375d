"""The width of the output head, chosen by measurement."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from agq.artifact.pack import pack
from agq.errors import UsageError
from agq.quantization.head import LENGTH, MOST, WINDOWS, Cost, head_costs, narrowest
from agq.quantization.quantize import quantize
from agq.recipe import Recipe
from agq.recipe.changes import RecipeChanges
from agq.recipe.files import load_recipe
from agq.recipe.resolve import adjust_recipe
from agq.reference.decoder import ReferenceModel
from agq.reporting.progress import Progress
from tests.runtime.test_head_matrix import model

NAN = float("nan")


@pytest.mark.parametrize(
    ("four", "six", "eight", "bits"),
    [
        ((MOST - 2e-6, 1e-6), (0.0, 0.0), (0.0, 0.0), 4),
        ((MOST, 0.0), (-0.001, 0.0), (0.0, 0.0), 6),
        ((-0.001, 0.003), (-0.001, 0.0029), (0.0, 0.0), 6),
        ((0.5, 0.0), (0.003, 0.0), (0.001, 0.0), 8),
        ((0.5, 0.0), (0.4, 0.0), (0.3, 0.0), 8),
        ((NAN, NAN), (NAN, NAN), (NAN, NAN), 8),
    ],
)
def test_the_narrowest_that_costs_next_to_nothing(four: tuple, six: tuple, eight: tuple, bits: int) -> None:
    assert narrowest({4: Cost(*four), 6: Cost(*six), 8: Cost(*eight)}) == bits


class Notes(Progress):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A rotated model whose head was measured; what the run said."""
    base = tmp_path_factory.mktemp("head")
    source, told = model(base / "source", "llama"), Notes()
    text = base / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 300)
    quantize(
        source, base / "q", preset="rtn", scheme="W8A8", rotate=True, head_bits="auto", data=str(text), samples=10,
        seq_len=64, progress=told,
    )  # fmt: skip
    return base / "q", told.notes


def test_a_run_takes_the_width_that_measuring_finds(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, notes = run
    record = json.loads((folder / "agq.json").read_text())
    costs = {int(width): Cost(**item) for width, item in record["report"]["head"].items()}
    assert sorted(costs) == [4, 6, 8]
    bits = narrowest(costs)
    assert record["head_bits"] == record["recipe"]["head_bits"] == bits
    assert load_recipe(folder / "recipe.yaml").head_bits == bits
    assert [note.split(";")[0] for note in notes if "output head" in note] == [f"output head of {bits} bits"]
    assert pack(folder, tmp_path / "packed").head_bits == bits
    assert not list(folder.parent.glob(".*agq-work*"))


def test_what_a_head_costs(run: tuple[Path, list[str]]) -> None:
    """Against logits of whole models."""
    folder, _ = run
    windows = np.random.default_rng(0).integers(0, 300, (WINDOWS + 1, LENGTH + 3))[:, : LENGTH + 1]

    def losses(bits: int) -> np.ndarray:
        reference = ReferenceModel.from_folder(folder, head_bits=bits)
        chances = [
            torch.log_softmax(torch.from_numpy(reference.logits(window[:LENGTH])[:-1]).double(), dim=1)
            for window in windows[:WINDOWS]
        ]
        chosen = [
            table[torch.arange(LENGTH - 1), torch.from_numpy(window[1:LENGTH])]
            for table, window in zip(chances, windows, strict=False)
        ]
        return -torch.cat(chosen).numpy()

    costs = head_costs(folder, windows)
    for bits in (4, 6, 8):
        more = losses(bits) - losses(32)
        assert costs[bits].cost == pytest.approx(np.exp(more.mean()) - 1, abs=1e-6)
        assert costs[bits].error == pytest.approx(np.sqrt(more.var() / more.size), rel=1e-3)


def test_options() -> None:
    assert adjust_recipe(Recipe(), RecipeChanges(head_bits="auto")).head_bits == "auto"
    assert adjust_recipe(Recipe(), RecipeChanges(head_bits="6")).head_bits == 6
    assert adjust_recipe(Recipe(head_bits=16), RecipeChanges()).head_bits == 16
    assert Recipe(method="rtn", head_bits="auto").calibrated and not Recipe(method="rtn").calibrated
    for wrong in ("most", 5):
        with pytest.raises(UsageError) as caught:
            adjust_recipe(Recipe(), RecipeChanges(head_bits=wrong))
        assert str(wrong) in caught.value.message and "4, 6, 8, 16" in (caught.value.hint or "")
