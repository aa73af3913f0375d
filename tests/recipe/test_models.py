"""One meaning of MODEL, and the nearest names where nothing has the name."""

from __future__ import annotations

from pathlib import Path

import pytest

from agq.errors import AgqError
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
    assert resolve_model("owner/quite-another") == ("owner/quite-another", None)
    with pytest.raises(AgqError, match=r"no such file or folder: `quite\.gguf`"):
        resolve_model("quite.gguf")
