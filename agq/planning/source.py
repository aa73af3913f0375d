"""The model that is planned for: a packed file, a folder, a GGUF file, a recipe's name, a hub id, or a config.json
alone. Only its shape is read, and of a hub's model nothing but config.json is downloaded."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from agq.artifact.plan import PackPlan
from agq.artifact.reader import Artifact, open_artifact
from agq.artifact.schema import ArtifactModel
from agq.errors import AgqError
from agq.gguf.files import is_gguf, stem
from agq.gguf.opening import open_source
from agq.hub import config_file
from agq.models import ModelSpec, spec_from_config
from agq.recipe.models import resolve_model

_SHAPES = Path(__file__).with_name("shapes.yaml")


@dataclass(frozen=True)
class Planned:
    """A model to plan for.

    Attributes:
        name: for people. names: by which tables of results may call it. spec: of the unquantized model.
        made: the packed file that it is, or that packing makes of a quantized folder or a GGUF file. artifact: the
            packed file where it is one. kind: what it is, in words.
    """

    name: str
    names: tuple[str, ...]
    spec: ModelSpec
    kind: str
    made: ArtifactModel | None = None
    artifact: Artifact | None = None


def read_model(model: str | os.PathLike[str]) -> Planned:
    """MODEL as every command means it, or the path of a config.json.

    Raises:
        AgqError: nothing has this name; a file of another kind; a model that agq does not compute.
    """
    text = os.fspath(model)
    path = Path(text).expanduser()
    if path.suffix == ".json" and path.is_file():
        return _of_config(path, path.resolve().parent.name)
    found, recipe = resolve_model(text)
    path = Path(found)
    if not path.exists():
        if recipe is not None and path.is_absolute():
            raise AgqError(
                f"recipe `{text}`: its model `{found}` is not there",
                hint="it lies in agq's source tree: clone the repository",
            )
        name = found.partition("/")[2]
        shapes = _shapes()
        if found in shapes:
            return Planned(name, (name, text), spec_from_config(shapes[found], found), "a known shape")
        return _of_config(config_file(found), name, text)
    if path.is_dir():
        return _of_folder(path)
    return _of_gguf(path) if is_gguf(path) else _of_artifact(path)


def _of_config(path: Path, name: str, *more: str) -> Planned:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AgqError(f"`{path}` cannot be read: {error}", hint="name a config.json of a model") from None
    return Planned(name, (name, *more), spec_from_config(values, f"`{path}`"), "a shape")


def _of_folder(path: Path) -> Planned:
    checkpoint = open_source(path)
    name = path.resolve().name
    quantized = checkpoint.quantization is not None and bool(checkpoint.quantization.modules())
    made = PackPlan(checkpoint, None, None, None, None, checkpoint.statics.attention).model if quantized else None
    return Planned(name, (name, _without_scheme(name)), _plain(checkpoint.spec), "a folder", made)


def _of_gguf(path: Path) -> Planned:
    checkpoint = open_source(path)
    made = PackPlan(checkpoint, None, None, None, None, checkpoint.statics.attention).model
    name = stem(path)
    return Planned(name, (name,), _plain(checkpoint.spec), "a GGUF file", made)


def _of_artifact(path: Path) -> Planned:
    artifact = open_artifact(path)
    name = path.name.removesuffix(".safetensors").removesuffix(".agq")
    source = artifact.source.get("name", "") if isinstance(artifact.source, dict) else ""
    names = (name, _without_scheme(name), source, _without_scheme(source))
    return Planned(name, names, _plain(artifact.spec), "a packed file", artifact.info, artifact)


def _plain(spec: ModelSpec) -> ModelSpec:
    """Of the model before quantizing."""
    return replace(spec, head_matrix=False)


def _without_scheme(name: str) -> str:
    """ "llama-demo" of "llama-demo-W4A8": as `quantize` names its folders."""
    from agq.recipe.schemes import Scheme

    left, _, right = name.rpartition("-")
    try:
        Scheme.parse(right)
    except AgqError:
        return name
    return left or name


@cache
def _shapes() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(_SHAPES.read_text(encoding="utf-8"))
    return found
