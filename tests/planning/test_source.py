"""What MODEL may be for a plan, and what is read of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agq.errors import AgqError, UsageError
from agq.planning.source import read_model
from agq.planning.use_cases import USE_CASES, UseCase, use_case
from agq.recipe.files import find_recipe, recipe_names


@pytest.mark.parametrize("name", [name for name in recipe_names() if "/" in (find_recipe(name).model or "")])
def test_every_named_model_has_a_shape(name: str) -> None:
    """Without a network: a recipe's name is enough."""
    recipe = find_recipe(name)
    assert recipe is not None and recipe.model is not None
    if Path(recipe.model).is_absolute():
        return
    assert read_model(name).spec == read_model(recipe.model).spec


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llama-7b", 6.74), ("llama-65b", 65.3), ("llama-3.2-1b", 1.24), ("tinyllama-1.1b", 1.10), ("opt-350m", 0.331),
     ("opt-6.7b", 6.66), ("bloom-560m", 0.559), ("bloom-7b1", 7.07)],
)  # fmt: skip
def test_shapes_have_the_published_parameters(name: str, billions: float) -> None:
    from agq.artifact.pack import parameter_count
    from agq.planning.sizes import packed

    assert parameter_count(packed(read_model(name).spec, None)) == pytest.approx(billions * 1e9, rel=0.005)


def test_forms_of_one_model(demo_model: Path, demo_quantized: Path, demo_artifact: Path, tmp_path: Path) -> None:
    folder, quantized, file = (read_model(path) for path in (demo_model, demo_quantized, demo_artifact))
    config = read_model(demo_model / "config.json")
    assert folder.spec == config.spec
    assert folder.names == ("llama-demo", "llama-demo") and config.name == "llama-demo"
    assert (folder.made, config.made) == (None, None)
    assert quantized.made is not None and file.made is not None and file.artifact is not None
    assert quantized.made.tensors() == file.made.tensors()
    assert "llama-demo" in quantized.names and "llama-demo" in file.names
    shutil.copy(demo_model / "config.json", tmp_path)
    assert read_model(tmp_path / "config.json").name == tmp_path.name


def test_what_is_no_model(tmp_path: Path, demo_text: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "cut.json").write_text("{")
    (tmp_path / "clip.json").write_text(json.dumps({"model_type": "clip"}))
    for name, words in (("list.json", "no"), ("cut.json", "cannot be read"), ("clip.json", "`clip` is not supported")):
        with pytest.raises(AgqError, match=words if words != "no" else "is not a JSON object"):
            read_model(tmp_path / name)
    with pytest.raises(AgqError, match="no such file"):
        read_model("./absent")
    with pytest.raises(AgqError, match="hub model `nobody/nothing`"):
        read_model("nobody/nothing")


def test_use_cases() -> None:
    assert [(row.prompt, row.answer) for row in USE_CASES.values()] == [
        (256, 1024), (768, 128), (1024, 1024), (1024, 128), (256, 128), (512, 256), (4096, 512)
    ]  # fmt: skip
    assert use_case(None) == USE_CASES["chat"] and USE_CASES["chat"].tokens == 768
    assert use_case("rag") == UseCase("rag", 1024, 128)
    assert use_case(None, 10, 20) == UseCase("", 10, 20)
    assert use_case("rag", answer=5) == UseCase("", 1024, 5)
    with pytest.raises(UsageError, match="unknown use case `chats`") as caught:
        use_case("chats")
    assert caught.value.hint == "did you mean `chat`?"
    with pytest.raises(UsageError, match="says how long"):
        use_case("rag", 1, 2)
