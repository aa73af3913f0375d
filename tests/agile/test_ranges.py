"""Calibrated static scales of one block against numpy on what the block computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agq.checkpoint import open_checkpoint
from agq.quantization.agile.calibrate import Window, _Absolute, _channel_block, _trip_block, plain_step
from agq.recipe.agile import AgileOptions
from agq.reference.attention import Positions
from agq.reference.decoder import Parameters

LENGTH = 12


@pytest.fixture(scope="module")
def seen(demo_model: Path) -> dict[str, np.ndarray]:
    """What block 0 of the demo model computes for two windows of random hidden states."""
    parameters = Parameters(open_checkpoint(demo_model))
    block = parameters.block(0)
    block.capture, raw = {}, {}
    block.heads = lambda name, x: raw.setdefault(name, x)
    with torch.inference_mode():
        inputs, out = block.inputs(torch.cat([window.hidden for window in windows()]), positions(parameters))
    found = {**inputs, **block.capture, **{f"raw {name}": x for name, x in raw.items()}, "out": out}
    return {name: x.numpy() for name, x in found.items()}


def positions(parameters: Parameters) -> Positions:
    return Positions.of(parameters.spec, LENGTH)


def windows() -> list[Window]:
    """The second one three times as large, with hidden states of its own."""
    draw = torch.Generator().manual_seed(0)
    return [Window(factor * torch.randn(1, LENGTH, 256, generator=draw), torch.arange(LENGTH)) for factor in (1.0, 3.0)]


def run(demo_model: Path, function, options: AgileOptions):
    parameters = Parameters(open_checkpoint(demo_model))
    block, parts, states = parameters.block(0), parameters.parts.block(0), windows()
    with torch.inference_mode():
        found, scales = function(0, block, parts, states, plain_step(positions(parameters)), options)
    return found, scales, states, parts


def test_absolute_maxima_along_all_other_dimensions() -> None:
    observer = _Absolute(1)
    observer(torch.tensor([[[1.0, -5.0], [2.0, 3.0]]]))
    observer(torch.tensor([[[-2.0, 4.0], [0.0, -3.5]]]))
    assert observer.amax.tolist() == [5.0, 3.5]


def test_scales_of_attention(demo_model: Path, seen: dict[str, np.ndarray]) -> None:
    """q and k: the head's largest magnitude over 127; v: one range in 255 steps of 2^3 scale, exponents by channel."""
    _, scales, states, _ = run(demo_model, _trip_block, AgileOptions(mode="trip"))
    for found, name in ((scales.q_scale, "q*"), (scales.k_scale, "k*")):
        assert np.allclose(found, np.abs(seen[name]).max(axis=(0, 2, 3)) / 127, rtol=1e-4)
    v = seen["v*"]
    assert scales.v_scale == pytest.approx((v.max() - v.min()) / 255 / 8, rel=1e-4)
    assert scales.v_zero == round(-v.min() / (8 * scales.v_scale))
    heads, width = v.shape[1], v.shape[3]
    for head in range(heads):
        for channel in range(0, width, 7):
            values = v[:, head, :, channel].astype(np.float64)
            errors = []
            for alpha in range(4):
                step = scales.v_scale * 2**alpha
                codes = np.clip(np.rint(values / step) + scales.v_zero, 0, 255)
                errors.append(np.square((codes - scales.v_zero) * step - values).sum())
            assert errors[scales.v_exponent[head * width + channel]] == pytest.approx(min(errors), rel=1e-2)
    assert np.allclose(torch.cat([window.hidden for window in states]), seen["out"], atol=1e-3)


def test_ranges_of_inputs(demo_model: Path, seen: dict[str, np.ndarray]) -> None:
    found, _, _, parts = run(demo_model, _trip_block, AgileOptions(mode="trip", four_bits="none"))
    for roles in parts.groups:
        x = seen[roles[0]]
        low, high = min(x.min(), 0), max(x.max(), 0)
        for role in roles:
            item = found[parts.linears[role].module]
            assert item.bits == 8 and item.scale == pytest.approx((high - low) / 255 / 8, rel=1e-4)
            assert item.zero == round(-low / (8 * item.scale))


def test_scales_of_channels_and_heads(demo_model: Path, seen: dict[str, np.ndarray]) -> None:
    """The released code's: amax / 127.5 of every channel, and of each head of q, k, v before rotary positions."""
    found, heads, _, parts = run(demo_model, _channel_block, AgileOptions(mode="code-compat", four_bits="none"))
    for roles in parts.groups:
        x = seen[roles[0]].reshape(2 * LENGTH, -1)
        item = found[parts.linears[roles[-1]].module]
        assert np.allclose(item.channel_scale, np.abs(x).max(axis=0) / 127.5, rtol=1e-3)
    for name in "qkv":
        assert np.allclose(heads[name], np.abs(seen[f"raw {name}"]).max(axis=(0, 2, 3)) / 127.5, rtol=1e-4)
