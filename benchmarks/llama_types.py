"""llama.cpp's types of a model: files of each, with and without importance matrix, as its own tools make them.

An *importance matrix* says how large the inputs of each column of a matrix are on some text, so that the rounding of
columns that matter is more exact. llama.cpp's tool averages the squares of the inputs of the blocks' linears in windows
of 512 tokens; here `agq calibrate` does the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import LlamaFileType
from gguf_folder import Source
from llama_library import quantize

import agq
from agq.calibration.file import open_statistics

# By size.
TYPES = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "Q3_K_M")
FLOATS = "F32"
IMPORTANCE = "+i"  # behind a type's name
# Rounded the same with an importance matrix and without.
INDIFFERENT = ("Q8_0",)
# Of an importance matrix, as llama.cpp's tool counts: windows of 512 tokens.
WINDOW, TOKENS = 512, 20480


def file_type(name: str) -> int:
    """llama.cpp's number of a type. ValueError: there is none of this name."""
    for prefix in ("MOSTLY_", "ALL_"):
        if f"{prefix}{name}" in LlamaFileType.__members__:
            return int(LlamaFileType[f"{prefix}{name}"])
    raise ValueError(f"`{name}` is not a type of llama.cpp's files")


def importance(source: Source, folder: Path, text: str, work: Path) -> dict[str, np.ndarray]:
    """The importance matrix of a folder's model: tensor in the file -> mean square of its inputs, float32 [columns].

    text: as of `agq calibrate --data`. work: the statistics' file, which is kept for later calls.
    """
    if not work.exists():
        agq.calibrate(folder, work, data=text, samples=TOKENS // WINDOW, seq_len=WINDOW)
    statistics = open_statistics(work)
    found = {}
    for block in source.checkpoint.parts.blocks():
        for roles in block.groups:
            values = statistics.second_moment(block.linears[roles[0]].module)
            found.update({source.stored(block.linears[role].weight): values for role in roles})
    return found


@dataclass(frozen=True)
class Model:
    """A model whose types are made.

    Attributes:
        name: what its rows are called. folder: bfloat16. floats: its GGUF file of float32. importance: its matrix.
    """

    name: str
    folder: Path
    floats: Path
    importance: dict[str, np.ndarray]

    def quantized(self, library: Path, name: str, target: Path, threads: int) -> Path:
        """The file of a type ("Q4_K_M", "Q4_K_M +i", or "F32": the floats themselves)."""
        if name == FLOATS:
            return self.floats
        kind, _, with_importance = name.partition(" ")
        matrix = self.importance if with_importance else None
        quantize(library, self.floats, target, file_type(kind), matrix, threads)
        return target
