"""Transformations of every family leave the function of the model as it is, and what an architecture does not allow is
named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agq.checkpoint import Checkpoint, open_checkpoint
from agq.quantization.encode import TORCH_DTYPES
from agq.quantization.outliers import inject_outliers
from agq.quantization.transforms.finer import _normed
from agq.quantization.transforms.inputs import gather
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.plan import TransformPlan
from agq.reference.attention import Positions
from agq.reference.decoder import Embedding, Parameters, ReferenceModel
from agq.reference.stream import HiddenStates
from tests.families import CASES, make
from tests.transforms.transform_support import (
    logits,
    plan_of,
    random_exponents,
    random_shifts,
    random_turns,
    relative_error,
    tokens,
)


def saved(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    make(CASES[name]).to(dtype).save_pretrained(folder)
    return folder


def complete(checkpoint: Checkpoint, plan: TransformPlan) -> TransformPlan:
    """The plan with everything at random that is measured otherwise."""
    spec = checkpoint.spec
    places = ["o", *(["attention", "mlp"] if spec.pre_norms and plan.r1 is None else [])]
    places += ["down"] if spec.gated else []
    draw = np.random.default_rng(0)
    order = np.stack([draw.permutation(spec.ffn) for _ in range(spec.layers)]).astype(np.int32)
    plan = replace(plan, exponents=random_exponents(checkpoint, tuple(places)), permutation=order)
    return replace(plan, shifts=random_shifts(checkpoint), **random_turns(checkpoint, plan))


@pytest.mark.parametrize("r1", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_everything_at_once(name: str, r1: bool, tmp_path: Path) -> None:
    block = 4 if name == "gpt_neox-odd" else 32
    checkpoint, plan = plan_of(saved(name, tmp_path), fold=True, r1=r1, r2=True, hadamard=block)
    expected = ReferenceModel(checkpoint).logits(tokens())
    # up to 7 layers, whose rounding errors add up; a wrong formula shows at 1e-1
    assert relative_error(logits(checkpoint, complete(checkpoint, plan), tokens()), expected) < 5e-4


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_gains_stored_less_one_survive_their_rounding(name: str, fold: bool, tmp_path: Path) -> None:
    """A gain divided by 8 is far from what bf16 has next to -1: what reads it makes up for the difference."""
    folder = saved(name, tmp_path, torch.bfloat16)
    checkpoint, plan = plan_of(folder, fold=fold)
    places = ("attention", "mlp")
    plan = replace(plan, exponents=random_exponents(checkpoint, places))

    class Stored(TransformedParameters):
        """Norms as the folder will hold them."""

        def tensor(self, name: str) -> torch.Tensor:
            values = super().tensor(name)
            module = name.removesuffix(".weight")
            return values.to(TORCH_DTYPES["BF16"]).float() if module in self._norms else values

    found = ReferenceModel(checkpoint, parameters=Stored(checkpoint, plan)).logits(tokens())
    assert relative_error(found, ReferenceModel(checkpoint).logits(tokens())) < 1e-4


@pytest.mark.parametrize(("name", "r1"), [("gemma3", False), ("qwen3", False), ("qwen3", True)])
def test_channels_with_gains_of_zero_stay_silent_unless_rotated(name: str, r1: bool, tmp_path: Path) -> None:
    model = make(CASES[name])
    dead = {"gemma3": -1.0}.get(name, 0.0)  # Gemma stores gains less 1
    with torch.no_grad():
        for module, weight in model.named_parameters():
            if "layernorm" in module and "post_" not in module:
                weight[3] = dead
    model.save_pretrained(tmp_path)
    checkpoint, plan = plan_of(tmp_path, fold=True, r1=r1)
    assert plan.zero_gains == (not r1)
    plan.save(tmp_path / "plan")
    assert TransformPlan.load(tmp_path / "plan").zero_gains == plan.zero_gains
    assert relative_error(logits(checkpoint, plan, tokens()), ReferenceModel(checkpoint).logits(tokens())) < 5e-4
    norm = checkpoint.parts.block(0).norms["attn_norm"]
    kept = TransformedParameters(checkpoint, plan).tensor(f"{norm}.weight") - (dead if name == "gemma3" else 0)
    others = torch.cat([kept[:3], kept[4:]])
    assert torch.equal(others, torch.ones_like(others)) and kept[3] == (1 if r1 else 0)


@pytest.mark.parametrize(
    ("name", "step", "reason"),
    [
        ("gemma2", "r1", "norms with gains per channel stand between"),
        ("gemma3", "r1", "norms with gains per channel stand between"),
        ("olmo2", "r1", "norms with gains per channel stand between"),
        ("olmo2", "fold", "no norm stands before them"),
        ("olmo2", "scale_norms", "no norm stands before them"),
        ("gpt_neox-no-biases", "fold", "no biases"),
        ("gpt_neox", "scale", "gelu_erf"),
        ("qwen2", "shift", "no biases"),
    ],
)
def test_steps_that_a_model_does_not_allow_are_named(name: str, step: str, reason: str, tmp_path: Path) -> None:
    _, plan = plan_of(saved(name, tmp_path), **{step: True})
    assert reason in plan.skipped[step]
    assert plan.r1 is None


@pytest.mark.parametrize("name", ["mistral", "qwen3", "phi4", "smollm3", "granite", "gpt_neox"])
def test_residual_streams_that_can_be_rotated_are(name: str, tmp_path: Path) -> None:
    _, plan = plan_of(saved(name, tmp_path), r1=True)
    assert plan.r1 is not None and not plan.skipped


@pytest.mark.parametrize("name", ["gemma2", "olmo2", "phi4", "gpt_neox", "qwen3"])
def test_injected_outliers_change_no_logits(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    inject_outliers(folder, tmp_path / "loud")
    expected = ReferenceModel(open_checkpoint(folder)).logits(tokens())
    assert relative_error(ReferenceModel.from_folder(tmp_path / "loud").logits(tokens()), expected) < 1e-4


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "olmo2"])
def test_noise_behind_the_norm_of_queries(name: str, tmp_path: Path) -> None:
    """A small noise across the queries, which does not change their size, against the norm itself."""
    checkpoint, plan = plan_of(saved(name, tmp_path))
    parameters, block = TransformedParameters(checkpoint, plan), checkpoint.parts.block(0)
    spec = checkpoint.spec
    draw = torch.Generator().manual_seed(0)
    y = torch.randn(5, spec.heads, spec.head_dim, generator=draw) * torch.tensor([1.0, 3.0, 9.0, 2.0])[:, None]
    noise = 1e-3 * torch.randn(y.shape, generator=draw)
    axes = (1, 2) if name == "olmo2" else (2,)
    noise -= y * (y * noise).sum(dim=axes, keepdim=True) / y.square().sum(dim=axes, keepdim=True)
    norm = parameters.norm(block.norms["q_norm"])

    def normed(x: torch.Tensor) -> torch.Tensor:
        return norm(x.flatten(1)).reshape(x.shape) if name == "olmo2" else norm(x)

    expected = normed(y), normed(y + noise) - normed(y)
    found = _normed(parameters, block, "q_norm", y, noise)
    assert torch.allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert torch.allclose(found[1], expected[1], rtol=1e-2, atol=1e-5)


def test_inputs_are_gathered_before_the_hidden_states_move_on(tmp_path: Path) -> None:
    """OLMo 2 reads the hidden states themselves, of which a sample must not be a view."""
    checkpoint = open_checkpoint(saved("olmo2", tmp_path))
    parameters, windows = Parameters(checkpoint), torch.arange(60).reshape(2, 30)
    hidden = HiddenStates(windows, Embedding(parameters), torch.device("cpu"))
    before, positions = hidden.states.clone(), Positions.of(checkpoint.spec, 30)
    with torch.inference_mode():
        found = gather(parameters.block(0), hidden, positions, 0)
    assert torch.equal(found["attention"].sample, before.reshape(60, -1))
    assert torch.allclose(found["attention"].mean, before.double().mean(dim=(0, 1)))
