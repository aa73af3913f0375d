"""Options are declared once: what is derived from a declaration, and that one field is all that a new option needs."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import agq
from agq import structured
from agq.errors import AgqError, UsageError
from agq.recipe import Recipe
from agq.recipe.changes import RecipeChanges, RunOptions
from agq.recipe.resolve import adjust_recipe
from tests.support import REPOSITORY, clean_environment

# What the Python functions took before options were declared; callers name these.
QUANTIZE = """recipe scheme method calibration overrides ct_format force resume device progress weight_bits act_bits
group_size asym act_group act_symmetric data samples seq_len seed detached ignore mse act_order true_sequential damping
block_size quantized_activations kv_bits head_bits alpha act_clip sink_tokens transforms tune pruning preset rotate r1
r2 rot_seed rot_seeds scale scale_norms shift finer rot_steps hadamard permute bake_embed_norm""".split()
CALIBRATE = "recipe data samples seq_len seed detached force device progress".split()


@pytest.mark.parametrize(("function", "names"), [("quantize", QUANTIZE), ("calibrate", CALIBRATE)])
def test_functions_take_every_option_by_name(function: str, names: list[str]) -> None:
    parameters = inspect.signature(getattr(agq, function)).parameters
    assert set(names) <= set(parameters)
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())
    documented = getattr(agq, function).__doc__
    assert all(f"{name}: " in documented or f"{name}," in documented for name in names if name != "progress")


def test_every_option_of_quantize_is_a_keyword() -> None:
    parameters = inspect.signature(agq.quantize).parameters
    for option in [*RecipeChanges.options(), *RunOptions.options()]:
        assert option.name in parameters and option.help


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"groupsize": 64}, "no option `groupsize`", "did you mean `group_size`?"),
        ({"rot_step": 1}, "no option `rot_step`", "did you mean `rot_steps`?"),
        ({"samples": "8"}, "`samples`: '8' is not a whole number", None),
        ({"mse": "no"}, "`mse`: 'no' is not true or false", None),
        ({"tune": 1.5}, "`tune`: 1.5 is not a whole number or a text", None),
        ({"overrides": "re:.*=W4A8"}, "`overrides` is not a list", None),
    ],
)
def test_wrong_keywords_are_refused_before_any_work(
    tmp_path: Path, given: dict, message: str, hint: str | None
) -> None:
    with pytest.raises(UsageError, match=r".") as caught:
        agq.quantize(tmp_path / "no such model", **given)
    assert message in caught.value.message and (hint is None or hint in caught.value.hint)


def test_an_option_sets_the_field_that_declares_it() -> None:
    """Each option of one value, by its path; a bool becomes the other one, a number one more."""
    seen = 0
    for option in RecipeChanges.options():
        if not option.path:
            continue
        start = Recipe(scheme=agq_scheme("W4A4"))
        before = start.to_dict()
        value = other_value(option.name, at_path(before, option.path))
        after = adjust_recipe(start, RecipeChanges(**{option.name: value} | needs(option.name))).to_dict()
        assert at_path(after, option.path) == value, option.name
        seen += 1
    assert seen >= 29


def agq_scheme(name: str):
    from agq.recipe import Scheme

    return Scheme.parse(name)


def at_path(values: dict, path: tuple[str, ...]):
    for key in path:
        values = values[key]
    return values


def needs(name: str) -> dict:
    """What an option is given together with."""
    pairs = {"board": {"min_tps": 5.0}, "min_tps": {"board": "pi5"}}
    return {"pruning": "2-3:0.2"} if name.startswith("prune_") else pairs.get(name, {})


def other_value(name: str, value):
    special = {
        "method": "rtn", "data": "a.txt", "hadamard": 64, "kv_bits": 4, "damping": 0.5, "alpha": 0.5,
        "prune_positions": "paper", "prune_scores": "code-compat",
        "target_bits": 5.0, "target_size": "900M", "board": "pi4", "min_tps": 7.0,
    }  # fmt: skip
    if name in special:
        return special[name]
    return not value if isinstance(value, bool) else value + 1


def test_recipes_are_written_in_the_order_of_their_fields() -> None:
    assert list(Recipe().to_dict()) == [field.name for field in fields(Recipe)]
    assert Recipe.from_dict(Recipe().to_dict()) == Recipe()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sink_token": 3}, "recipe, `sink_token`: unknown key"),
        ({"gptq": {"dampin": 0.1}}, "recipe, `gptq.dampin`: unknown key"),
        ({"gptq": {"mse": "no"}}, "recipe, `gptq.mse`: 'no' is not true or false"),
        ({"ignore": ["a", 3]}, "recipe, `ignore[1]`: 3 is not a text"),
        ({"kv_bits": True}, "recipe, `kv_bits`: True is not a whole number"),
        ({"agile": {"k": 9}}, "k is 9, not between 0 and 8"),
        ({"agile": {"observer": "best"}}, "observer is `best`"),
        ({"calibration": {"samples": 0}}, "samples is 0, not a positive number"),
        ({"tune": {"steps": -1}}, "steps is -1, not 0 or a positive number"),
    ],
)
def test_recipes_are_read_by_the_declarations(data: dict, message: str) -> None:
    with pytest.raises(AgqError) as caught:
        Recipe.from_dict(data)
    assert message in caught.value.message


def test_the_nearest_key_is_named() -> None:
    with pytest.raises(AgqError) as caught:
        structured.build(Recipe, {"sink_token": 3}, structured.in_recipe, ())
    assert "did you mean `sink_tokens`?" in caught.value.hint


# One line more in the declaration of GPTQ's options, as a developer would add it.
FIELD = '    patience: int = option(3, "GPTQ: a new option. Default 3.", panel=METHOD, least=1)\n'
PROGRAM = """
import contextlib, inspect, io, json, sys
import agq
from agq.cli import main
from agq.sweep.definition import parse_sweep
from pathlib import Path
def said(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return [code, out.getvalue(), err.getvalue()]
sweep = parse_sweep({"models": [{"name": "m", "path": "p"}], "texts": [{"name": "t", "data": "d"}],
                     "rows": [{"name": "r", "options": {"patience": 7}}]}, Path("."))
json.dump({
    "help": said("quantize", "--help"),
    "config": said("quantize", "demo", "--print-config", "--patience", "5"),
    "yaml": said("quantize", "demo", "--print-config", "--config", sys.argv[1]),
    "refused": said("quantize", "demo", "--print-config", "--patience", "0"),
    "keyword": "patience" in inspect.signature(agq.quantize).parameters,
    "row": sweep.rows[-1].options.to_dict(),
    "file": agq.__file__,
}, sys.stdout)
"""


@pytest.mark.slow
def test_a_new_option_is_one_field(tmp_path: Path) -> None:
    """In a copy of the package a field is added, nothing else: help, command line, YAML, sweep, keywords know it."""
    copy = tmp_path / "agq"
    shutil.copytree(REPOSITORY / "agq", copy, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "demo").symlink_to(REPOSITORY / "demo")
    declarations = copy / "recipe" / "options.py"
    source = declarations.read_text(encoding="utf-8")
    place = source.index("    alpha: float = option(")
    declarations.write_text(source[:place] + FIELD + source[place:], encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("gptq: {patience: 9}\n", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "mine.yaml")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=clean_environment() | {"PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert Path(found["file"]).parent == copy
    assert "--patience" in found["help"][1] and "a new option" in found["help"][1]
    assert "AGQ_PATIENCE" in found["help"][1]
    assert found["config"][0] == 0 and "  patience: 5\n" in found["config"][1]
    assert found["yaml"][0] == 0 and "  patience: 9\n" in found["yaml"][1]
    assert found["refused"][0] != 0 and "patience" in found["refused"][2]
    assert found["keyword"] and found["row"] == {"patience": 7}
