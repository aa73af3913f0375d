"""Files that earlier versions wrote: each still loads and gives the numbers that its own version computed; a quantized
folder still packs to the same bytes. README.md says how they were made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agq.artifact import open_artifact
from agq.artifact.header import ABI, OLDEST_ABI
from agq.artifact.pack import pack
from agq.native.library import libraries
from tests.golden.make_golden import computed, packed_hash
from tests.support import clean_environment

HERE = Path(__file__).parent
EXPECTED = {folder.name: json.loads((folder / "expected.json").read_text()) for folder in sorted(HERE.glob("abi*"))}
FILES = [(folder, name) for folder, values in EXPECTED.items() for name in values["artifacts"]]
LEVELS = [item.isa for item in libraries() if item.usable]
CHANGED = json.loads((HERE / "changed_arithmetic.json").read_text())["files"]
FOLDERS = json.loads((HERE / "folders" / "expected.json").read_text())["packed_hash"]


def path_of(folder: str, name: str) -> Path:
    return HERE / folder / f"{name}.agq.safetensors"


def test_every_readable_abi_has_files() -> None:
    assert sorted(values["abi"] for values in EXPECTED.values()) == list(range(OLDEST_ABI, ABI + 1))
    assert LEVELS, "no compiled kernels: make kernels"


@pytest.mark.parametrize(("folder", "name"), FILES)
def test_it_is_the_file_that_was_written(folder: str, name: str) -> None:
    """And says so itself: the ABI in its header is the folder's, and `agq verify` finds every byte as it was."""
    path = path_of(folder, name)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == EXPECTED[folder]["artifacts"][name]["sha256"]
    assert int(open_artifact(path).metadata["agq.abi"]) == EXPECTED[folder]["abi"]
    command = [sys.executable, "-m", "agq", "verify", str(path), "--json"]
    result = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
    assert (result.returncode, json.loads(result.stdout)["problems"]) == (0, []), result.stderr


@pytest.mark.parametrize(("folder", "name"), FILES)
def test_the_same_numbers(folder: str, name: str) -> None:
    """Scalar kernels: every bit of the logits, and the tokens, are those of the version that wrote the file, or of the
    commit that changed the order of its arithmetic.
    """
    expected = EXPECTED[folder]["artifacts"][name] | CHANGED.get(f"{folder}/{name}", {})
    found = computed(path_of(folder, name), "scalar")
    assert {key: expected[key] for key in found} == found


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize(("folder", "name"), FILES)
def test_the_same_tokens_on_every_level(folder: str, name: str, isa: str) -> None:
    assert computed(path_of(folder, name), isa)["tokens"] == EXPECTED[folder]["artifacts"][name]["tokens"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_packs_to_the_same_bytes(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(HERE / "folders" / name, tmp_path / name)
    pack(folder, tmp_path / "packed")
    assert packed_hash(tmp_path / "packed") == FOLDERS[name]
