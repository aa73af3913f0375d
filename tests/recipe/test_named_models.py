"""The table of models that have names: what each name does is frozen here."""

from __future__ import annotations

from pathlib import Path

import pytest

from agq.errors import AgqError
from agq.recipe import Recipe, files
from agq.recipe.files import apply_preset, config_dirs, preset_names, recipe_names
from agq.recipe.models import resolve_model

MODELS = {
    "bloom-1b1": "bigscience/bloom-1b1",
    "bloom-1b7": "bigscience/bloom-1b7",
    "bloom-3b": "bigscience/bloom-3b",
    "bloom-560m": "bigscience/bloom-560m",
    "bloom-7b1": "bigscience/bloom-7b1",
    "llama-13b": "huggyllama/llama-13b",
    "llama-2-13b": "meta-llama/Llama-2-13b-hf",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "llama-30b": "huggyllama/llama-30b",
    "llama-65b": "huggyllama/llama-65b",
    "llama-7b": "huggyllama/llama-7b",
    "opt-1.3b": "facebook/opt-1.3b",
    "opt-125m": "facebook/opt-125m",
    "opt-13b": "facebook/opt-13b",
    "opt-2.7b": "facebook/opt-2.7b",
    "opt-30b": "facebook/opt-30b",
    "opt-350m": "facebook/opt-350m",
    "opt-6.7b": "facebook/opt-6.7b",
    "tinyllama-1.1b": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
}
RECIPE = {
    "scheme": "W4A8",
    "method": "gptq",
    "gptq": {"damping": 0.01, "act_order": True, "true_sequential": True},
    "calibration": {"data": "wikitext2", "samples": 128, "seq_len": 2048, "seed": 0},
}


@pytest.mark.parametrize(("name", "model"), MODELS.items())
def test_a_name_is_its_model_and_the_recipe_of_all(name: str, model: str) -> None:
    expected = Recipe.from_dict({"model": model, **RECIPE})
    assert resolve_model(name) == (model, expected)
    assert resolve_model(name.upper()) == (model, expected)


def test_the_names_are_those_and_the_demos() -> None:
    assert recipe_names() == sorted([*MODELS, "demo"])
    with pytest.raises(AgqError, match="`models` is neither a recipe"):
        resolve_model("models")


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes of its own."""
    monkeypatch.setattr(files, "config_dirs", lambda: [tmp_path])
    return tmp_path


def test_paths_of_the_table_are_seen_from_it(folder: Path) -> None:
    (folder / "models.yaml").write_text("models: {mine: ./weights}\nrecipe: {calibration: {data: ./text.txt}}\n")
    model, recipe = resolve_model("mine")
    assert model == recipe.model == str(folder / "weights") and recipe.calibration.data == str(folder / "text.txt")
    (folder / "models.yaml").unlink()
    assert recipe_names() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {a: b/c}\nrecipes: {}\n", "line 2: `recipes`: unknown key"),
        ("models: {a: b/c}\nrecipe:\n  gptq:\n    damp: 1\n", "line 4: `recipe.gptq.damp`: unknown key"),
        ("models: [a]\n", "line 1: `models` is not a table"),
        ("models:\n  a: 5\n", "line 1: `models` is not a table"),
        ("recipe: {}\n", "is not a table"),
    ],
)
def test_a_wrong_table_is_an_error_with_its_line(folder: Path, text: str, message: str) -> None:
    (folder / "models.yaml").write_text(text)
    with pytest.raises(AgqError, match=message):
        resolve_model("a")


def test_a_preset_of_two_names_is_one_file() -> None:
    presets = config_dirs()[0] / "presets"
    contents = [path.read_text(encoding="utf-8") for path in sorted(presets.glob("*.yaml"))]
    assert len(set(contents)) == len(contents)
    assert {"plain", "gptq"} <= set(preset_names()) and not (presets / "plain.yaml").exists()
    recipe = Recipe(act_clip=0.9)
    assert apply_preset(recipe, "plain") == apply_preset(recipe, "gptq") != recipe
