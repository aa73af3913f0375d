"""What MODEL means, for every command: a packed or GGUF file, a folder, a recipe's name or a hub id."""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from pathlib import Path

from agq.errors import AgqError
from agq.recipe.files import find_recipe, load_recipe, recipe_names
from agq.recipe.recipe import Recipe

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
# A model's page on the hub, as a browser or another program names it.
_PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+?)(?:/tree/([\w.-]+))?/?(?:[?#].*)?"
)
MEANS = "MODEL is a packed or GGUF file, a model folder, a recipe's name or a hub id (owner/name)"
# Files that may be meant by a name that is not there.
_MODEL_FILES = (".safetensors", ".gguf", ".yaml", ".yml")


def resolve_model(name: str) -> tuple[str, Recipe | None]:
    """What MODEL on the command line means.

    In this order: a recipe file (`*.yaml`), a local folder with a config.json or a local file, a recipe's name, a hub
    id ("owner/name", "owner/name@revision", or the address of its page).

    Returns:
        (local path or hub id, the recipe that named it or None).

    Raises:
        AgqError: none of these, with the nearest names that exist; the recipe names no model.
    """
    if not name:
        raise AgqError("MODEL is empty", hint=MEANS)
    path = Path(name).expanduser()
    if name.endswith((".yaml", ".yml")) and path.exists():
        return _model_of(load_recipe(path), str(path))
    if path.is_file() or (path / "config.json").is_file():
        return str(path), None
    recipe = find_recipe(name)
    if recipe is not None:
        return _model_of(recipe, name)
    if path.is_dir():
        raise AgqError(f"folder `{name}` has no config.json", hint=_near(name) or MEANS)
    if (page := _PAGE.fullmatch(name)) is not None and not path.exists():
        return "@".join(filter(None, page.groups())), None
    if re.match(r"https?://", name):
        raise AgqError(f"`{name}` is no model of the Hugging Face hub", hint="download it, and name the file or folder")
    near = _near(name)
    a_file = path.suffix in _MODEL_FILES
    if near is None and not a_file and not name.startswith((".", "/", "~")) and _HUB_ID.fullmatch(name):
        return name, None
    if path.exists():
        raise AgqError(f"`{name}` is neither a file nor a folder", hint=MEANS)
    if path.is_symlink():
        raise AgqError(f"`{name}` is a link to `{path.readlink()}`, which is not there", hint=near or MEANS)
    if "/" in name or name.startswith((".", "~")) or a_file:
        raise AgqError(f"no such file or folder: `{name}`", hint=near or MEANS)
    raise AgqError(
        f"`{name}` is neither a recipe nor a local file or folder nor a hub id",
        hint=near or f"{MEANS}; recipes: {', '.join(recipe_names())}",
    )


def _near(name: str) -> str | None:
    """The question after up to three names that exist and look like `name`: recipes, files and folders beside it."""
    path = Path(name).expanduser()
    beside: list[str] = []
    with suppress(OSError):
        beside = [item.name for item in path.parent.iterdir() if _may_be_meant(item)]
    found = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.75)
    # Somebody who leaves out the ending means the file.
    found += [item for item in sorted(beside) if item.startswith(f"{path.name}.") and item not in found]
    names = [str(path.parent / item) for item in found]
    if "/" not in name:
        names += [
            item
            for item in difflib.get_close_matches(name.lower(), recipe_names(), n=3, cutoff=0.75)
            if item not in names
        ]
    return f"did you mean {' or '.join(f'`{item}`' for item in names[:3])}?" if names else None


def _may_be_meant(path: Path) -> bool:
    return path.suffix in _MODEL_FILES or (path / "config.json").is_file()


def _model_of(recipe: Recipe, name: str) -> tuple[str, Recipe]:
    if recipe.model is None:
        raise AgqError(f"recipe `{name}` names no model", hint="add a line `model: FOLDER or HUB-ID` to it")
    return recipe.model, recipe
