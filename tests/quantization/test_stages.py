"""What the solver sees of a block, stage by stage, against the block computed as a whole; and the reported losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agq.checkpoint import open_checkpoint
from agq.formats import PerGroup
from agq.numerics.quantizers import fake_quantize, quantize_weight, weight_grid
from agq.quantization.stages import gather_hessians, run_stages
from agq.quantization.walk import BlockQuantizer
from agq.recipe import Recipe, Scheme
from agq.reference.attention import Positions
from agq.reference.decoder import Embedding, Parameters
from agq.reference.stream import HiddenStates, Stream
from agq.reporting.progress import Progress
from tests.families import CASES, make

WINDOWS, LENGTH = 3, 20


@pytest.fixture(params=["demo"])
def streams(
    request: pytest.FixtureRequest, demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Stream, Stream, Parameters]:
    """A stream of three windows, two at a time, through a block with noisy weights, and the float model's. The model is
    the demo's, or one of CASES."""
    monkeypatch.setattr("agq.reference.stream.BATCH_TOKENS", 2 * LENGTH)
    folder = demo_model
    if request.param != "demo":
        make(CASES[request.param]).save_pretrained(folder := tmp_path / "model")
    parameters = Parameters(open_checkpoint(folder))
    windows = torch.from_numpy(np.random.default_rng(0).integers(5, parameters.spec.vocab, (WINDOWS, LENGTH)))
    positions = Positions.of(parameters.spec, LENGTH)
    found = []
    draw = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for noise in (0.02, 0.0):
            block = parameters.block(0)
            for linear in block.linears.values():
                linear.weight = linear.weight + noise * torch.randn(linear.weight.shape, generator=draw)
            found.append(Stream(block, HiddenStates(windows, Embedding(parameters), torch.device("cpu")), positions))
    return found[0], found[1], parameters


def flat(x: torch.Tensor) -> np.ndarray:
    return x.reshape(-1, x.shape[-1]).double().numpy()


@pytest.mark.parametrize("streams", ["demo", "gpt_neox", "phi4", "olmo2", "gemma2"], indirect=True)
def test_hessians_of_an_unchanged_block(streams: tuple[Stream, Stream, Parameters]) -> None:
    """Both ways give the mean of x x^T of each stage, and the drift of the float model's inputs."""
    stream, target, parameters = streams
    groups = parameters.parts.block(0).groups
    with torch.inference_mode():
        inputs, out = stream.block.inputs(stream.hidden.states.clone(), stream.positions)
        wanted, beyond = target.block.inputs(target.hidden.states.clone(), target.positions)
        chosen: list[tuple[tuple[str, ...], torch.Tensor]] = []
        solved = {}

        def choose(roles: tuple[str, ...], x: torch.Tensor) -> None:
            chosen.append((roles, x.clone()))  # without a norm it is a view of hidden states, which move on

        at_once = gather_hessians(stream, target, groups, choose)
        run_stages(stream, target, groups, choose, solved.__setitem__)
        assert torch.allclose(stream.hidden.states, out, atol=1e-5)
        assert torch.allclose(target.hidden.states, beyond, atol=1e-5)
    assert list(solved) == [roles for roles, _ in at_once] == list(groups)
    assert [roles for roles, _ in chosen] == [*groups, *groups]
    for roles, sample in chosen:  # of the first two windows
        assert np.allclose(flat(sample), flat(inputs[roles[0]][:2]), atol=1e-4)
    for roles, hessian in [*at_once, *solved.items()]:
        x, target_x = flat(inputs[roles[0]]), flat(wanted[roles[0]])
        with torch.inference_mode():
            hessian.finish()
        assert hessian.tokens == WINDOWS * LENGTH
        size = np.abs(x.T @ x).max() / len(x)
        assert np.allclose(hessian.matrix, x.T @ x / len(x), atol=1e-4 * size)
        assert np.allclose(hessian.cross, (target_x - x).T @ x / len(x), atol=1e-4 * size)


def test_later_stages_see_what_earlier_ones_put_out(streams: tuple[Stream, Stream, Parameters]) -> None:
    """Without values o reads zeros; without gate and up down does."""
    stream, _, parameters = streams
    energies = {}

    def solve(roles: tuple[str, ...], hessian) -> None:
        energies[roles[0]] = float(hessian.finish().diagonal().sum())
        for role in roles:
            if role in ("v", "up"):
                stream.block.linears[role].weight = torch.zeros_like(stream.block.linears[role].weight)

    with torch.inference_mode():
        before = stream.hidden.states.clone()
        run_stages(stream, None, parameters.parts.block(0).groups, lambda roles, x: None, solve)
        assert torch.equal(stream.hidden.states, before)  # nothing was added to the residual stream
    assert energies["q"] > 0 and energies["o"] == 0 and energies["gate"] > 0 and energies["down"] == 0


def test_reported_losses(streams: tuple[Stream, Stream, Parameters]) -> None:
    """Rounded to nearest: the mean squared output error on the inputs as they are quantized, and its share."""
    stream, _, parameters = streams
    recipe = Recipe(scheme=Scheme.parse("W4A4").fit(PerGroup(128)), method="rtn", act_clip=0.9)
    recipe = replace(recipe, gptq=replace(recipe.gptq, mse=False, quantized_activations=True))
    parts = parameters.parts.block(0)
    with torch.inference_mode():
        inputs, _ = stream.block.inputs(stream.hidden.states.clone(), stream.positions)
        quantizer = BlockQuantizer(recipe, lambda module: torch.bfloat16, Progress())
        quantizer.prepare(stream.block, parts)
        before = {role: linear.weight.clone() for role, linear in stream.block.linears.items()}
        hessians = dict(gather_hessians(stream, None, parts.groups, lambda roles, x: None))
        results, reports = quantizer.group(stream.block, parts, ("q", "k", "v"), hessians["q", "k", "v"])
    kind, group = recipe.scheme.activations, 128
    x = flat(fake_quantize(inputs["q"], 4, kind.symmetric, group, 0.9))
    for role, report in zip("qkv", reports, strict=True):
        grid = weight_grid(before[role], 4, recipe.scheme.weights.symmetric, group)
        assert torch.equal(results[role].codes, quantize_weight(before[role], grid))
        weight = before[role].double().numpy()
        codes = results[role].codes.double().numpy().reshape(len(weight), -1, grid.group_size)
        rounded = ((codes - grid.zero.numpy()[..., None]) * grid.scale.numpy()[..., None]).reshape(weight.shape)
        assert np.allclose(stream.block.linears[role].weight, rounded, atol=1e-6)
        loss = np.square(x @ (rounded - weight).T).sum(axis=1).mean()
        assert report.loss == pytest.approx(loss, rel=1e-3)
        assert report.relative == pytest.approx(loss / np.square(x @ weight.T).sum(axis=1).mean(), rel=1e-3)
        assert (report.method, report.damping, report.fallback, report.act_clip) == ("rtn", 0.0, False, 0.9)
