"""Run as a program by test_new_format.py: a weight format of 3 bits that is one more row, quantized, stored, read.

Arguments: a model's folder, the folder to write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from agq.formats import FITTED, INTEGERS, WEIGHTS, WeightFormat

ROW = WeightFormat("u3", 3, "AGQ_U3", integer=True, offset=4, lowest=True, group=FITTED, activations=(8, 16))
WEIGHTS[ROW.name] = ROW
INTEGERS[ROW.bits] = ROW


def main(model: str, output: str) -> None:
    """Quantizes with the scheme W3A8, reads the folder back and prints what was found as JSON."""
    from agq.artifact import layout
    from agq.artifact.linear_info import LinearInfo
    from agq.checkpoint import open_checkpoint, read_linear
    from agq.inspect.describe import describe_folder
    from agq.quantization.quantize import quantize
    from agq.recipe import SCHEMES

    report = quantize(model, output, scheme="W3A8", method="rtn", mse=False)
    checkpoint, original = open_checkpoint(output), open_checkpoint(model)
    module = checkpoint.parts.block(0).linears["down"].module
    stored = read_linear(checkpoint, module)
    error = stored.dequantize() - original.read(f"{module}.weight")
    info = LinearInfo(64, 96, ROW.name, "bf16", group=stored.group_size)
    print(
        json.dumps(
            {
                "schemes": SCHEMES,
                "bits_per_weight": report.bits_per_weight,
                "codes": [int(stored.codes.min()), int(stored.codes.max())],
                "error": float(np.abs(error).max() / stored.scale.max()),
                "words": describe_folder(checkpoint)["linears"][0]["weights"],
                "artifact": [info.words()[0], info.weight_bytes(), layout.weight_bytes(ROW, 64, 96)],
                "dtype": checkpoint.dtype(f"{module}.weight_packed"),
                "folder": str(Path(output).name),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
