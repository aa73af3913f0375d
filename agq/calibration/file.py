"""The statistics file that `agq calibrate` writes and `agq quantize` reads. Numpy only; layout in
statistics.py."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agq.checkpoint.finite import count_not_finite, refuse_not_finite
from agq.errors import AgqError
from agq.safetensors.files import SafetensorsFile, load_json

FORMAT = "agq-calibration-1"
# Rows of `M.percentiles`, of |x| over tokens, in percent.
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)
# Entries of `M.token_absmax`: quantiles over tokens of the largest |x| of a token.
TOKEN_QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0)


def tokens_sha256(tokens: np.ndarray) -> str:
    """Hex SHA-256 of token windows, as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(tokens, dtype="<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class StatisticsFile:
    """An opened statistics file.

    tokens: int64 [windows, n], the calibration windows; model_fingerprint: of the model they were gathered on;
    calibration: the record of the windows (source, SHA-256 of text and tokens, sizes, seed).
    """

    path: Path
    tokens: np.ndarray
    model_fingerprint: str
    calibration: dict[str, Any]
    _file: SafetensorsFile

    def has(self, name: str) -> bool:
        return name in self._file.tensors

    def read(self, name: str) -> np.ndarray:
        """A tensor as a new array. Raises AgqError when the file lacks it."""
        if not self.has(name):
            raise AgqError(f"`{self.path}` has no statistics `{name}`", hint="make the file again with `agq calibrate`")
        return np.array(self._file.raw(name))

    def second_moment(self, module: str) -> np.ndarray:
        """Mean square of a module's input channels, float32 [channels]; module: the first of those that read the
        input."""
        return self.read(f"{module}.second_moment")


def open_statistics(path: str | Path) -> StatisticsFile:
    """Opens and checks a statistics file. Raises AgqError for anything else."""
    path = Path(path)
    file = SafetensorsFile(path)
    metadata = file.header.metadata
    if metadata.get("format") != FORMAT or "tokens" not in file.tensors or file.tensors["tokens"].dtype != "I32":
        raise AgqError(f"`{path}` is not a statistics file of `agq calibrate`", hint=f"expected format `{FORMAT}`")
    tokens = np.array(file.raw("tokens"), dtype=np.int64)
    if tokens.ndim != 2 or not tokens.size:
        raise AgqError(f"`{path}` holds no calibration windows")
    calibration = load_json(metadata.get("calibration", "{}").encode(), f"the metadata of `{path}`")
    if tokens_sha256(tokens) != calibration.get("tokens_sha256"):
        raise AgqError(
            f"`{path}`: the calibration windows do not have the SHA-256 that the file names", hint="the file is damaged"
        )
    bad = {
        name: (count_not_finite(info.dtype, file.raw(name)), file.raw(name).size) for name, info in file.tensors.items()
    }
    refuse_not_finite(path, bad, "make the file again with `agq calibrate`")
    return StatisticsFile(path, tokens, metadata.get("model_fingerprint", ""), calibration, file)


def check_model(statistics: StatisticsFile, fingerprint: str, model: str) -> None:
    """Raises AgqError unless the statistics were gathered on the model of `fingerprint`."""
    if statistics.model_fingerprint != fingerprint:
        raise AgqError(
            f"`{statistics.path}` was made for another model than `{model}` (fingerprint "
            f"{statistics.model_fingerprint[:12]}, the model has {fingerprint[:12]})",
            hint="run `agq calibrate` on this model",
        )
