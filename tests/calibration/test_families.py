"""Statistics of every family: attention to the first token against what transformers says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agq.calibration.statistics import gather
from agq.checkpoint import open_checkpoint
from agq.reference.decoder import Parameters
from agq.reporting.progress import Progress
from tests.families import CASES, make

FAMILIES = ["mistral", "qwen3", "gemma2-caps", "gemma3", "phi4", "smollm3-window", "olmo2", "granite", "gpt_neox"]


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_to_the_first_token(name: str, tmp_path: Path) -> None:
    model = make(CASES[name])
    model.save_pretrained(tmp_path)
    windows = torch.as_tensor(np.random.default_rng(0).integers(3, 270, (2, 30)))
    checkpoint = open_checkpoint(tmp_path)
    found = gather(Parameters(checkpoint), windows, Progress())
    with torch.no_grad():
        attentions = model(windows, output_attentions=True).attentions
    for index, probabilities in enumerate(attentions):
        expected = probabilities[..., 0].mean(dim=(0, 2))
        assert torch.allclose(found[f"attention_to_first.{index}"], expected, rtol=1e-4, atol=1e-6)
    for block in checkpoint.parts.blocks():
        for roles in block.groups:
            linear = block.linears[roles[0]]
            assert found[f"{linear.module}.second_moment"].shape == (linear.in_features,)
