"""A GGUF file's model as a Hugging Face folder of bfloat16 weights, as it is or moved off the file's grid.

    python benchmarks/gguf_folder.py model.gguf as-it-is
    python benchmarks/gguf_folder.py model.gguf twin --seed 2026

A file of 4-bit codes is a fair source of weights but for one thing: they lie on its grid, and a format with the same
grid keeps them exactly. So figures on it say little of formats alone. The *off-grid twin* is the model with uniform
noise of up to half a step of the grid on each such weight, drawn anew for each: its weights are as far from the grid as
those of the model that the file was made of. It is another model, a worse one, and needs a perplexity of its own to
compare with. `origin.json` in the folder says what was done.
"""

from __future__ import annotations

import argparse
import json
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import common  # noqa: F401 (finds the agq of this checkout)
import numpy as np
from gguf_floats import meaning, write_floats

from agq.checkpoint import open_checkpoint
from agq.files import atomic_directory, sha256_file
from agq.gguf.checkpoint import GgufCheckpoint
from agq.gguf.metadata import architecture
from agq.gguf.names import Names, row_orders
from agq.gguf.reader import GgufFile, Tensor
from agq.gguf.types import BLOCKS, GROUP
from agq.gguf.values import Metadata
from agq.safetensors.files import f32_to_bf16
from agq.safetensors.shards import Entry, write_shards

# Types of at most 5 bits whose codes are whole numbers, so that values lie one step apart.
COARSE = ("Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K")
SEED = 2026
ORIGIN = "origin.json"
_SHARD_BYTES = 4 << 30


def steps(tensor: Tensor) -> np.ndarray | None:
    """Distance of neighbouring values, float32 [rows, columns] in the file's order; None: the type is not coarse."""
    if tensor.type not in COARSE:
        return None
    row = BLOCKS[tensor.type]
    scale, _ = row.scales(np.ascontiguousarray(tensor.data).reshape(-1, row.bytes))
    return np.repeat(np.abs(scale).reshape(tensor.shape[0], -1), GROUP, axis=1)


def noise(tensor: Tensor, seed: int) -> np.ndarray | None:
    """What the twin adds to a tensor, float32 of its shape, uniform within half a step to both sides; None: nothing.

    The generator starts anew for each tensor, from the seed and the tensor's name: order and other tensors have no
    influence.
    """
    found = steps(tensor)
    if found is None:
        return None
    generator = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    return generator.uniform(-0.5, 0.5, found.shape).astype(np.float32) * found


class Source:
    """A GGUF file whose model becomes folders, and back.

    Raises:
        AgqError: not a GGUF file, or an architecture that agq does not compute.
    """

    def __init__(self, path: Path) -> None:
        self.file = GgufFile(path)
        self.checkpoint = GgufCheckpoint(path, floats=True)
        metadata = Metadata(self.file)
        self._architecture = architecture(metadata)
        self._names = Names(metadata.architecture, self.checkpoint.parts)
        self._orders = row_orders(self.checkpoint.parts, self._architecture)

    @cached_property
    def files(self) -> dict[str, str]:
        """Name -> hex SHA-256 of the file, or of all its parts."""
        return {path.name: sha256_file(path) for path in self.file.files}

    def stored(self, name: str) -> str:
        """The file's name of a tensor of the folder."""
        found = self._names.stored(name)
        assert found is not None, name  # the checkpoint has found all of its tensors by this table
        return found

    def _tensor(self, name: str) -> Tensor:
        return self.file.tensors[self.stored(name)]

    def _read(self, name: str, seed: int | None) -> np.ndarray:
        values = self.checkpoint.read(name)
        added = None if seed is None else noise(self._tensor(name), seed)
        if added is None:
            return values
        order = self._orders.get(name.rpartition(".")[0], slice(None))
        moved: np.ndarray = values + added[order]
        return moved

    def origin(self, seed: int | None) -> dict[str, Any]:
        """What origin.json says: the file and its SHA-256, how many tensors and weights of which types are moved."""
        coarse = [name for name in self.checkpoint.names() if self._tensor(name).type in COARSE]
        moved = coarse if seed is not None else []
        return {
            "source": self.files,
            "seed": seed,
            "moved": {
                "types": sorted({self._tensor(name).type for name in moved}),
                "tensors": len(moved),
                "weights": sum(int(np.prod(self.checkpoint.shape(name))) for name in moved),
            },
        }

    def write_folder(self, folder: Path, seed: int | None = None) -> None:
        """Writes the model as a new folder. seed: of the twin's noise; None: the model as it is."""
        with atomic_directory(folder) as work:
            for text in ("config.json", *self.checkpoint.texts()):
                (work / text).write_bytes(self.checkpoint.text(text) or b"")
            (work / ORIGIN).write_text(json.dumps(self.origin(seed), indent=2) + "\n")
            entries = [
                Entry(name, "BF16", self.checkpoint.shape(name), lambda name=name: f32_to_bf16(self._read(name, seed)))
                for name in self.checkpoint.names()
            ]
            write_shards(work, entries, _SHARD_BYTES)

    def write_gguf(self, folder: Path, target: Path) -> Path:
        """Writes a folder's weights as a GGUF file of float32, with the source's metadata: what llama.cpp quantizes."""
        checkpoint = open_checkpoint(folder)
        names = {self.stored(name): name for name in self.checkpoint.names()}

        def values(tensor: Tensor) -> np.ndarray:
            name = names.get(tensor.name)
            if name is None:  # factors of RoPE, which stand in the folder's config
                return meaning(tensor)
            found = checkpoint.read(name)
            if self._architecture.add_one and name.endswith("norm.weight"):
                found += np.float32(1)
            order = self._orders.get(name.rpartition(".")[0])
            if order is None:
                return found
            sorted_back = np.empty_like(found)
            sorted_back[order] = found
            return sorted_back

        return write_floats(self.checkpoint.path, target, values)


def main() -> None:
    """The command."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("model", type=Path, help="a GGUF file")
    found.add_argument("folder", type=Path, help="the folder to write")
    found.add_argument("--seed", type=int, help="write the off-grid twin, with noise of this seed")
    found.add_argument("--gguf", type=Path, help="write the folder's weights as a GGUF file of float32, too")
    args = found.parse_args()
    source = Source(args.model)
    source.write_folder(args.folder, args.seed)
    print(json.dumps(source.origin(args.seed), indent=2))
    if args.gguf is not None:
        source.write_gguf(args.folder, args.gguf)


if __name__ == "__main__":
    main()
