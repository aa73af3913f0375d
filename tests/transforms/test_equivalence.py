"""Every transformation leaves the function of the model as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.plan import TransformPlan, feasible
from agq.recipe import TransformOptions
from agq.reference.decoder import ReferenceModel
from tests.transforms.transform_support import (
    SHAPES,
    logits,
    plan_of,
    random_exponents,
    random_model,
    random_shifts,
    random_turns,
    relative_error,
    tokens,
)

STEPS = {
    "fold": {"fold": True},
    "r1": {"r1": True},
    "r1 baked": {"r1": True, "bake_embed_norm": True, "seed": 3},
    "r2": {"r2": True},
    "hadamard": {"hadamard": 32},
    "all": {"fold": True, "r1": True, "r2": True, "hadamard": 16, "bake_embed_norm": True, "seed": 1},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The models of SHAPES, each made when it is first asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            self[name] = random_model(tmp_path_factory.mktemp("model") / name, name)
            return self[name]

    return Made()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", SHAPES)
def test_step_keeps_the_logits(folders: dict[str, Path], name: str, step: str) -> None:
    checkpoint, plan = plan_of(folders[name], **STEPS[step])
    expected = ReferenceModel(checkpoint).logits(tokens())
    assert relative_error(logits(checkpoint, plan, tokens()), expected) < 1e-4


@pytest.mark.parametrize("name", SHAPES)
def test_everything_at_once(folders: dict[str, Path], name: str) -> None:
    checkpoint, plan = plan_of(folders[name], fold=True, r1=True, r2=True, hadamard=32, bake_embed_norm=True)
    places = ["attention", "mlp", "o"] + ([] if name.startswith("bloom") else ["down"])
    if checkpoint.spec.norm_after or checkpoint.spec.residual_from_norm:
        places = [place for place in places if place not in ("attention", "mlp")]
    if plan.r1 is not None:
        places = [place for place in places if place not in ("attention", "mlp")]
    draw = np.random.default_rng(0)
    order = np.stack([draw.permutation(checkpoint.spec.ffn) for _ in range(checkpoint.spec.layers)]).astype(np.int32)
    plan = replace(plan, exponents=random_exponents(checkpoint, tuple(places)), permutation=order)
    plan = replace(plan, shifts=random_shifts(checkpoint), **random_turns(checkpoint, plan))
    expected = ReferenceModel(checkpoint).logits(tokens())
    assert relative_error(logits(checkpoint, plan, tokens()), expected) < 1e-4


@pytest.mark.parametrize("r1", [False, True])
@pytest.mark.parametrize("name", ["llama-bias", "opt", "bloom"])
def test_shifts_are_exact_in_stored_formats(tmp_path: Path, name: str, r1: bool) -> None:
    """A norm's bias is rounded when it is stored, and the readers' biases add what was really taken away."""
    checkpoint, plan = plan_of(random_model(tmp_path / "model", name, dtype=torch.bfloat16), r1=r1, bake_embed_norm=r1)
    shifts = {place: 10 * value for place, value in random_shifts(checkpoint).items()}
    assert set(shifts) == ({"o"} if name == "llama-bias" else {"attention", "o", "mlp"})
    parameters = TransformedParameters(checkpoint, replace(plan, shifts=shifts))
    if name != "llama-bias":
        bias = parameters.tensor(f"{checkpoint.parts.block(1).norms['attn_norm']}.bias")
        assert torch.equal(bias, bias.bfloat16().float()) and float(bias.abs().max()) > 5
    expected = ReferenceModel(checkpoint).logits(tokens())
    assert relative_error(ReferenceModel(checkpoint, parameters=parameters).logits(tokens()), expected) < 2e-4


@pytest.mark.parametrize("name", ["llama", "llama-gqa", "llama-bias", "opt", "opt-350m", "bloom"])
def test_powers_of_two_are_exact(folders: dict[str, Path], name: str) -> None:
    """Multiplications by powers of two change no bit: sums, products and norms see the same mantissas."""
    checkpoint = open_checkpoint(folders[name])
    spec = checkpoint.spec
    places = ["o"] + ([] if spec.norm_after else ["attention", "mlp"]) + ([] if spec.family == "bloom" else ["down"])
    expected = ReferenceModel(checkpoint).logits(tokens())
    for place in places:
        found = logits(checkpoint, TransformPlan(exponents=random_exponents(checkpoint, (place,))), tokens())
        assert np.array_equal(found, expected), place


def test_permutation_alone(folders: dict[str, Path]) -> None:
    for name in ("llama-gqa", "opt", "bloom"):
        checkpoint = open_checkpoint(folders[name])
        draw = np.random.default_rng(1)
        order = np.stack([draw.permutation(checkpoint.spec.ffn) for _ in range(checkpoint.spec.layers)]).astype(
            np.int32
        )
        expected = ReferenceModel(checkpoint).logits(tokens())
        assert relative_error(logits(checkpoint, TransformPlan(permutation=order), tokens()), expected) < 1e-4


@pytest.mark.parametrize(
    ("name", "step", "reason"),
    [
        ("opt-350m", "r1", "follow the residual additions"),
        ("opt-350m", "fold", "follow the residual additions"),
        ("opt-no-bias", "fold", "no biases"),
        ("bloom-residual", "r1", "starts at the norms' outputs"),
        ("bloom", "r1", "bake_embed_norm"),
        ("llama", "shift", "no biases"),
        ("opt-no-bias", "shift", "no biases"),
    ],
)
def test_steps_that_a_model_does_not_allow_are_named(
    folders: dict[str, Path], name: str, step: str, reason: str
) -> None:
    _, plan = plan_of(folders[name], **{step: True})
    assert reason in plan.skipped[step]
    assert plan.r1 is None


@pytest.mark.parametrize("name", SHAPES)
def test_layernorm_alone_is_rotated(folders: dict[str, Path], name: str) -> None:
    _, plan = plan_of(folders[name], r1_layernorm=True)
    assert (plan.r1 is not None, plan.r2 is not None, plan.fold) == ((True,) * 3 if name == "opt" else (False,) * 3)
    assert not plan.skipped


def test_impossible_block(folders: dict[str, Path]) -> None:
    with pytest.raises(AgqError, match="Hadamard block of 64") as caught:
        feasible(open_checkpoint(folders["llama"]), TransformOptions(hadamard=64))
    assert "16, 32" in caught.value.hint


def test_saved_plan_is_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    checkpoint, plan = plan_of(folders["llama-gqa"], fold=True, r1=True, r2=True, hadamard=32)
    order = np.tile(np.arange(checkpoint.spec.ffn)[::-1], (2, 1)).astype(np.int32)
    plan = replace(plan, exponents=random_exponents(checkpoint, ("o", "down")), permutation=order)
    plan = replace(plan, **random_turns(checkpoint, plan), formats={"1.down": "groups of 32"})
    plan.save(tmp_path / "plan")
    loaded = TransformPlan.load(tmp_path / "plan")
    assert loaded.to_dict() == plan.to_dict()
    assert np.array_equal(logits(checkpoint, loaded, tokens()), logits(checkpoint, plan, tokens()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-30m", "llama-demo", "opt-demo", "bloom-demo"])
def test_trained_models(shared_model, name: str) -> None:
    checkpoint, plan = plan_of(shared_model(name), fold=True, r1=True, r2=True, hadamard=128, bake_embed_norm=True)
    ids = tokens(48, checkpoint.spec.vocab)
    expected = ReferenceModel(checkpoint).logits(ids)
    assert relative_error(logits(checkpoint, plan, ids), expected) < 1e-4
    assert plan.r1 is not None
    assert not plan.skipped
