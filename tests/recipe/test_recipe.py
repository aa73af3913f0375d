"""Schemes, overrides, recipes, their YAML and what MODEL means."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from agq.errors import AgqError
from agq.formats import FITTED, PER_ROW, PerGroup
from agq.recipe import (
    ActivationScheme,
    CalibrationSpec,
    Override,
    Recipe,
    Scheme,
    TransformOptions,
    WeightScheme,
    load_recipe,
    resolve_model,
)
from agq.recipe.files import apply_preset, config_dirs, parse_yaml, preset_names, recipe_names

FAMILY = {"llama": "llama", "tinyllama": "llama", "opt": "opt", "bloom": "bloom", "demo": "llama"}


def test_scheme_defaults():
    w4a8, w4a4, w8a8 = Scheme.parse("W4A8"), Scheme.parse("w4a4"), Scheme.parse("W8A8")
    assert w4a8 == Scheme(WeightScheme(4, True, FITTED), ActivationScheme(8, True, PER_ROW))
    assert w4a4.activations == ActivationScheme(4, False, FITTED)
    assert w8a8.weights == WeightScheme(8, True, PER_ROW)
    assert Scheme.parse("W4A16").activations.bits == 16
    assert Scheme.parse("W4A8_ASYM").weights == WeightScheme(4, False, FITTED)
    assert Scheme.parse("W4A8_ASYM").name == "W4A8_ASYM"
    assert w4a4.fit(PerGroup(128)).describe() == "W4 g128, A4 g128 asym"


@pytest.mark.parametrize("name", ["W4A4", "W4A8", "W4A16", "W8A8", "W8A16", "W4A8_ASYM"])
def test_scheme_names_round_trip(name):
    scheme = Scheme.parse(name)
    assert scheme.name == name
    assert Scheme.from_dict(scheme.to_dict()) == scheme


@pytest.mark.parametrize("name", ["W3A8", "W8A4", "W16A8", "4bit", "", "W4A8_SYM", "W16A16_ASYM"])
def test_unknown_schemes_list_the_known_ones(name):
    with pytest.raises(AgqError) as caught:
        Scheme.parse(name)
    assert "W4A8" in caught.value.hint


@pytest.mark.parametrize("group", [0, -2, 16, 100, 48])
def test_group_sizes_that_no_kernel_has(group):
    with pytest.raises(AgqError, match=f"group size {group}"):
        WeightScheme(4, True, PerGroup(group))
    with pytest.raises(AgqError, match=f"group size {group}"):
        ActivationScheme(4, False, PerGroup(group))


def test_overrides_first_match_counts():
    recipe = Recipe(
        scheme=Scheme.parse("W4A4"),
        overrides=(Override.parse("re:.*down_proj=W4A8"), Override.parse("re:.*=W4A4"), Override.parse("a.b=W16A16")),
    )
    assert recipe.scheme_for("model.layers.0.mlp.down_proj").name == "W4A8"
    assert recipe.scheme_for("model.layers.0.mlp.up_proj").name == "W4A4"
    assert recipe.scheme_for("lm_head") is None
    left = Recipe(overrides=(Override.parse("a.b=W16A16"),))
    assert left.scheme_for("a.b") is None
    assert left.scheme_for("a.bc").name == "W4A8"  # a name without re: is whole
    assert Override.parse("re:mlp=W8A8").matches("model.mlp") is False  # as re.match: from the start


@pytest.mark.parametrize("text", ["down_proj", "=W4A8", "re:(=W4A8", "re:.*down=W5A8", "re:=W4A8"])
def test_bad_overrides(text):
    with pytest.raises(AgqError):
        Override.parse(text)


def test_recipe_round_trips_through_dict_and_yaml(tmp_path):
    recipe = Recipe(
        model="some/where",
        scheme=Scheme.of(4, 4, group_size=PerGroup(64), symmetric=False, act_group_size=PER_ROW, act_symmetric=True),
        method="rtn",
        overrides=(Override.parse("re:.*fc2=W8A8"),),
        ignore=("lm_head", "re:.*project_.*"),
        kv_bits=32,
        head_bits=16,
        seed=7,
    )
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    path = tmp_path / "r.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(path) == recipe


BAD_YAML = [
    ("scheme: W4A8\ngptq:\n  damp: 1\n", "line 3: `gptq.damp`: unknown key", "damping"),
    ("scheme: W4A8\n\nscheme: W4A4\n", "line 3: key `scheme` is given twice", None),
    ("method: gptq\nscheme: W5A8\n", "line 2: `scheme`: unknown scheme `W5A8`", "W4A8"),
    ("kv_bits: yes\n", "line 1: `kv_bits`: True is not a whole number", None),
    ("gptq:\n  act_order: 1\n", "line 2: `gptq.act_order`: 1 is not true or false", None),
    ("scheme:\n  weights: {bits: 4, group_size: 100}\n  activations: {bits: 8}\n", "group size 100", "128"),
    ("scheme:\n  weights: {bits: 4}\n", "`scheme.activations`", None),
    ("overrides:\n  - pattern: 're:('\n    scheme: W4A8\n", "line 2: `overrides[0]`", None),
    ("overrides:\n  - pattern: down\n", "`scheme` is missing", None),
    ("a: &x 1\nb: *x\n", "anchors, aliases and tags", None),
    ("x: !!python/object:os.system 1\n", "anchors, aliases and tags", None),
    ("x: [1\n", "not valid YAML", None),
    ("x: \0\n", "not valid YAML: unacceptable character #x0000", None),
    ("- 1\n", "expected a table", "scheme"),
    ("method: magic\n", "unknown method `magic`", "rtn"),
    ("calibration: {samples: 0}\n", "samples is 0", None),
    ("scheme: W16A16\n", "quantizes nothing", None),
]


@pytest.mark.parametrize(("text", "message", "hint"), BAD_YAML)
def test_bad_recipes_name_line_and_key(tmp_path, text, message, hint):
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AgqError) as caught:
        load_recipe(path)
    assert message in caught.value.message and "r.yaml" in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.slow
def test_recipe_files_that_cannot_be_read(tmp_path):
    for content, message in (
        (b"\xff\xfe", "not UTF-8"),
        (b"x: " + b"a" * (1 << 20), "too large"),
        (b"[" * 5000, "YAML|deep"),
    ):
        path = tmp_path / "r.yaml"
        path.write_bytes(content)
        with pytest.raises(AgqError, match=message):
            load_recipe(path)
    with pytest.raises(AgqError, match="No such file"):
        load_recipe(tmp_path / "none.yaml")


def test_numbers_with_an_exponent_are_numbers():
    values, lines = parse_yaml("gptq:\n  damping: 1e-2\nseed: 3\n", "x")
    assert values == {"gptq": {"damping": 0.01}, "seed": 3}
    assert lines["gptq", "damping"] == 2


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_in_configs_loads(name):
    model, recipe = resolve_model(name)
    assert recipe is not None and recipe.model == model
    assert recipe.scheme.name == "W4A8" and recipe.method == "gptq"
    assert FAMILY[name.split("-")[0]] in FAMILY.values()


def test_recipes_of_the_three_families_are_there():
    names = recipe_names()
    for name in (
        "demo",
        "llama-7b",
        "llama-65b",
        "llama-2-13b",
        "llama-3.2-1b",
        "tinyllama-1.1b",
        "opt-125m",
        "opt-30b",
        "bloom-560m",
        "bloom-7b1",
    ):
        assert name in names
    assert len(config_dirs()) == 1


def test_what_model_means(tmp_path, monkeypatch, demo_model):
    assert resolve_model(str(demo_model)) == (str(demo_model), None)
    assert resolve_model("demo")[0] == str(demo_model)
    assert resolve_model("LLaMA-7B")[0] == "huggyllama/llama-7b"
    assert resolve_model("someone/some-model@v1.0") == ("someone/some-model@v1.0", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama-7b").mkdir()  # a folder that is no model does not hide the recipe
    assert resolve_model("llama-7b")[1] is not None
    (tmp_path / "llama-7b" / "config.json").write_text("{}")
    assert resolve_model("llama-7b") == ("llama-7b", None)
    (tmp_path / "mine.yaml").write_text("model: ./weights\ncalibration: {data: ../text.txt}\n")
    model, recipe = resolve_model("mine.yaml")
    assert model == str(tmp_path / "weights") and recipe.calibration.data == str(tmp_path.parent / "text.txt")
    (tmp_path / "none.yaml").write_text("scheme: W4A8\n")
    for name, message in (
        ("none.yaml", "names no model"),
        ("nine.yaml", "no such file"),
        ("llama7b", "neither a recipe"),
        ("./nope", "no such file"),
        (str(tmp_path), "no config.json"),
        ("a/b/c", "no such file"),
    ):
        with pytest.raises(AgqError, match=message) as caught:
            resolve_model(name)
        if name == "llama7b":
            assert "did you mean `llama-7b`" in caught.value.hint


def test_recipes_need_neither_numpy_nor_torch(repository):
    code = (
        "import sys, agq, agq.recipe, agq.recipe.files; agq.recipe.Recipe(); "
        "sys.exit(any(name in sys.modules for name in ('numpy', 'torch', 'yaml', 'rich')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(repository)}).returncode == 0
    )


def test_the_package_offers_its_functions():
    import agq

    assert agq.__version__ and set(agq.__all__) <= set(dir(agq))
    assert callable(agq.pack) and callable(agq.evaluate_perplexity) and agq.AgqError is AgqError
    with pytest.raises(AttributeError):
        _ = agq.nothing


def test_presets_replace_the_sections_that_they_name():
    assert {"plain", "gptq", "rtn"} <= set(preset_names())
    recipe = Recipe(model="x", scheme=Scheme.parse("W4A4"), transforms=TransformOptions(r1=True), act_clip=0.9, seed=5)
    plain = apply_preset(recipe, "PLAIN")
    assert plain.transforms == TransformOptions() and plain.act_clip == 1.0
    assert plain.model == "x" and plain.scheme.name == "W4A4" and plain.seed == 5
    assert apply_preset(recipe, "rtn").method == "rtn"
    # Of the calibration a preset says no more than it names: the text is the recipe's.
    text = CalibrationSpec("a.txt", samples=7, seq_len=64, seed=5)
    assert apply_preset(replace(recipe, calibration=text), "w4a8").calibration == replace(text, detached=True)
    for name in ("nothing", "../demo", "presets/plain"):
        with pytest.raises(AgqError, match="unknown preset") as caught:
            apply_preset(recipe, name)
        assert "plain" in caught.value.hint


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name):
    assert apply_preset(Recipe(), name).model is None
