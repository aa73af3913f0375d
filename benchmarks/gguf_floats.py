"""A GGUF file's twin in F32: the same model, with every tensor stored as the numbers that its codes mean.

    python benchmarks/gguf_floats.py model.gguf twin.gguf

llama.cpp quantizes the inputs of a product with a quantized matrix, and leaves them in floats where the matrix is F32.
So a program that keeps codes exactly and computes in floats gives the logits that llama.cpp gives on the twin.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import common  # noqa: F401 (finds the agq of this checkout)
import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize

from agq.gguf.reader import GgufFile, Tensor


def meaning(tensor: Tensor) -> np.ndarray:
    """The numbers that a tensor's codes mean, of its shape."""
    return dequantize(tensor.data, tensor.kind)


def write_floats(source: Path, target: Path, values: Callable[[Tensor], np.ndarray] = meaning) -> Path:
    """Writes the twin of a GGUF file, or of all parts of a split one. values: of each tensor, of its shape, its rows in
    the file's order."""
    file = GgufFile(source)
    writer = GGUFWriter(target, file.get("general.architecture"))
    for key, field in GGUFReader(file.files[0]).fields.items():
        if key.startswith(("GGUF.", "split.")) or key in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], inner)
    writer.add_file_type(LlamaFileType.ALL_F32)
    for name, tensor in file.tensors.items():
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), 4 * int(np.prod(tensor.shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in file.tensors.values():
        writer.write_tensor_data(np.ascontiguousarray(values(tensor), np.float32))
    writer.close()
    return target


def main() -> None:
    """The command."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("model", type=Path, help="a GGUF file")
    found.add_argument("twin", type=Path, help="the file to write")
    args = found.parse_args()
    write_floats(args.model, args.twin)


if __name__ == "__main__":
    main()
