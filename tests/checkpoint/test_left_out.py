"""What a folder holds and nobody needs: stale copies, tensors of other models or of later types, further files. And
values that are not finite.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.safetensors.files import SafetensorsFile
from agq.safetensors.shards import Entry, write_file
from tests.checkpoint.folders import config, write_folder


def entries(path: Path) -> dict[str, Entry]:
    file = SafetensorsFile(path)
    return {name: Entry.of(name, info.dtype, np.array(file.raw(name))) for name, info in file.tensors.items()}


def rewrite(path: Path, found: dict[str, Entry]) -> None:
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        write_file(file, list(found.values()))


def test_the_index_decides_between_two_copies(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", config("llama"))
    found = entries(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    name = next(item for item in found if item.endswith("k_proj.weight"))
    stale = Entry.of(name, found[name].dtype, np.zeros_like(found[name].produce()))
    rewrite(folder / "a.safetensors", {key: found[key] for key in found if key != name} | {name: stale})
    rewrite(folder / "b.safetensors", {name: found[name]})
    table = {key: "b.safetensors" if key == name else "a.safetensors" for key in found}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    assert open_checkpoint(folder).read(name).any()


def test_unneeded_tensors_and_files_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "m", config("llama"))
    found = entries(folder / "model.safetensors")
    more = [Entry.of(f"model.layers.{index}.extra.weight", "F32", np.zeros(2, np.float32)) for index in range(40, 44)]
    rewrite(folder / "model.safetensors", found | {item.name: item for item in more})
    (folder / "pytorch_model.bin").write_bytes(b"x")
    open_checkpoint(folder)
    open_checkpoint(folder)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "extra.weight" in line] == lines[:1]
    assert [line for line in lines if "pytorch_model.bin" in line] == lines[1:]


def test_a_type_that_agq_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is left out where the model does not need it, and refused by name where it does."""
    folder = write_folder(tmp_path / "m", config("llama"))
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    extra = {"model.extra": {"dtype": "C64", "shape": [2], "data_offsets": [len(body), len(body) + 16]}}

    def write(header: dict, body: bytes) -> None:
        raw = json.dumps(header).encode()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + body)

    write(header | extra, body + bytes(16))
    open_checkpoint(folder)
    assert "model.extra" in capsys.readouterr().err
    header["model.norm.weight"]["dtype"] = "C64"
    write(header, body)
    with pytest.raises(AgqError, match=r"`model\.norm\.weight`: C64"):
        open_checkpoint(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    folder = write_folder(tmp_path / "m", config("llama"))
    open_checkpoint(folder).check_finite()
    found = entries(folder / "model.safetensors")
    wrong = np.ones(found["model.norm.weight"].shape, np.float32)
    wrong[-1] = value
    found["model.norm.weight"] = Entry.of("model.norm.weight", "F32", wrong)
    rewrite(folder / "model.safetensors", found)
    with pytest.raises(AgqError, match=r"not finite in `model\.norm\.weight`"):
        open_checkpoint(folder).check_finite()
