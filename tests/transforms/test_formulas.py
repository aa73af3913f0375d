"""Exponents, orders, learned rotations and formats by hand or in float64."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agq.checkpoint import open_checkpoint
from agq.formats import PER_ROW, PerGroup
from agq.numerics.quantizers import fake_quantize
from agq.quantization.transforms.channels import by_value_channel, channel_exponents, zigzag
from agq.quantization.transforms.finer import judge, score_noise
from agq.quantization.transforms.learn import block_size, cayley, ranges
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.plan import TransformPlan
from agq.quantization.transforms.search import _group
from agq.recipe import ActivationScheme
from tests.transforms.transform_support import random_model


def test_exponents_by_hand() -> None:
    """Root mean squares of 2^(0, 2, 4, 40) and weights of 2^(0, -2, 2, 0). With alpha 3/4: 3/4 x - 1/4 w = 0, 2, 2.5,
    30; less the median 2 (of four the lower of the middle two): -2, 0, 0.5 -> 0, 28 -> 15."""
    energy = torch.tensor([2.0**0, 2.0**4, 2.0**8, 2.0**80], dtype=torch.float64)
    columns = torch.tensor([2.0**0, 2.0**-4, 2.0**4, 2.0**0], dtype=torch.float64)
    found = channel_exponents(energy, columns, 0.75)
    assert found.dtype == np.int8 and found.tolist() == [-2, 0, 0, 15]
    # alpha 1: 0, 2, 4, 40 less 2.
    assert channel_exponents(energy, columns, 1.0).tolist() == [-2, 0, 2, 15]
    # alpha 0: 0, 2, -2, 0 less 0.
    assert channel_exponents(energy, columns, 0.0).tolist() == [0, 2, -2, 0]


def test_zigzag_by_hand() -> None:
    """Sizes 12 to 1 in three blocks of four: 12 11 10, back 9 8 7, forth 6 5 4, back 3 2 1."""
    sizes = np.arange(12.0, 0, -1)
    assert sizes[zigzag(sizes, 4)].reshape(3, 4).tolist() == [[12, 7, 6, 1], [11, 8, 5, 2], [10, 9, 4, 3]]
    assert zigzag(sizes, 4).dtype == np.int32
    assert zigzag(np.ones(6), 2).tolist() == [0, 5, 1, 4, 2, 3]  # of equals the first


def test_groups_that_divide() -> None:
    assert [_group(PerGroup(size), 96) for size in (32, 96, 64, 0)] == [32, 96, 96, 96] and _group(PER_ROW, 96) == 96


def test_value_channels_of_query_heads() -> None:
    """Six query heads of two values: heads 0 to 2 read the first key/value head."""
    spec = SimpleNamespace(kv_heads=2, heads=6, head_dim=2)
    found = by_value_channel(torch.arange(12), spec)
    assert found.tolist() == [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]]


def test_cayley_by_hand() -> None:
    """K = [[0, t], [-t, 0]] of free = [[., t], [0, .]]: (I - K) (I + K)^-1 turns by the angle of 2 t / (1 - t^2)."""
    free = torch.tensor([[5.0, 0.5], [0.0, -3.0]], dtype=torch.float64)
    cos, sin = (1 - 0.25) / 1.25, 2 * 0.5 / 1.25
    assert torch.allclose(cayley(free), torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64))


def test_ranges_by_hand() -> None:
    """They contain zero, as grids do."""
    x = torch.tensor([[1.0, 3.0, -2.0, 2.0, -5.0, -4.0]])
    assert ranges(x, 2).tolist() == [[9.0, 16.0, 25.0]] and ranges(x, 6).tolist() == [[64.0]]


def test_blocks_of_a_wide_residual_stream() -> None:
    assert [block_size(n) for n in (64, 1000, 1024, 1025, 1536, 2080)] == [64, 1000, 1024, 1, 128, 32]


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> TransformedParameters:
    folder = random_model(tmp_path_factory.mktemp("model") / "opt", "opt", layers=1)
    return TransformedParameters(open_checkpoint(folder), TransformPlan())


def test_what_is_written_to_the_residual_stream_has_no_mean(opt: TransformedParameters) -> None:
    """With folded LayerNorms; the reading linears and the plain model are not centred."""
    folded, block = TransformedParameters(opt.checkpoint, TransformPlan(fold=True)), opt.checkpoint.parts.block(0)
    for role, written in (("o", True), ("down", True), ("q", False), ("up", False)):
        module = block.linears[role].module
        for parameters, centred in ((folded, written), (opt, False)):
            weight, bias = parameters.tensor(f"{module}.weight"), parameters.tensor(f"{module}.bias")
            assert (float(weight.mean(dim=0).abs().max()) < 1e-6) == centred
            assert (abs(float(bias.mean())) < 1e-6) == centred


def test_noise_of_the_scores(opt: TransformedParameters) -> None:
    """(dq k' + q dk') / sqrt(width) over drawn pairs of tokens; keys less their mean; noise has no bias."""
    draw = np.random.default_rng(0)
    hidden, heads, width = opt.source.hidden, opt.source.heads, opt.source.head_dim
    x, noise = draw.normal(size=(400, hidden)) + 1, 0.02 * draw.normal(size=(400, hidden))
    block = opt.checkpoint.parts.block(0)

    def product(role: str, y: np.ndarray, bias: bool) -> np.ndarray:
        module = block.linears[role].module
        z = y @ opt.tensor(f"{module}.weight").double().numpy().T
        return (z + (opt.tensor(f"{module}.bias").double().numpy() if bias else 0)).reshape(400, heads, width)

    q, k, dq, dk = product("q", x, True), product("k", x, True), product("q", noise, False), product("k", noise, False)
    k -= k.mean(axis=0)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0)).numpy()
    moved = ((dq * k[order]).sum(axis=-1) + (q * dk[order]).sum(axis=-1)) / width**0.5
    as_floats = (torch.from_numpy(values.astype(np.float32)) for values in (x, noise))
    assert score_noise(opt, block, *as_floats) == pytest.approx(np.sqrt(np.square(moved).mean()), rel=1e-4)


def test_limits_of_the_formats(opt: TransformedParameters) -> None:
    """Inputs scaled so that the measure lies just below and just above its limit: 0.2 nats, 1 % of the variance."""
    draw = torch.Generator().manual_seed(1)
    block, four = opt.checkpoint.parts.block(0), ActivationScheme(4, False, PER_ROW)
    x = torch.randn(300, opt.source.hidden, generator=draw)

    def noise(factor: float) -> float:
        y = factor * x
        return score_noise(opt, block, y, fake_quantize(y, 4, False, -1) - y)

    low, high = 1e-3, 1e3
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if noise(middle) < 0.2 else (low, middle)
    assert judge(opt, block, "attention", 0.99 * low * x, four, 1.0) is None
    assert judge(opt, block, "attention", 1.01 * high * x, four, 1.0) is not None

    # One channel of a group takes the levels from the others; a mean that all tokens share is no variance.
    x = 2 * torch.rand(300, opt.source.ffn, generator=draw) - 1
    weight = opt.tensor(f"{block.linears['down'].module}.weight")
    groups = ActivationScheme(4, False, PerGroup(96))

    def share(factor: float) -> tuple[float, torch.Tensor]:
        y = x + 0.1
        y[:, 0] *= factor
        outputs = y @ weight.t()
        error = (fake_quantize(y, 4, False, 96) - y) @ weight.t()
        return float(error.square().sum() / (outputs - outputs.mean(dim=0)).square().sum()), y

    low, high = 1.0, 8.0
    assert share(low)[0] < 0.01 < share(high)[0]
    for _ in range(15):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle)[0] < 0.01 else (low, middle)
    assert share(high)[0] < 0.0102
    assert judge(opt, block, "down", share(low)[1], groups, 1.0) is None
    assert judge(opt, block, "down", share(high)[1], groups, 1.0) is not None


def test_all_readers_of_an_input_count(tmp_path: Path) -> None:
    """gate hardly feels the noise, up does: their errors and variances are added."""
    parameters = TransformedParameters(
        open_checkpoint(random_model(tmp_path / "llama", "llama", layers=1)), TransformPlan()
    )
    block, scheme = parameters.checkpoint.parts.block(0), ActivationScheme(4, False, PerGroup(64))
    original, draw = parameters.tensor, torch.Generator().manual_seed(2)
    x = torch.randn(200, 64, generator=draw)
    x[:, 0] *= 8
    noise = fake_quantize(x, 4, False, 64) - x
    for small in ("gate", "up"):
        for factor in (0.0, 1.0):
            weights = {f"{block.linears[role].module}.weight": original(f"{block.linears[role].module}.weight")
                       for role in ("gate", "up")}  # fmt: skip
            weights[f"{block.linears[small].module}.weight"] = factor * torch.ones(96, 64)
            parameters.tensor = weights.__getitem__
            outputs = [x @ weight.t() for weight in weights.values()]
            error = sum(float((noise @ weight.t()).square().sum()) for weight in weights.values())
            energy = sum(float((y - y.mean(dim=0)).square().sum()) for y in outputs)
            verdict = judge(parameters, block, "mlp", x, scheme, 1.0)
            assert verdict is not None and f"{error / energy:.1%}" in verdict.reason
