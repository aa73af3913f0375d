"""Values of GGUF tensors that are not finite. In blocks they come from the scales: codes are whole numbers."""

import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from agq.checkpoint.finite import count_not_finite
from agq.gguf.reader import Tensor
from agq.gguf.types import BLOCKS

# Of types without a row in BLOCKS, where in a block its float16 scales stand (ggml-common.h); others are dequantized.
_HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}
_CHUNK = 1 << 16  # blocks looked at together


def not_finite(tensor: Tensor) -> int:
    """How many values of a tensor are NaN or infinite. Types that cannot be read count none: reading them tells."""
    if tensor.type == "BF16":
        return count_not_finite("BF16", tensor.data.view("<u2"))
    if tensor.data.dtype.kind == "f":
        return int(np.count_nonzero(~np.isfinite(tensor.data)))
    columns, size = GGML_QUANT_SIZES[tensor.kind]
    blocks = tensor.data.reshape(-1, size)
    return sum(
        _of_blocks(tensor, np.ascontiguousarray(blocks[at : at + _CHUNK]), columns)
        for at in range(0, len(blocks), _CHUNK)
    )


def _of_blocks(tensor: Tensor, blocks: np.ndarray, columns: int) -> int:
    with np.errstate(all="ignore"):
        if halves := _HALVES.get(tensor.type):
            fields = np.concatenate([blocks[:, at : at + 2] for at in halves], axis=1)
            whole = np.isfinite(fields.view("<f2")).all(axis=1)
            return columns * int(np.count_nonzero(~whole))
        if row := BLOCKS.get(tensor.type):
            scale, minimum = row.scales(blocks)
            finite = np.isfinite(scale) if minimum is None else np.isfinite(scale) & np.isfinite(minimum)
            return columns // finite.shape[1] * int(np.count_nonzero(~finite))
        try:
            return int(np.count_nonzero(~np.isfinite(dequantize(blocks, tensor.kind))))
        except NotImplementedError:
            return 0
