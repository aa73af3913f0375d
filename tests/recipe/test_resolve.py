"""From a recipe, a preset and options to the recipe that is run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agq.formats import PER_ROW, PerGroup
from agq.quantization.plan import plan
from agq.recipe import Recipe, Scheme, TransformOptions
from agq.recipe.changes import RecipeChanges
from agq.recipe.resolve import adjust_recipe, effective_recipe, fit_hadamard
from tests.quantization.quantization_support import TEXT
from tests.transforms.transform_support import random_model


def test_nothing_given_changes_nothing() -> None:
    recipe = Recipe(scheme=Scheme.parse("W4A4"), act_clip=0.9, transforms=TransformOptions(fold=True, r1=True, seed=3))
    assert adjust_recipe(recipe, RecipeChanges()) == recipe
    assert adjust_recipe(recipe, RecipeChanges(transforms=True)) == recipe


def test_rotations_and_their_parts() -> None:
    both = adjust_recipe(Recipe(), RecipeChanges(rotate=True)).transforms
    assert both == TransformOptions(fold=True, r1=True, r2=True, bake_embed_norm=True)
    assert adjust_recipe(Recipe(transforms=both), RecipeChanges(rotate=False)).transforms == TransformOptions()
    assert adjust_recipe(Recipe(), RecipeChanges(rotate=True, r2=False)).transforms.r2 is False
    one = adjust_recipe(Recipe(), RecipeChanges(r1=True, rot_seed=7, rot_seeds=3)).transforms
    assert (one.fold, one.r1, one.r2, one.seed, one.seeds) == (True, True, False, 7, 3)
    had = adjust_recipe(Recipe(), RecipeChanges(hadamard=64, permute=True)).transforms
    assert (had.hadamard, had.permute) == (64, True)
    assert adjust_recipe(Recipe(transforms=had), RecipeChanges(hadamard=0)).transforms == TransformOptions(permute=True)
    none_but_scale = RecipeChanges(transforms=False, scale=True)
    assert adjust_recipe(Recipe(transforms=had), none_but_scale).transforms == TransformOptions(scale=True)


def test_clip_is_a_number_or_a_search() -> None:
    assert adjust_recipe(Recipe(), RecipeChanges(act_clip="0.9")).act_clip == 0.9
    searched = adjust_recipe(Recipe(act_clip=0.9), RecipeChanges(act_clip="search"))
    assert searched.act_clip_search and searched.act_clip == 1.0
    assert not adjust_recipe(searched, RecipeChanges(act_clip=1)).act_clip_search


def test_new_bits_take_their_own_defaults() -> None:
    assert adjust_recipe(Recipe(), RecipeChanges(act_bits=4)).scheme == Scheme.parse("W4A4")
    assert adjust_recipe(Recipe(), RecipeChanges(weight_bits=8)).scheme == Scheme.parse("W8A8")
    changes = RecipeChanges(scheme="W4A4", act_group=-1, act_symmetric=True, group_size=64)
    assert adjust_recipe(Recipe(), changes).scheme == Scheme.of(4, 4, PerGroup(64), True, PER_ROW, True)


def test_scheme_chooses_its_preset_unless_told_otherwise() -> None:
    def settled(preset: str | None = None, automatic: bool = True, **options) -> Recipe:
        return effective_recipe(Recipe(), RecipeChanges(preset=preset, **options), automatic)

    w4a8 = settled()
    assert w4a8.transforms.r1 and w4a8.transforms.scale and not w4a8.transforms.hadamard
    w4a4 = settled(scheme="W4A4", group_size=64, kv_bits=4)
    assert w4a4.transforms.permute and not w4a4.transforms.hadamard and w4a4.act_clip_search  # loads in transformers
    assert w4a4.scheme.weights.group_size == PerGroup(64) and w4a4.kv_bits == 4  # formats are the user's
    assert settled(scheme="W4A4", hadamard=0, rot_seed=2).transforms.seed == 2
    assert settled(act_bits=4, permute=True).transforms.permute
    assert settled(scheme="W8A16") == Recipe(scheme=Scheme.parse("W8A16"))
    plain = Recipe(scheme=Scheme.parse("W4A4"))
    assert settled("plain", scheme="W4A4") == plain
    assert settled(scheme="W4A4", transforms=False) == plain
    assert settled(scheme="W4A4", method="gptq") == plain
    assert settled(automatic=False, scheme="W4A4") == plain
    alone = effective_recipe(None, RecipeChanges(scheme="W4A4"))
    assert settled("auto", False, scheme="W4A4") == settled(scheme="W4A4") == alone
    assert settled("w4a4-mixed").scheme_for("model.layers.0.mlp.down_proj").name == "W4A8"
    assert settled("w4a4-mixed").scheme_for("model.layers.0.mlp.up_proj").name == "W4A4"
    rounded = settled("w4a8", method="rtn")
    assert rounded.method == "rtn" and rounded.transforms == w4a8.transforms


def test_presets_block_is_cut_to_the_model() -> None:
    recipe = effective_recipe(None, RecipeChanges(preset="w4a4"))
    assert fit_hadamard(recipe, 1408).transforms.hadamard == 128
    assert fit_hadamard(recipe, 96).transforms.hadamard == 32
    assert fit_hadamard(recipe, 99).transforms.hadamard == 0


@pytest.mark.slow
def test_every_family_has_a_default(tmp_path: Path) -> None:
    """What a family does not allow is left out with a note; the rest is done."""
    reasons = {"opt-350m": "follow the residual additions", "bloom": "gelu", "opt": None, "llama-gqa": None}
    for name, reason in reasons.items():
        model = random_model(tmp_path / name, name)
        changes = RecipeChanges(preset="w4a4", group_size=-1, act_group=-1, data=str(TEXT), seq_len=32)
        made = plan(str(model), tmp_path / "out", changes)
        notes = " ".join(made.notes)
        assert made.transforms.hadamard == made.recipe.transforms.hadamard > 0
        assert (made.transforms.r1 is not None) == (name != "opt-350m")
        assert reason is None or reason in notes
        assert "computed at run time, by agq only" in notes


@pytest.mark.slow
def test_command_line(agq_cli, short_model: Path, tmp_path: Path) -> None:
    """Every option reaches the recipe; a user's recipe is done as it stands."""
    result = agq_cli(
        "quantize",
        short_model,
        "--print-config",
        "--scheme",
        "W4A4",
        "--method",
        "gptaq",
        "--alpha",
        0.5,
        "--rotate",
        "--no-r2",
        "--rot-seed",
        5,
        "--rot-seeds",
        2,
        "--scale",
        "--scale-norms",
        "--shift",
        "--finer",
        "--rot-steps",
        7,
        "--hadamard",
        64,
        "--permute",
        "--act-clip",
        "search",
        "--kv-bits",
        4,
        "--data",
        TEXT,
        check=True,
    )
    values = yaml.safe_load(result.stdout)
    assert values["method"] == "gptaq" and values["gptq"]["alpha"] == 0.5 and values["kv_bits"] == 4
    assert values["act_clip_search"] is True
    assert values["transforms"] == {
        "fold": True,
        "scale": True,
        "scale_norms": True,
        "shift": True,
        "finer": True,
        "learn": 7,
        "r1": True,
        "r2": False,
        "r1_layernorm": False,
        "seed": 5,
        "seeds": 2,
        "permute": True,
        "hadamard": 64,
        "bake_embed_norm": True,
    }
    (tmp_path / "mine.yaml").write_text("scheme: W4A4\n")
    mine = agq_cli("quantize", short_model, "--print-config", "--config", tmp_path / "mine.yaml", check=True)
    assert yaml.safe_load(mine.stdout)["transforms"]["r1"] is False
    (tmp_path / "again.yaml").write_text(result.stdout)
    again = agq_cli("quantize", short_model, "--print-config", "--config", tmp_path / "again.yaml", check=True)
    assert yaml.safe_load(again.stdout) == values
    options = ("--preset", "w4a4", "--bake-embed-norm", "--data", TEXT)
    preset = agq_cli("quantize", short_model, "--dry-run", *options, check=True)
    assert "hadamard 128" in preset.stdout and "scale, r1, r2" in preset.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [("--preset", "nothing"), ("--act-clip", "x"), ("--hadamard", "100"), ("--kv-bits", "16")]
)
def test_bad_options_are_one_error(agq_cli, short_model: Path, options: tuple[str, str]) -> None:
    result = agq_cli("quantize", short_model, "--dry-run", *options)
    assert result.returncode in (1, 2) and result.stderr.count("error: ") == 1 and "Traceback" not in result.stderr
