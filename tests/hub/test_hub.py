"""Models from the hub and to it, against a stand-in on this machine (server.py). Each case is a process of its own: the
hub's library reads its settings once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.server import TOKEN, Hub, serving
from tests.support import REPOSITORY

MODEL = "house/model"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as found:
        found.models[MODEL] = {
            "main": {"config.json": b"{}", "model.safetensors": b"0" * 1000, "pytorch_model.bin": b"no"},
            "old": {"config.json": b'{"old": 1}', "model.safetensors": b"1" * 1000},
        }
        yield found


def python(hub: Hub, home: Path, program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs lines of Python that know `local_folder` and `push_folder`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "AGQ_"))}
    env |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(REPOSITORY)}
    start = "from agq.hub import *; from agq.hub import check_push, push_folder; from pathlib import Path\n"
    return subprocess.run(
        [sys.executable, "-c", start + program], env=env | settings, capture_output=True, text=True, timeout=60
    )


def folder_of(result: subprocess.CompletedProcess[str]) -> Path:
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


@pytest.mark.slow
def test_revision_home_and_offline(hub: Hub, tmp_path: Path) -> None:
    """A download lies in HF_HOME, has only what a model needs, and serves offline."""
    folder = folder_of(python(hub, tmp_path, f"print(local_folder('{MODEL}'))"))
    assert tmp_path in folder.parents
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    old = folder_of(python(hub, tmp_path, f"print(local_folder('{MODEL}@old'))"))
    assert (old / "config.json").read_bytes() == b'{"old": 1}'
    asked = len(hub.requests)
    again = folder_of(python(hub, tmp_path, f"print(local_folder('{MODEL}@old'))", HF_HUB_OFFLINE="1"))
    assert again == old and len(hub.requests) == asked
    none = python(hub, tmp_path, f"local_folder('{MODEL}@none')")
    assert f"hub model `{MODEL}` has no revision `none`" in none.stderr


@pytest.mark.slow
def test_a_config_alone(hub: Hub, tmp_path: Path) -> None:
    """A plan downloads no weights, and a model that is wanted afterwards gets its own."""
    line = f"from agq.hub import config_file; print(config_file('{MODEL}@old'))"
    config = folder_of(python(hub, tmp_path, line))
    assert config.read_bytes() == b'{"old": 1}' and [path.name for path in config.parent.iterdir()] == ["config.json"]
    assert not any("safetensors" in request for request in map(str, hub.requests))
    folder = folder_of(python(hub, tmp_path, f"print(local_folder('{MODEL}@old'))"))
    assert (folder / "model.safetensors").is_file()
    hub.models[MODEL]["bare"] = {"README.md": b"none"}
    none = python(hub, tmp_path, f"from agq.hub import config_file; config_file('{MODEL}@bare')")
    assert f"hub model `{MODEL}@bare` has no config.json" in none.stderr


@pytest.mark.slow
def test_a_broken_download_goes_on(hub: Hub, tmp_path: Path) -> None:
    weights = bytes(24_000_000)  # more than two of the parts that the hub's library writes to disk
    hub.models[MODEL]["main"]["model.safetensors"] = weights
    hub.broken.add("model.safetensors")
    folder = folder_of(python(hub, tmp_path, f"print(local_folder('{MODEL}'))"))
    assert (folder / "model.safetensors").read_bytes() == weights
    assert len(hub.ranges) == 1 and hub.ranges[0].startswith("model.safetensors bytes=1")


@pytest.mark.slow
def test_push(hub: Hub, tmp_path: Path) -> None:
    """All files of the folder in one commit, the weights as a large file; the model is made."""
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(b"2" * 5000)
    line = f"print(push_folder(Path('{folder}'), 'house/made', 'By agq'))"
    result = python(hub, tmp_path, line, HF_TOKEN=TOKEN)
    assert result.returncode == 0 and result.stdout.strip() == f"{hub.address}/house/made", result.stderr
    assert hub.models["house/made"]["main"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.messages == ["By agq"]
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    assert python(hub, tmp_path, line, HF_TOKEN=TOKEN).returncode == 0
    assert "model.safetensors" not in hub.models["house/made"]["main"]  # loaders would take it first
    assert any(request.startswith("PUT /blobs/") for request in hub.requests)
    refused = python(hub, tmp_path, line, HF_TOKEN="hf_wrong")
    assert "AgqError: hub model `house/made` cannot be written: " in refused.stderr


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("made", {"HF_TOKEN": TOKEN}, "`made` is not the name of a hub model"),
        ("a/b/c", {"HF_TOKEN": TOKEN}, "`a/b/c` is not the name of a hub model"),
        ("house/made", {}, "pushing to the hub needs a token"),
        ("house/made", {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}, "nothing is pushed while HF_HUB_OFFLINE is set"),
    ],
)
def test_what_cannot_be_pushed(hub: Hub, tmp_path: Path, name: str, settings: dict[str, str], words: str) -> None:
    assert words in python(hub, tmp_path, f"check_push('{name}')", **settings).stderr
    assert hub.requests == []


def test_a_hub_out_of_reach(hub: Hub, tmp_path: Path) -> None:
    line = f"print(push_folder(Path('{tmp_path}'), 'house/made', 'By agq'))"
    result = python(hub, tmp_path, line, HF_TOKEN=TOKEN, HF_ENDPOINT="http://127.0.0.1:9")
    assert "AgqError: hub model `house/made` cannot be reached: " in result.stderr


def test_a_model_is_not_replaced_by_itself(hub: Hub, tmp_path: Path) -> None:
    line = f"from agq.quantization.plan import *; plan('{MODEL}', changes=None, run=RunOptions(push='{MODEL}'))"
    result = python(hub, tmp_path, line, HF_TOKEN=TOKEN)
    assert f"`{MODEL}` is the model itself: its files would be replaced" in result.stderr
    assert hub.requests == []


@pytest.mark.slow
def test_quantize_and_push(hub: Hub, tmp_path: Path, short_model: Path) -> None:
    """The folder comes with a card that says what was done, on what, how far it is from the original, and how to run
    it."""
    text = tmp_path / "text.txt"
    text.write_text("The river runs to the sea. " * 400)
    program = (
        "import agq\nfrom agq.quantization import publish\n"
        f"publish._DATA, publish._LENGTH, publish._WINDOWS = '{text}', 32, 4\n"
        f"agq.quantize('{short_model}', '{tmp_path}/made', scheme='W8A8', method='rtn', push='house/made')\n"
    )
    result = python(hub, tmp_path, program, HF_TOKEN=TOKEN)
    assert result.returncode == 0, result.stderr
    files = hub.models["house/made"]["main"]
    assert {"README.md", "config.json", "agq.json", "recipe.yaml", "model.safetensors"} <= set(files)
    card = files["README.md"].decode()
    assert files["recipe.yaml"].decode().rstrip() in card
    assert card.startswith("---\nlibrary_name: transformers\n") and "- W8A8\n" in card
    for words in (
        "- method: RTN",
        "calibration text: none",
        "scheme:\n  weights:",
        "| this model | ",
        "vllm serve",
        "weight, 8 activation bits, ",
    ):
        assert words in card
    assert "agq pack house/made -o made.agq.safetensors\nagq run made.agq.safetensors" in card
