"""Group sizes where the user names none: the largest of 128, 64 and 32 that divides every input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.formats import FITTED, PER_ROW, PerGroup
from agq.models import ModelParts, parts, spec_from_config
from agq.quantization.checks import fit_groups
from agq.quantization.plan import plan
from agq.recipe import Override, Recipe, Scheme, load_recipe
from tests.checkpoint.folders import config, random_tensors, write_folder
from tests.quantization.quantization_support import planned

# Shapes of small models that people have: hidden, feed-forward, heads, heads of keys, channels of a head.
SHAPES = {
    "SmolLM2-135M": (576, 1536, 9, 3, 64),
    "Gemma-3-270M": (640, 2048, 4, 1, 256),
    "Qwen2.5-0.5B": (896, 4864, 14, 2, 64),
    "SmolLM2-360M": (960, 2560, 15, 5, 64),
    "of 32": (96, 160, 4, 4, 24),
    "odd": (104, 300, 4, 4, 26),
}
GROUPS = {"SmolLM2-135M": 64, "Gemma-3-270M": 128, "Qwen2.5-0.5B": 128, "SmolLM2-360M": 64, "of 32": 32, "odd": -1}


def settings(name: str, **changes: object) -> dict:
    hidden, ffn, heads, kv_heads, head_dim = SHAPES[name]
    sizes = {"hidden_size": hidden, "intermediate_size": ffn, "num_attention_heads": heads}
    return config("llama", **sizes, num_key_value_heads=kv_heads, head_dim=head_dim, **changes)


def parts_of(name: str) -> ModelParts:
    return parts(spec_from_config(settings(name)))


@pytest.fixture(scope="module")
def narrow_model(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One random block in the shape of SmolLM2-135M, with the demo model's tokenizer."""
    demo = json.loads((demo_model / "config.json").read_text())
    kept = {name: demo[name] for name in ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id")}
    shape = settings("SmolLM2-135M", num_hidden_layers=1, **kept)
    folder = write_folder(tmp_path_factory.mktemp("narrow") / "narrow", shape, random_tensors(shape), tokenizer=False)
    for path in demo_model.glob("*token*"):
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.mark.parametrize("name", SHAPES)
def test_the_size_fits_every_input(name: str) -> None:
    wanted = PER_ROW if GROUPS[name] == -1 else PerGroup(GROUPS[name])
    recipe, note = fit_groups(parts_of(name), Recipe(scheme=Scheme.parse("W4A4")))
    assert recipe.scheme.weights.group_size == recipe.scheme.activations.group_size == wanted
    assert (note is None) == (GROUPS[name] == 128)


def test_the_sentence() -> None:
    recipe = Recipe(scheme=Scheme.parse("W4A8"))
    fitted, note = fit_groups(parts_of("SmolLM2-135M"), recipe)
    assert note == "groups of 64: the largest that divides all inputs (576, 1536)"
    assert fitted.scheme.activations == recipe.scheme.activations  # per token, which was said
    _, note = fit_groups(parts_of("odd"), recipe)
    assert note == "one scale per row: no group size of 128, 64, 32 divides all inputs (104, 300)"


def test_what_is_said_stays() -> None:
    names = parts_of("SmolLM2-135M")
    said = Recipe(scheme=Scheme.of(4, 4, PerGroup(32)), overrides=(Override.parse("re:.*down_proj=W4A8"),))
    fitted, _ = fit_groups(names, said)
    assert fitted.scheme == Scheme.of(4, 4, PerGroup(32), act_group_size=PerGroup(64))
    assert fitted.overrides[0].scheme == Scheme.of(4, 8, PerGroup(64))
    plain = Recipe(scheme=Scheme.parse("W8A8"))
    assert fit_groups(names, plain) == (plain, None)
    assert fit_groups(names, fitted) == (fitted, None)


def test_only_the_linears_that_want_a_size_count() -> None:
    """The odd inputs of down are left in floating point."""
    recipe = Recipe(scheme=Scheme.parse("W4A8"), ignore=("re:.*down_proj",))
    shape = config("llama", hidden_size=128, intermediate_size=300, num_attention_heads=4, num_key_value_heads=4)
    fitted, note = fit_groups(parts(spec_from_config(shape)), recipe)
    assert fitted.scheme.weights.group_size == PerGroup(128) and note is None


def test_a_size_in_a_recipe_of_the_users_is_the_users(narrow_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("scheme:\n  weights: {bits: 4, group_size: 128}\n  activations: {bits: 8}\nmethod: rtn\n")
    with pytest.raises(AgqError) as caught:
        plan(str(narrow_model), tmp_path / "out", recipe=load_recipe(path))
    listed = "q, k, v, o, gate, up of block 0: 576"
    assert caught.value.message == f"group size 128 does not divide the inputs of {listed}"
    assert caught.value.hint.startswith("use 32, 64, or -1 for one scale for the whole row")
    path.write_text(path.read_text().replace("128", "auto"))
    assert plan(str(narrow_model), tmp_path / "out", recipe=load_recipe(path)).recipe.scheme.weights.group_size == (
        PerGroup(64)
    )


def test_presets_name_no_size(narrow_model: Path, tmp_path: Path) -> None:
    for preset in ("w4a4", "agile", "rtn"):
        found = planned(narrow_model, tmp_path / "out", preset=preset)
        assert found.recipe.scheme.weights.group_size == PerGroup(64)
        assert found.notes[0] == "groups of 64: the largest that divides all inputs (576, 1536)"


def test_the_printed_recipe_says_that_the_size_is_open_and_loads_again(agq_cli, narrow_model: Path, tmp_path: Path):
    printed = agq_cli("quantize", narrow_model, "--scheme", "W4A4", "--method", "rtn", "--print-config", check=True)
    (tmp_path / "printed.yaml").write_text(printed.stdout)
    assert printed.stdout.count("group_size: auto") == 2
    assert load_recipe(tmp_path / "printed.yaml").scheme.weights.group_size == FITTED


@pytest.mark.slow
def test_the_commands_from_a_narrow_model_to_a_perplexity(
    agq_cli, narrow_model: Path, demo_text: Path, tmp_path: Path
) -> None:
    folder, artifact = tmp_path / "q", tmp_path / "a.agq.safetensors"
    made = agq_cli("quantize", narrow_model, "--scheme", "W4A4", "--method", "rtn", "-o", folder, check=True)
    assert made.stderr.count("groups of 64: the largest that divides all inputs (576, 1536)") == 1
    record = json.loads((folder / "agq.json").read_text())
    assert record["recipe"]["scheme"]["weights"]["group_size"] == 64
    assert record["scheme"]["activations"]["group_size"] == 64
    assert open_checkpoint(folder).quantization is not None
    agq_cli("pack", folder, "-o", artifact, check=True)
    assert agq_cli("run", artifact, "The", "-n", 4, check=True).stdout
    text = tmp_path / "text.txt"
    text.write_text((demo_text / "heldout.txt").read_text()[:4000])
    scored = agq_cli("eval-ppl", artifact, "--data", text, "--seq-len", 64, "--json", check=True)
    assert json.loads(scored.stdout)["ppl"] > 1
