"""Sink tokens as an option: from recipe and command line to folder, artifact and `agq info`; what calibration, searches
and tuning see of them; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import agq
from agq.artifact import open_artifact
from agq.checkpoint import open_checkpoint
from agq.errors import AgqError, UsageError
from agq.formats import PerGroup
from agq.numerics.hadamard import fwht
from agq.numerics.quantizers import fake_quantize
from agq.quantization.transforms.inputs import gather
from agq.quantization.tuning.student import _input
from agq.quantization.walk import BlockQuantizer
from agq.recipe import ActivationScheme, Recipe, Scheme
from agq.recipe.agile import AgileOptions
from agq.recipe.changes import RecipeChanges
from agq.recipe.files import load_recipe
from agq.recipe.resolve import adjust_recipe, effective_recipe
from agq.reference.attention import Positions
from agq.reference.decoder import Embedding, Parameters
from agq.reference.quantizers import activation_quantizer
from agq.reference.stream import HiddenStates
from agq.reporting.progress import Progress
from tests.quantization.quantization_support import planned, quantized

W4A4 = Scheme.parse("W4A4").fit(PerGroup(128))


def sinks_of(x: torch.Tensor, count: int, clip: float = 1.0, hadamard: int = 0) -> torch.Tensor:
    """What the definition says of W4A4's inputs x [windows, n, channels]."""
    x = fwht(x, hadamard) if hadamard else x
    return torch.cat((fake_quantize(x[:, :count], 8, True), fake_quantize(x[:, count:], 4, False, 128, clip)), dim=1)


def test_the_first_tokens_of_each_sequence() -> None:
    x = torch.randn(2, 9, 256, generator=torch.Generator().manual_seed(0))
    given = x.clone()
    for count in (0, 1, 4):
        assert torch.equal(activation_quantizer(W4A4.activations, 0.9, 64, count)(x), sinks_of(x, count, 0.9, 64))
    assert torch.equal(activation_quantizer(W4A4.activations, sinks=20)(x), fake_quantize(x, 8, True))
    eight = ActivationScheme(8, True)
    assert torch.equal(activation_quantizer(eight, sinks=4)(x), fake_quantize(x, 8, True)) and torch.equal(x, given)


