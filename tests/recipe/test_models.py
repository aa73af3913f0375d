"""One meaning of MODEL, and the nearest names where nothing has the name."""

from __future__ import annotations

from pathlib import Path

import pytest

from agq.errors import AgqError
from agq.hub import find_model
from agq.recipe import resolve_model


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model folder, a packed file and a text, as the current one."""
    (tmp_path / "smol-W4A8").mkdir()
    (tmp_path / "smol-W4A8" / "config.json").write_text("{}")
    (tmp_path / "smol.agq.safetensors").write_bytes(b"")
    (tmp_path / "smol-W4A8.txt").write_text("no model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("smol-W4A9", ["smol-W4A8"]),
        ("./smol-W4A9", ["smol-W4A8"]),
        ("smol", ["smol.agq.safetensors"]),
        ("smal.agq.safetensors", ["smol.agq.safetensors"]),
        ("lama-7b", ["llama-7b"]),
    ],
)
def test_near_names(beside: Path, name: str, near: list[str]) -> None:
    with pytest.raises(AgqError) as caught:
        resolve_model(name)
    hint = str(caught.value.hint)
    assert hint.startswith("did you mean `") and all(f"`{item}`" in hint for item in near)
    assert "txt" not in hint and len(hint) < 300
    for item in near:
        resolve_model(item)  # what is suggested exists


def test_nothing_near(beside: Path) -> None:
    with pytest.raises(AgqError, match="neither a recipe nor a local file or folder nor a hub id") as caught:
        resolve_model("quite_another")
    assert "recipes: " in str(caught.value.hint)
    with pytest.raises(AgqError) as caught:
        resolve_model("smollm2-135m")  # no `llama-2-13b`
    assert "did you mean" not in str(caught.value.hint) and "hub id (owner/name)" in str(caught.value.hint)
    assert resolve_model("owner/quite-another") == ("owner/quite-another", None)
    with pytest.raises(AgqError, match=r"no such file or folder: `quite\.gguf`"):
        resolve_model("quite.gguf")


@pytest.mark.parametrize(
    ("address", "model"),
    [
        ("https://huggingface.co/owner/a.name-1", "owner/a.name-1"),
        ("http://www.huggingface.co/owner/name/", "owner/name"),
        ("hf.co/owner/name", "owner/name"),
        ("https://huggingface.co/owner/name/tree/v1.0", "owner/name@v1.0"),
        ("https://huggingface.co/owner/name?library=x#top", "owner/name"),
    ],
)
def test_the_address_of_a_model(beside: Path, address: str, model: str) -> None:
    assert resolve_model(address) == (model, None)


@pytest.mark.parametrize(
    "address", ["https://huggingface.co/owner/name/resolve/main/x.gguf", "https://example.org/owner/name", "http://a"]
)
def test_other_addresses(beside: Path, address: str) -> None:
    with pytest.raises(AgqError, match="is no model of the Hugging Face hub") as caught:
        resolve_model(address)
    assert "download it" in str(caught.value.hint)


def test_a_folder_of_that_name_goes_first(beside: Path) -> None:
    (beside / "hf.co" / "owner" / "name").mkdir(parents=True)
    with pytest.raises(AgqError, match=r"folder `hf\.co/owner/name` has no config\.json"):
        resolve_model("hf.co/owner/name")


def test_an_empty_name(beside: Path) -> None:
    """Not the current folder, though it is a model: `agq run "$MODEL"` without the variable."""
    (beside / "config.json").write_text("{}")
    for find in (resolve_model, find_model):
        with pytest.raises(AgqError, match="MODEL is empty"):
            find("")
    assert resolve_model(".") == (".", None)


def test_a_link_to_nothing(beside: Path) -> None:
    (beside / "link.gguf").symlink_to("gone")
    with pytest.raises(AgqError, match=r"`link\.gguf` is a link to `gone`, which is not there"):
        resolve_model("link.gguf")
