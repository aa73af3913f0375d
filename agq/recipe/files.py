"""Recipes on disk: strict YAML whose errors name the line, and where recipes are looked for.

`configs/NAME.yaml` is the recipe NAME; `configs/models.yaml` names models of the hub that share one recipe.

Paths in a recipe that begin with `./` or `../` are relative to the recipe's own file.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from agq import structured
from agq.errors import AgqError
from agq.recipe.recipe import Recipe
from agq.structured import Place, dotted

MAX_BYTES = 1 << 20
# The file of a folder of recipes that is a table of models.
_TABLE = "models.yaml"
# Presets that have two names.
_ALIASES = {"plain": "gptq"}


def config_dirs() -> list[Path]:
    """Folders with recipes: inside an installed package, else beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    return [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()][:1]


def recipe_names() -> list[str]:
    """The names that `find_recipe` finds, sorted."""
    found: set[str] = set()
    for folder in config_dirs():
        found |= {path.stem for path in folder.glob("*.yaml") if path.name != _TABLE}
        found |= set(_model_table(folder)[0])
    return sorted(found)


def find_recipe(name: str) -> Recipe | None:
    """The recipe of a name such as "llama-7b" (in any case); None when there is none."""
    if not re.fullmatch(r"[\w.-]+", name):
        return None
    for folder in config_dirs():
        path = folder / f"{name.lower()}.yaml"
        if path.is_file() and path.name != _TABLE:
            return load_recipe(path)
        models, shared = _model_table(folder)
        if name.lower() in models:
            return _in_folder(replace(shared, model=models[name.lower()]), folder)
    return None


def _model_table(folder: Path) -> tuple[dict[str, str], Recipe]:
    """Names -> hub ids of the table in a folder of recipes, and the recipe of all of them."""
    path = folder / _TABLE
    if not path.is_file():
        return {}, Recipe()
    values, place = _read_yaml(path)
    table = structured.table(values, ("models", "recipe"), place, ())
    models = table.get("models")
    if not isinstance(models, dict) or not all(isinstance(item, str) for item in models.values()):
        raise AgqError(f"{place(('models',))} is not a table of names and models")
    return models, Recipe.from_dict(table.get("recipe", {}), lambda keys: place(("recipe", *keys)))


def preset_names() -> list[str]:
    """The names that `apply_preset` knows, sorted."""
    return sorted({path.stem for folder in config_dirs() for path in (folder / "presets").glob("*.yaml")} | {*_ALIASES})


def apply_preset(recipe: Recipe, name: str, without: Collection[str] = ()) -> Recipe:
    """`recipe` with the sections of preset `name` (configs/presets) in place of its own: everything that the preset's
    file names, each section as a whole, but for the sections `without`; of the calibration only what it names, the text
    is the recipe's.

    Raises AgqError: no such preset.
    """
    for folder in config_dirs():
        path = folder / "presets" / f"{_ALIASES.get(name.lower(), name.lower())}.yaml"
        if re.fullmatch(r"[\w.-]+", name) and path.is_file():
            values, _ = parse_yaml(path.read_text(encoding="utf-8"), f"`{path}`")
            found = load_recipe(path)
            sections = {key: getattr(found, key) for key in values if key not in without}
            if "calibration" in sections:
                named = {key: getattr(found.calibration, key) for key in values["calibration"]}
                sections["calibration"] = replace(recipe.calibration, **named)
            return replace(recipe, **sections)
    raise AgqError(f"unknown preset `{name}`", hint=f"presets: {', '.join(preset_names())}")


def load_recipe(path: str | Path) -> Recipe:
    """Reads a recipe file.

    Raises:
        AgqError: the file cannot be read, is not YAML, has an unknown or repeated key or a wrong value; the message
            names the line.
    """
    path = Path(path).expanduser()
    values, place = _read_yaml(path)
    return _in_folder(Recipe.from_dict(values, place), path.resolve().parent)


def _in_folder(recipe: Recipe, folder: Path) -> Recipe:
    """`recipe` with its paths as seen from the folder of its file."""
    calibration = replace(recipe.calibration, data=located(recipe.calibration.data, folder))
    return replace(recipe, model=located(recipe.model, folder) if recipe.model else None, calibration=calibration)


def _read_yaml(path: Path) -> tuple[Any, Place]:
    """The YAML document of a file, and the words for the place of a key path in it."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise AgqError(f"cannot read recipe `{path}`: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise AgqError(f"`{path}` is too large to be a recipe")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise AgqError(f"`{path}`, line {line}: not UTF-8 text") from None
    values, lines = parse_yaml(text, f"`{path}`")

    def place(keys: tuple[Any, ...]) -> str:
        for length in range(len(keys), 0, -1):
            if keys[:length] in lines:
                return f"`{path}`, line {lines[keys[:length]]}: `{dotted(keys)}`"
        return f"`{path}`"

    return values, place


def split_sources(source: str, folder: Path = Path()) -> list[str]:
    """The sources that a calibration text names, separated by commas; a file (seen from `folder`) whose own name has
    commas is one."""
    if "," not in source or (folder / Path(source).expanduser()).exists():
        return [source]
    return [part.strip() for part in source.split(",") if part.strip()]


def located(names: str, folder: Path) -> str:
    """`names` of models or texts in a file of `folder`: those that begin with ./ or ../ are relative to it."""
    parts = split_sources(names, folder)
    return ",".join(str((folder / part).resolve()) if part.startswith(("./", "../")) else part for part in parts)


def parse_yaml(text: str, where: str) -> tuple[Any, dict[tuple[Any, ...], int]]:
    """A YAML document of plain tables, lists and scalars.

    Returns:
        (value, line of each key path, from 1).

    Raises:
        AgqError: a syntax error, a repeated key, anchors or tags (a recipe needs none).
    """
    import yaml

    lines: dict[tuple[Any, ...], int] = {}
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        if any(
            isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken)
            for token in yaml.scan(text, yaml.SafeLoader)
        ):
            raise AgqError(f"{where}: anchors, aliases and tags are not used in recipes")
        node = loader.get_single_node()
        value = {} if node is None else _value(node, (), lines, loader, where)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise not_yaml(error, where) from None
    finally:
        if loader is not None:
            loader.dispose()
    return value, lines


def not_yaml(error: Exception, where: str) -> AgqError:
    """What is said of a text that the YAML parser refused: the line, where it knows it, and the problem."""
    if isinstance(error, RecursionError):
        return AgqError(f"{where}: nested too deeply")
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or str(error).split("\n")[0]
    return AgqError(f"{where}{line}: not valid YAML: {problem}")


def _value(node: Any, path: tuple[Any, ...], lines: dict[tuple[Any, ...], int], loader: Any, where: str) -> Any:
    import yaml

    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), lines, loader, where) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        table = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise AgqError(f"{where}, line {line}: a key is not a word")
            key = key_node.value
            if key in table:
                raise AgqError(f"{where}, line {line}: key `{key}` is given twice")
            lines[(*path, key)] = line
            table[key] = _value(value_node, (*path, key), lines, loader, where)
        return table
    if (
        node.tag == "tag:yaml.org,2002:str"
        and node.style is None
        and re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", node.value)
    ):
        return float(node.value)  # YAML 1.1 takes 1e-2 for a text
    if node.tag == "tag:yaml.org,2002:timestamp":
        return node.value
    return loader.construct_object(node)
