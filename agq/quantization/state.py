"""The work folder of a quantization run: finished blocks on disk at once, and a state file that says which run they
belong to.

A killed run finds its finished blocks again if and only if model, recipe, calibration data and version are the same;
otherwise the error names the field that differs. Layout: `state.json` and `block-00000.safetensors`, ... (tensors under
the names that they will have in the output folder, the layers' reports in the metadata).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agq.errors import AgqError
from agq.files import atomic_write_text, atomic_writer
from agq.safetensors.files import SafetensorsFile
from agq.safetensors.shards import Entry, write_file

_BLOCK_FILE = "block-{:05d}.safetensors"
_TUNED_FILE = "tuned.safetensors"
_TUNED_BLOCK_FILE, _TUNED_BLOCK_FILES = "tuned-{:05d}.safetensors", "tuned-*.safetensors"

# Tensors of a block as they will be written: name -> (safetensors dtype, array; bits for BF16).
RawTensors = dict[str, tuple[str, np.ndarray]]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted names, so that a difference can be named."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat.update(flatten(item, f"{prefix}.{name}" if prefix else str(name)))
    return flat


class WorkFolder:
    """Finished blocks of one run. Made with `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path, key: Mapping[str, Any], resume: bool = True) -> WorkFolder:
        """Opens or makes the work folder `path` of the run that `key` (JSON) describes.

        resume False throws away what an earlier run left. Raises AgqError naming the differing fields when the folder
        belongs to another run.
        """
        state = path / "state.json"
        key = json.loads(json.dumps(key))
        if path.exists() and not resume:
            shutil.rmtree(path)
        if state.exists():
            cls.check(path, key)
        else:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise AgqError(
                    f"cannot make the work folder `{path}`: {error.strerror}",
                    hint="choose another output path: unfinished blocks stand beside it",
                ) from error
            atomic_write_text(state, json.dumps(key, indent=2, sort_keys=True) + "\n")
        return cls(path)

    @staticmethod
    def check(path: Path, key: Mapping[str, Any]) -> None:
        """AgqError where `path` is the work folder of another run than that of `key`, or its state cannot be read."""
        state = path / "state.json"
        if not state.exists():
            return
        try:
            found = json.loads(state.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AgqError(
                f"the state file `{state}` of an interrupted run cannot be read: {error}",
                hint="start afresh with `resume: false`",
            ) from error
        _check_same(flatten(found), flatten(json.loads(json.dumps(key))), path)

    def _file(self, index: int) -> Path:
        return self.path / _BLOCK_FILE.format(index)

    def finished(self) -> list[int]:
        """Indices of the finished blocks, ascending."""
        pattern = re.compile(r"block-(\d{5})\.safetensors")
        return sorted(int(match[1]) for item in self.path.iterdir() if (match := pattern.fullmatch(item.name)))

    def write_tuned(self, tensors: RawTensors, report: dict[str, Any]) -> None:
        """Stores tensors that replace those of the blocks, whole or not at all."""
        _store(self.path / _TUNED_FILE, tensors, {"report": json.dumps(report)})

    def write_tuned_block(self, index: int, tensors: RawTensors, report: dict[str, Any]) -> None:
        """Stores tensors that replace those of block `index`, whole or not at all."""
        _store(self.path / _TUNED_BLOCK_FILE.format(index), tensors, {"report": json.dumps(report)})

    def tuned_block(self, index: int) -> tuple[RawTensors, dict[str, Any]] | None:
        """What `write_tuned_block` stored; None before that."""
        path = self.path / _TUNED_BLOCK_FILE.format(index)
        if not path.exists():
            return None
        file = _open(path)
        return _raw(file), json.loads(file.header.metadata["report"])

    def finish_tuned_blocks(self, report: dict[str, Any], used: bool) -> None:
        """Tuning block by block is done; used: its blocks replace the solver's."""
        if not used:
            self.forget_tuned_blocks()
        self.write_tuned({}, report)

    def forget_tuned_blocks(self) -> None:
        """Removes what `write_tuned_block` stored."""
        for path in self._tuned_blocks():
            path.unlink()

    def _tuned_blocks(self) -> list[Path]:
        return sorted(self.path.glob(_TUNED_BLOCK_FILES))

    def tuned(self) -> tuple[dict[str, Entry], dict[str, Any]] | None:
        """What tuning stored, whole or block by block: tensors by name, and the report; None before that."""
        path = self.path / _TUNED_FILE
        if not path.exists():
            return None
        file = _open(path)
        entries = _entries(file)
        for block in self._tuned_blocks():
            entries.update(_entries(_open(block)))
        return entries, json.loads(file.header.metadata["report"])

    def write(self, index: int, tensors: RawTensors, reports: list[dict[str, Any]]) -> None:
        """Writes block `index`, whole or not at all."""
        _store(self._file(index), tensors, {"reports": json.dumps(reports)})

    def read(self, index: int) -> tuple[RawTensors, list[dict[str, Any]]]:
        """Tensors (views of a memory map) and reports of a finished block."""
        file = _open(self._file(index))
        return _raw(file), json.loads(file.header.metadata["reports"])

    def reports(self) -> list[dict[str, Any]]:
        """The layers' reports of all finished blocks."""
        return [report for index in self.finished() for report in self.read(index)[1]]

    def entries(self, index: int) -> dict[str, Entry]:
        """Tensors of a finished block, read only when they are written."""
        return _entries(_open(self._file(index)))

    def remove(self) -> None:
        """Deletes the folder, once the output is complete."""
        shutil.rmtree(self.path, ignore_errors=True)


def _open(path: Path) -> SafetensorsFile:
    """A file of an interrupted run. AgqError says what to do where it is damaged."""
    try:
        return SafetensorsFile(path)
    except AgqError as error:
        raise AgqError(
            f"what an interrupted run left cannot be used: {error.message}", hint="start afresh with `resume: false`"
        ) from error


def _store(path: Path, tensors: RawTensors, metadata: dict[str, str]) -> None:
    """Writes a file of tensors, whole or not at all."""
    entries = [Entry.of(name, dtype, array) for name, (dtype, array) in tensors.items()]
    with atomic_writer(path) as file:
        write_file(file, entries, metadata)


def _raw(file: SafetensorsFile) -> RawTensors:
    """Views of its memory map."""
    return {name: (info.dtype, file.raw(name)) for name, info in file.tensors.items()}


def _entries(file: SafetensorsFile) -> dict[str, Entry]:
    return {name: Entry(name, info.dtype, info.shape, partial(file.raw, name)) for name, info in file.tensors.items()}


def _check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if not names:
        return
    # Hashes and descriptions differ because a setting does: they are named only where nothing shorter is.
    short = [name for name in names if max(len(repr(values.get(name))) for values in (found, wanted)) <= 40] or names
    listed = "; ".join(f"`{name}` was {found.get(name)!r:.60}, is {wanted.get(name)!r:.60}" for name in short[:2])
    more = f" and {len(short) - 2} more" if len(short) > 2 else ""
    raise AgqError(
        f"an interrupted run of other settings left `{path}`: {listed}{more}",
        hint="repeat that run's settings to resume it, or start afresh with `resume: false`",
    )
