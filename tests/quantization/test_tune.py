"""Tuning of scales: codes stay, predictions come closer, and it survives interruption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from agq.checkpoint import open_checkpoint, read_linear
from agq.errors import AgqError
from agq.quantization.walk import Progress
from agq.recipe import Recipe, Scheme, TuneOptions
from agq.recipe_files import apply_preset
from tests.quantization.quantization_support import contents, quantized

RECIPE = Recipe(scheme=Scheme.parse("W4A8"), tune=TuneOptions(epochs=2, windows=12, batch=3, learning_rate=5e-4))
RUN = {"recipe": RECIPE, "samples": 16, "seq_len": 64, "scale": True, "hadamard": 128}


@pytest.fixture(scope="module")
def folders(short_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tuned")
    quantized(short_model, folder / "solved", **RUN, tune=0)
    quantized(short_model, folder / "tuned", **RUN)
    return folder / "solved", folder / "tuned"


def test_only_scales_change(folders: tuple[Path, Path]) -> None:
    solved, tuned = map(open_checkpoint, folders)
    changed = 0
    for linear in solved.parts.block_linears():
        before, after = read_linear(solved, linear.module), read_linear(tuned, linear.module)
        assert np.array_equal(before.codes, after.codes)
        ratio = after.scale / before.scale
        assert 0.8 < ratio.min() and ratio.max() < 1.25
        changed += int((ratio != 1).sum())
    assert changed > 100
    for name in solved.parts.dense_tensors():
        assert np.array_equal(solved.read_raw(name)[1], tuned.read_raw(name)[1])


def test_predictions_come_closer_on_windows_that_were_not_trained_on(folders: tuple[Path, Path]) -> None:
    report = json.loads((folders[1] / "agq.json").read_text())["report"]["tune"]
    assert report["kept"] is True and report["windows"] == 4
    assert report["after"] < report["before"]


def test_record_is_what_the_reference_computes(short_model: Path, folders: tuple[Path, Path]) -> None:
    """KL divergence of the written folders from the original on the judged windows, with the head in floats as in tuning."""
    from agq.quantization.pipeline import calibration_tokens, plan
    from agq.reference.decoder import ReferenceModel
    from tests.quantization.quantization_support import TEXT

    made = plan(str(short_model), folders[0].parent / "unused", data=str(TEXT), samples=16, seq_len=64)
    windows = calibration_tokens(made)[0][12:]
    original = ReferenceModel.from_folder(short_model)
    report = json.loads((folders[1] / "agq.json").read_text())["report"]["tune"]
    for folder, expected in zip(folders, (report["before"], report["after"]), strict=True):
        model = ReferenceModel.from_folder(folder, head_bits=32)
        found = []
        for window in windows:
            log_p, log_q = (torch.log_softmax(torch.from_numpy(m.logits(window)).double(), -1) for m in (original, model))
            found.append(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()))
        assert np.mean(found) == pytest.approx(expected, rel=0.01)


def test_interrupted_tuning_gives_the_same_bytes(short_model: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class StopWhileTuning(Progress):
        def step(self, text: str) -> None:
            if text.startswith("scales tuned: step 3"):
                raise Stop

    with pytest.raises(Stop):
        quantized(short_model, tmp_path / "tuned", progress=StopWhileTuning(), **RUN)
    assert quantized(short_model, tmp_path / "tuned", **RUN).resumed == 2
    assert contents(tmp_path / "tuned") == contents(folders[1])


def test_result_that_is_worse_is_not_kept(short_model: Path, tmp_path: Path) -> None:
    """A learning rate that destroys the model leaves the solver's scales."""
    wild = Recipe(tune=TuneOptions(epochs=1, windows=2, batch=1, learning_rate=1.0))
    quantized(short_model, tmp_path / "wild", recipe=wild, scheme="W4A8")
    quantized(short_model, tmp_path / "solved", recipe=wild, scheme="W4A8", tune=0)
    report = json.loads((tmp_path / "wild" / "agq.json").read_text())["report"]["tune"]
    assert report["kept"] is False and report["after"] > report["before"]
    assert (tmp_path / "wild" / "model.safetensors").read_bytes() == (tmp_path / "solved" / "model.safetensors").read_bytes()


def test_static_activations_are_not_tuned() -> None:
    """Tuning would assume other quantizers than the model has."""
    with pytest.raises(AgqError, match="dynamic activations"):
        apply_preset(Recipe(tune=TuneOptions(epochs=1)), "agile")
