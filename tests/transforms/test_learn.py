"""Learned rotations and finer formats: what they promise on inputs made for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agq.checkpoint import open_checkpoint
from agq.formats import PER_ROW, PerGroup
from agq.quantization.transforms.finer import EIGHT_BITS, SMALL_GROUPS, finer_recipe, judge, score_noise
from agq.quantization.transforms.learn import block_size, cayley, learn_residual, learn_values, ranges
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.plan import TransformPlan
from agq.recipe import ActivationScheme, Override, Recipe, Scheme
from tests.transforms.transform_support import random_model


@pytest.mark.parametrize("keep_mean", [False, True])
def test_cayley_gives_rotations(keep_mean: bool) -> None:
    turns = cayley(torch.randn(3, 24, 24, dtype=torch.float64), keep_mean)
    assert torch.allclose(
        turns @ turns.transpose(-1, -2), torch.eye(24, dtype=torch.float64).expand(3, -1, -1), atol=1e-12
    )
    ones = torch.ones(24, dtype=torch.float64)
    assert torch.allclose(ones @ turns, ones.expand(3, 1, -1).squeeze(1), atol=1e-12) == keep_mean


def _along_directions(tokens: int, channels: int) -> torch.Tensor:
    """Inputs that move mostly along three random directions."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(3, channels, generator=draw)
    return torch.randn(tokens, 3, generator=draw) @ directions + 0.1 * torch.randn(tokens, channels, generator=draw)


def test_learned_rotation_shrinks_the_ranges() -> None:
    x = _along_directions(2048, 64)
    turns = learn_residual([x[:1024]], [1.0], 32, 100, keep_mean=False)
    assert turns.shape == (1, 64, 64)
    before, after = ranges(x[1024:], 32).mean(), ranges(x[1024:] @ turns[0], 32).mean()  # tokens that it has not seen
    assert after < 0.6 * before


def test_learned_rotation_in_blocks_keeps_the_mean() -> None:
    assert block_size(1024) == 1024 and block_size(4096) == 128 and block_size(1536 + 64) == 64
    x = _along_directions(300, 1280)
    turns = learn_residual([x, 2 * x], [1.0, 0.5], x.shape[1], 5, keep_mean=True)
    assert turns.shape == (10, 128, 128)
    assert torch.allclose(torch.ones(128) @ turns, torch.ones(10, 128), atol=1e-5)


def test_learned_values_share_a_rotation_within_a_group_of_heads() -> None:
    x = _along_directions(512, 4 * 16)
    turns = learn_values(x, 32, 60, kv_heads=2, head_dim=16)
    assert turns.shape == (2, 16, 16)
    turned = torch.einsum("tkgd,kde->tkge", x.reshape(512, 2, 2, 16), turns).reshape(512, 64)
    assert ranges(turned, 32).mean() < 0.8 * ranges(x, 32).mean()


@pytest.mark.parametrize("name", ["llama-gqa", "opt", "bloom"])
def test_loud_attention_needs_eight_bits(tmp_path: Path, name: str) -> None:
    checkpoint = open_checkpoint(random_model(tmp_path / name, name))
    parameters = TransformedParameters(checkpoint, TransformPlan())
    block = checkpoint.parts.block(1)
    x = torch.randn(256, checkpoint.spec.hidden)
    noise = 0.05 * torch.randn(256, checkpoint.spec.hidden)
    quiet = score_noise(parameters, block, x, noise)
    assert score_noise(parameters, block, x, 2 * noise) == pytest.approx(2 * quiet, rel=1e-4)
    activations = ActivationScheme(4, False)
    verdict = judge(parameters, block, "attention", x * 4, activations, 1.0)
    assert verdict is not None and verdict.format == EIGHT_BITS and "nats" in verdict.reason
    assert judge(parameters, block, "attention", x * 1e-3, activations, 1.0) is None


def test_score_noise_is_that_of_the_scores(tmp_path: Path) -> None:
    """Against scores computed in full, of a model without rotary positions."""
    checkpoint = open_checkpoint(random_model(tmp_path / "opt", "opt"))
    parameters, block, spec = (
        TransformedParameters(checkpoint, TransformPlan()),
        checkpoint.parts.block(0),
        checkpoint.spec,
    )
    x = torch.randn(600, spec.hidden)
    noise = 0.02 * torch.randn(600, spec.hidden)

    def heads(role: str, y: torch.Tensor) -> torch.Tensor:
        module = block.linears[role].module
        z = y @ parameters.tensor(f"{module}.weight").t() + parameters.tensor(f"{module}.bias")
        return z.reshape(600, spec.heads, spec.head_dim).transpose(0, 1)

    moved = (heads("q", x + noise) @ heads("k", x + noise).mT - heads("q", x) @ heads("k", x).mT) / spec.head_dim**0.5
    moved -= moved.mean(dim=-1, keepdim=True)  # softmax does not see it
    assert score_noise(parameters, block, x, noise) == pytest.approx(float(moved.square().mean().sqrt()), rel=0.1)


def test_uneven_groups_become_small(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_model(tmp_path / "opt", "opt"))
    parameters, block = TransformedParameters(checkpoint, TransformPlan()), checkpoint.parts.block(0)
    x = torch.randn(256, checkpoint.spec.ffn)
    assert judge(parameters, block, "down", x, ActivationScheme(4, False, PerGroup(32)), 1.0) is None  # small already
    x[:, :8] *= 40  # a few large channels take the levels from the others of their group
    verdict = judge(parameters, block, "down", x, ActivationScheme(4, False, PerGroup(96)), 1.0)
    assert verdict is not None and verdict.format == SMALL_GROUPS and "%" in verdict.reason
    assert judge(parameters, block, "down", x, ActivationScheme(4, False, PER_ROW), 1.0) is None  # asked for per token


def test_formats_become_overrides(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_model(tmp_path / "llama", "llama"))
    blocks = list(checkpoint.parts.blocks())
    mine = Override(blocks[1].linears["up"].module, Scheme.parse("W8A8"))
    recipe = finer_recipe(
        Recipe(scheme=Scheme.parse("W4A4"), overrides=(mine,)),
        {"0.attention": EIGHT_BITS, "1.down": SMALL_GROUPS, "1.mlp": EIGHT_BITS},
        blocks,
    )
    schemes = [{role: recipe.scheme_for(linear.module) for role, linear in block.linears.items()} for block in blocks]
    assert [schemes[0][role].activations for role in ("q", "k", "v")] == [ActivationScheme(8, True)] * 3
    assert schemes[0]["down"] == schemes[1]["o"] == Scheme.parse("W4A4")
    assert schemes[1]["down"].activations.group_size == PerGroup(32) and schemes[1]["down"].activations.bits == 4
    assert schemes[1]["gate"].activations.bits == 8 and schemes[1]["up"] == Scheme.parse(
        "W8A8"
    )  # the user's override stands
