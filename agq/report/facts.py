"""What a quantized folder or a packed file says of itself, without computing anything."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from agq.artifact import open_artifact
from agq.artifact.effective import effective_bits as packed_bits
from agq.artifact.reader import Artifact
from agq.artifact.schema import DOCUMENTS
from agq.checkpoint import Checkpoint, open_checkpoint
from agq.checkpoint.effective import effective_bits as folder_bits
from agq.errors import AgqError
from agq.formats.effective import ActivationBits
from agq.inspect.describe import describe_artifact, describe_folder
from agq.models import ModelSpec
from agq.recipe import Scheme
from agq.recipe.pruning import PruningOptions
from agq.version import __version__


class StoredTensor(NamedTuple):
    """name, type, shape as the file has them; nbytes: what it takes there."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Subject:
    """The model that a report is about.

    Attributes:
        name: for people. packed: a packed file. values: what `agq info` prints as JSON. record: how it was made:
            agq.json, or what a packed file keeps of it; {} where nothing is known.
        checkpoint: of a folder; None of a packed file, whose linears the torch reference does not read.
    """

    path: Path
    name: str
    packed: bool
    spec: ModelSpec
    values: dict[str, Any]
    record: dict[str, Any]
    bits: ActivationBits | None
    tensors: list[StoredTensor]
    checkpoint: Checkpoint | None = None

    @property
    def layers(self) -> list[dict[str, Any]]:
        """The solver's report of each linear; [] where there is none."""
        found = (self.record.get("report") or {}).get("layers")
        return found if isinstance(found, list) else []

    @property
    def tuning(self) -> dict[str, Any] | None:
        """What tuning reported."""
        found = (self.record.get("report") or {}).get("tune")
        return found if isinstance(found, dict) else None

    @property
    def pruning(self) -> PruningOptions | None:
        """Token pruning of the recipe; None where nothing is pruned."""
        options = PruningOptions.of_record(self.record)
        return options if options is not None and options.any else None

    @property
    def scheme(self) -> str:
        """ "W4A4", as the recipe has it; "" where it is not known."""
        values = self.record.get("scheme")
        return Scheme.from_dict(values).name if isinstance(values, dict) else ""


def open_subject(path: Path) -> Subject:
    """Opens a quantized folder or a packed file. AgqError for anything else, an unquantized model among it."""
    if path.is_dir():
        checkpoint = open_checkpoint(path)
        values = describe_folder(checkpoint)
        if values["form"] != "quantized":
            raise AgqError(
                f"`{path}` is not quantized: there is nothing to report", hint="name a folder that `agq quantize` wrote"
            )
        return Subject(
            path,
            path.resolve().name,
            False,
            checkpoint.spec,
            values,
            checkpoint.agq,
            folder_bits(checkpoint),
            list(_folder_tensors(checkpoint)),
            checkpoint,
        )
    artifact = open_artifact(path)
    record = artifact.recipe if isinstance(artifact.recipe, dict) else {}
    values = describe_artifact(artifact)
    return Subject(
        path,
        path.name.removesuffix(".safetensors").removesuffix(".agq"),
        True,
        artifact.spec,
        values,
        record,
        packed_bits(artifact),
        list(_packed_tensors(artifact)),
    )


def _folder_tensors(checkpoint: Checkpoint) -> Iterator[StoredTensor]:
    for name in checkpoint.names():
        dtype, values = checkpoint.read_raw(name)
        yield StoredTensor(name, dtype.lower(), tuple(values.shape), values.nbytes)


def _packed_tensors(artifact: Artifact) -> Iterator[StoredTensor]:
    for name in artifact.names():
        size = artifact.describe(name)
        if name not in DOCUMENTS:
            yield StoredTensor(name, size.dtype, size.shape, size.stored)


def versions() -> dict[str, str]:
    """Of what made the page."""
    found = {"agq": __version__, "Python": platform.python_version()}
    for package in ("torch", "numpy", "transformers"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
