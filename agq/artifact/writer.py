"""Writing a packed artifact: tensors are streamed in pieces, hashes and header are settled at the end."""

import hashlib
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from agq.artifact.header import FORMAT, canonical, header_bytes, header_hash
from agq.artifact.layout import LAYOUT
from agq.artifact.schema import ArtifactModel
from agq.files import atomic_writer, ensure_free_space

_NO_HASH = "0" * 64


class _Header:
    """The header of a file; position: bytes of the tensors behind it."""

    def __init__(self, model: ArtifactModel, recipe: Any, source: dict[str, Any], created_by: str) -> None:
        self.sizes = model.tensors()
        self.tensors: dict[str, Any] = {}
        self.position = 0
        for name, size in self.sizes.items():
            end = self.position + size.stored
            self.tensors[name] = {"dtype": "U8", "shape": [size.stored], "data_offsets": [self.position, end]}
            self.position = end
        self.metadata = {
            "format": "agq",
            "agq.format": str(FORMAT),
            "agq.abi": str(model.abi),
            "agq.layout": LAYOUT,
            "agq.created_by": created_by,
            "agq.model": canonical(model.to_dict()),
            "agq.recipe": canonical(recipe),
            "agq.source": canonical(source),
        }

    def finished(self, hashes: dict[str, str], own: str) -> dict[str, Any]:
        """With the hashes of the tensors, and its own."""
        metadata = {**self.metadata, "agq.sha256": canonical(hashes), "agq.header_sha256": own}
        return {**self.tensors, "__metadata__": metadata}

    def draft(self) -> bytes:
        """As long as the final one: hashes have a fixed length."""
        return header_bytes(self.finished(dict.fromkeys(self.sizes, _NO_HASH), _NO_HASH))


def artifact_bytes(model: ArtifactModel, recipe: Any, source: dict[str, Any], created_by: str) -> int:
    """Size of the file that `write_artifact` makes."""
    header = _Header(model, recipe, source, created_by)
    return len(header.draft()) + header.position


def write_artifact(
    path: str | os.PathLike[str],
    model: ArtifactModel,
    tensors: dict[str, Callable[[], Iterable[np.ndarray]]],
    recipe: Any,
    source: dict[str, Any],
    created_by: str,
    progress: Callable[[int, int, str], None] | None = None,
) -> int:
    """Writes an artifact and returns its size in bytes.

    Args:
        tensors: name -> function that yields the tensor's bytes in pieces; called once each, in the model's order.
        recipe: JSON value of `agq.recipe`. source: JSON value of `agq.source`.
        progress: called with (bytes done, bytes in all, tensor name).

    Raises:
        AgqError: disk full and the like; nothing is left behind.
        ValueError: a tensor with another size than its description (a bug).
    """
    sizes = model.tensors()
    if set(sizes) != set(tensors):
        raise ValueError(f"tensors do not fit the description: {sorted(set(sizes) ^ set(tensors))[:5]}")
    header = _Header(model, recipe, source, created_by)
    position, draft = header.position, header.draft()
    total = len(draft) + position
    ensure_free_space(path, total)
    hashes = {}
    done = 0
    with atomic_writer(path) as file:
        file.write(draft)
        for name, size in sizes.items():
            digest = hashlib.sha256()
            written = 0
            for piece in tensors[name]():
                view = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
                digest.update(view.data)
                file.write(view.data)
                written += view.nbytes
            if written != size.nbytes:
                raise ValueError(f"{name}: {written} bytes where its description needs {size.nbytes}")
            padding = bytes(size.stored - written)
            digest.update(padding)
            file.write(padding)
            hashes[name] = digest.hexdigest()
            done += size.stored
            if progress is not None:
                progress(done, position, name)
        final = header.finished(hashes, _NO_HASH)
        final["__metadata__"]["agq.header_sha256"] = header_hash(final)
        raw = header_bytes(final)
        if len(raw) != len(draft):
            raise ValueError("the header changed its size")
        file.seek(0)
        file.write(raw)
    return total