def test_recipe_goes_around(tmp_path: Path) -> None:
    recipe = Recipe(scheme=W4A4, sink_tokens=4)
    assert Recipe.from_dict(recipe.to_dict()) == recipe and Recipe.from_dict({}).sink_tokens == 0
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "r.yaml") == recipe
    assert (
        adjust_recipe(recipe, RecipeChanges(sink_tokens=0)) == Recipe(scheme=W4A4)
        and adjust_recipe(recipe, RecipeChanges()) == recipe
    )
    assert effective_recipe(None, RecipeChanges(scheme="W4A4", sink_tokens=2)).sink_tokens == 2
    # Some linears with 4-bit activations are enough.
    assert adjust_recipe(Recipe(), RecipeChanges(overrides=["re:.*down_proj=W4A4"], sink_tokens=1)).sink_tokens == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sink_tokens": 4}, "changes nothing"),
        ({"scheme": "W4A16", "sink_tokens": 4}, "changes nothing"),
        ({"scheme": "W4A4", "overrides": ["re:.*=W4A8"], "sink_tokens": 4}, "changes nothing"),
        ({"scheme": "W4A4", "sink_tokens": 65}, "sink_tokens is 65, not between 0 and 64"),
        ({"scheme": "W4A4", "sink_tokens": -1}, "sink_tokens is -1"),
        ({"preset": "agile", "sink_tokens": 1}, "static activations"),
        ({"preset": "agile-a4", "sink_tokens": 1}, "static activations"),
    ],
)
def test_options_that_are_refused(short_model: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(AgqError, match=message) as caught:
        planned(short_model, tmp_path / "out", **options)
    assert "\n" not in caught.value.message


def test_recipes_that_are_refused(tmp_path: Path) -> None:
    for text, message in (
        ("sink_tokens: 4", "changes nothing"),
        ("sink_tokens: many", "line 1"),
        ("sink_tokens: 1.5", "line 1"),
    ):
        (tmp_path / "r.yaml").write_text(text + "\n")
        with pytest.raises(AgqError, match=message):
            load_recipe(tmp_path / "r.yaml")
    with pytest.raises(AgqError, match="static activations"):
        Recipe(agile=AgileOptions(mode="trip"), sink_tokens=1)
    with pytest.raises(UsageError, match="not between 0 and 64"):
        adjust_recipe(Recipe(scheme=W4A4), RecipeChanges(sink_tokens=100))


@pytest.mark.slow
def test_from_the_command_line_to_the_artifact(agq_cli, short_model: Path, tmp_path: Path) -> None:
    options = ("--scheme", "W4A4", "--method", "rtn", "--sink-tokens", 4)
    assert (
        yaml.safe_load(agq_cli("quantize", short_model, *options, "--print-config", check=True).stdout)["sink_tokens"]
        == 4
    )
    result = agq_cli("quantize", short_model, *options, "-o", tmp_path / "q", check=True)
    assert "sink tokens: the first 4 of a sequence have 8-bit activations" in result.stderr
    record = json.loads((tmp_path / "q" / "agq.json").read_text())
    assert record["sink_tokens"] == record["recipe"]["sink_tokens"] == 4 and "sink_tokens" in record["online"]
    assert load_recipe(tmp_path / "q" / "recipe.yaml").sink_tokens == 4
    assert open_checkpoint(tmp_path / "q").record.sink_tokens == 4
    packed = agq_cli("pack", tmp_path / "q", "-o", tmp_path / "a.safetensors", check=True)
    assert "4 with 8-bit activations" in packed.stdout
    artifact = open_artifact(tmp_path / "a.safetensors")
    assert artifact.info.sink_tokens == artifact.recipe["recipe"]["sink_tokens"] == 4
    assert json.loads(agq_cli("info", tmp_path / "a.safetensors", "--json", check=True).stdout)["sink_tokens"] == 4
    assert agq_cli("verify", tmp_path / "a.safetensors").returncode == agq_cli("verify", tmp_path / "q").returncode == 0
    refused = agq_cli("quantize", short_model, "--sink-tokens", 4, "-o", tmp_path / "none")
    assert refused.returncode == 2 and refused.stderr.count("error: ") == 1 and "hint: " in refused.stderr


@pytest.mark.slow
def test_off_leaves_the_folder_as_it_was(short_model: Path, tmp_path: Path) -> None:
    quantized(short_model, tmp_path / "q", scheme="W4A4", method="rtn")
    record = json.loads((tmp_path / "q" / "agq.json").read_text())
    assert (
        "sink_tokens" not in record and "sink_tokens" not in record["online"] and record["recipe"]["sink_tokens"] == 0
    )
    agq.pack(tmp_path / "q", tmp_path / "a.safetensors")
    assert open_artifact(tmp_path / "a.safetensors").model["sink_tokens"] == 0


@pytest.mark.slow
def test_calibration_and_tuning_see_them(short_model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(short_model)
    recipe = Recipe(scheme=W4A4, sink_tokens=2, act_clip=0.9)
    block, parts = Parameters(checkpoint).block(0), checkpoint.parts.block(0)
    BlockQuantizer(recipe, lambda module: torch.bfloat16, Progress()).prepare(block, parts)
    x = torch.randn(1, 6, checkpoint.spec.hidden, generator=torch.Generator().manual_seed(1))
    for role in ("q", "gate"):
        assert torch.equal(block.linears[role].transform(x), sinks_of(x, 2, 0.9))
        tuned = _input(recipe, parts.linears[role].module, 0.9, 64)
        torch.testing.assert_close(tuned(x), sinks_of(x, 2, 0.9, 64), rtol=0, atol=1e-6)
    # GPTQ and tuning run, and weights are not those of a run without.
    for count in (0, 2):
        quantized(short_model, tmp_path / str(count), recipe=recipe, sink_tokens=count, tune=2)
    both = [(tmp_path / str(count) / "model.safetensors").read_bytes() for count in (0, 2)]
    assert both[0] != both[1]


def test_searches_leave_them_out(short_model: Path) -> None:
    """Massive first tokens decide neither clips nor what else is chosen on samples."""
    checkpoint = open_checkpoint(short_model)
    parameters, parts = Parameters(checkpoint), checkpoint.parts.block(0)
    recipe = Recipe(scheme=W4A4, sink_tokens=1, act_clip_search=True)
    sample = torch.randn(1, 65, checkpoint.spec.hidden, generator=torch.Generator().manual_seed(2))
    sample[:, 0, 7] = 1e4
    clips = []
    for options, read in ((recipe, sample), (adjust_recipe(recipe, RecipeChanges(sink_tokens=0)), sample[:, 1:])):
        quantizer = BlockQuantizer(options, lambda module: torch.bfloat16, Progress())
        quantizer.choose_clip(parameters.block(0), parts, ("q", "k", "v"), read)
        clips.append(quantizer.clips)
    assert clips[0] == clips[1]
    windows = torch.arange(3, 51).reshape(4, 12)
    with torch.inference_mode():
        positions = Positions.of(checkpoint.spec, 12, torch.device("cpu"))
        states = [HiddenStates(windows, Embedding(parameters), torch.device("cpu")) for _ in range(3)]
        whole, later, short = (
            gather(parameters.block(0), hidden, positions, n) for hidden, n in zip(states, (0, 2, 12), strict=True)
        )
    for place, found in whole.items():
        kept = found.sample.reshape(4, 12, -1)[:, 2:].reshape(40, -1)
        assert torch.equal(later[place].sample, kept) and torch.equal(short[place].sample, found.sample)
        torch.testing.assert_close(later[place].mean, kept.double().mean(dim=0))
        torch.testing.assert_close(later[place].energy, kept.double().square().mean(dim=0))
