"""Models with injected outliers: the same function, and what the transformations make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.formats import PerGroup
from agq.quantization.outliers import STRENGTHS, inject_outliers
from agq.quantization.transforms.channels import channel_exponents, zigzag
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.search import make_plan
from agq.recipe import Recipe, Scheme, TransformOptions
from agq.reference.decoder import ReferenceModel
from agq.text.tokenizers import load_tokenizer
from tests.quantization.quantization_support import TEXT, quantized
from tests.transforms.transform_support import random_model, relative_error, tokens


@pytest.fixture(scope="module")
def twin(short_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twin") / "twin"
    inject_outliers(short_model, folder, seed=3)
    return folder


@pytest.fixture(scope="module")
def windows(short_model: Path) -> torch.Tensor:
    ids = load_tokenizer(short_model).encode(TEXT.read_text(encoding="utf-8")[:8000])
    return torch.from_numpy(ids[:1024].reshape(4, 256).astype(np.int64))


@pytest.mark.parametrize("name", ["llama-gqa", "llama-bias", "opt", "opt-350m", "bloom"])
def test_function_is_kept(tmp_path: Path, name: str) -> None:
    model = random_model(tmp_path / "model", name)
    chosen = inject_outliers(model, tmp_path / "twin", seed=1, channels=4)
    assert ("down" in chosen) == (not name.startswith("bloom"))
    assert ("mlp" in chosen) == (name != "opt-350m")
    found = ReferenceModel.from_folder(tmp_path / "twin").logits(tokens())
    expected = ReferenceModel.from_folder(model).logits(tokens())
    assert 0 < relative_error(found, expected) < 1e-4


@pytest.mark.slow
def test_twin_has_outliers_and_the_search_takes_them_away(short_model: Path, twin: Path, windows: torch.Tensor) -> None:
    """Channel sizes (root mean squares over their median) at o and down: x60 at most injected, all but a factor of 2
    removed."""
    options = TransformOptions(scale=True, scale_norms=True)
    for folder, injected in ((short_model, False), (twin, True)):
        checkpoint = open_checkpoint(folder)
        plan = make_plan(
            checkpoint, Recipe(scheme=Scheme.parse("W4A8").fit(PerGroup(128)), transforms=options), windows
        )
        before, after = _largest(checkpoint, windows, None), _largest(checkpoint, windows, plan)
        if not injected:
            natural = before
            continue
        for place in ("attention", "o", "mlp", "down"):
            assert before[place] > 8 * natural[place] / 2, place
            assert after[place] < 2.5 * natural[place], place


def _largest(checkpoint, windows, plan) -> dict[str, float]:
    """Largest channel's root mean square over the median one's, the worst of all blocks, by place."""
    model = ReferenceModel(checkpoint, parameters=None if plan is None else TransformedParameters(checkpoint, plan))
    found = dict.fromkeys(("attention", "o", "mlp", "down"), 0.0)
    with torch.inference_mode():
        h, positions = model.embedding(windows), model.positions(windows.shape[1])
        for block in model.blocks:
            inputs, h = block.inputs(h, positions)
            for place, x in zip(found, inputs.values(), strict=True):
                sizes = x.reshape(-1, x.shape[-1]).square().mean(dim=0).sqrt()
                found[place] = max(found[place], float(sizes.max() / sizes.median()))
    return found


@pytest.mark.slow
def test_quantized_twin_stays_close(short_model: Path, twin: Path, windows: torch.Tensor, tmp_path: Path) -> None:
    """Scales undo the injection, so the twin loses about what the original loses; without them it loses far more."""
    expected = ReferenceModel.from_folder(short_model)
    error = {}
    for name, folder, options in (
        ("original", short_model, {"rotate": True, "scale": True}),
        ("twin", twin, {"rotate": True, "scale": True}),
        ("twin, norms scaled", twin, {"scale": True, "scale_norms": True}),
        ("twin, plain", twin, {}),
    ):
        quantized(folder, tmp_path / name, scheme="W4A8", method="gptq", **options)
        model = ReferenceModel.from_folder(tmp_path / name)
        error[name] = float(np.mean([_divergence(expected.logits(w), model.logits(w)) for w in windows[:2].numpy()]))
    assert error["twin"] < 1.3 * error["original"]
    assert error["twin, norms scaled"] < 1.6 * error["original"]
    assert error["twin, plain"] > 2 * error["twin"]


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Mean KL divergence of logits q from p."""
    log_p, log_q = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (p, q))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def test_every_alpha_undoes_a_factor_between_two_linears() -> None:
    """The exponents of x c and w / c are those of x and w plus log2 c."""
    draw = torch.Generator().manual_seed(0)
    energy = torch.rand(64, generator=draw, dtype=torch.float64) + 0.5
    columns = torch.rand(64, generator=draw, dtype=torch.float64) + 0.5
    factors = torch.ones(64, dtype=torch.float64)
    factors[:4] = torch.tensor([8.0, 16.0, 32.0, 64.0], dtype=torch.float64)
    for alpha in (0.0, 0.25, 0.5, 1.0):
        plain = channel_exponents(energy, columns, alpha).astype(int)
        moved = channel_exponents(energy * factors**2, columns / factors**2, alpha).astype(int)
        assert np.abs((moved - plain)[:4] - [3, 4, 5, 6]).max() <= 1  # the median of 64 moves by less than a step
        assert np.abs((moved - plain)[4:]).max() <= 1


def test_channels_without_values_are_left_alone() -> None:
    energy = torch.tensor([0.0, 1.0, 4.0, 4.0], dtype=torch.float64)
    columns = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    assert channel_exponents(energy, columns, 0.5).tolist() == [0, 0, 0, 0]


def test_zigzag_deals_evenly() -> None:
    sizes = np.arange(24.0)[::-1] ** 3
    order = zigzag(sizes, 4)
    assert sorted(order) == list(range(24))
    blocks = sizes[order].reshape(6, 4)
    assert sorted(blocks.argmax(axis=1).tolist()) == [0] * 6  # the six largest lie in different blocks
    assert blocks.sum(axis=1).max() < 1.4 * blocks.sum(axis=1).min()


@pytest.mark.slow
def test_seed_of_the_rotations_is_the_best_of_those_tried(short_model: Path, windows: torch.Tensor) -> None:
    """The choice among three equals the best of one-to-one comparisons."""
    checkpoint = open_checkpoint(short_model)

    def chosen(seed: int, seeds: int) -> int:
        options = TransformOptions(fold=True, r1=True, r2=True, seed=seed, seeds=seeds)
        plan = make_plan(
            checkpoint, Recipe(scheme=Scheme.parse("W4A4").fit(PerGroup(128)), transforms=options), windows
        )
        assert plan.r1 == plan.r2
        return plan.r1

    best = chosen(0, 3)
    first = chosen(0, 2)
    assert best == (first if best < 2 else 2)
    assert chosen(best, 1) == best


def test_impossible_injections(short_model: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"channels": 0}, "0 outlier channels"),
        ({"strengths": (8, -1)}, "positive"),
        ({"channels": 4096}, "4096 outlier"),
    ):
        with pytest.raises(AgqError, match=message):
            inject_outliers(short_model, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir()) and len(STRENGTHS) == 4
