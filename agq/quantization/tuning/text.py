"""The text of tuning: what is trained on, and what the result is judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from agq.models import ModelSpec
from agq.recipe import CalibrationSpec, TuneOptions

if TYPE_CHECKING:
    from torch import Tensor

# Windows on which the result is judged.
JUDGED = 4
# Most tokens of a window that is trained on.
_PIECE = 512
# What the float model predicts for the windows that are trained on takes at most so many bytes: windows come again
# then, in another order.
_STATES = 4 << 30
# Tokens that make a passage: two windows that share one overlap.
_PASSAGE = 32


def training_length(spec: ModelSpec, length: int) -> int:
    """Tokens of a window that is trained on, where calibration windows have `length`. More steps of fewer tokens train
    better, but learned positions have to be met to be served."""
    return length if spec.position == "learned" else min(length, _PIECE)


def window_count(spec: ModelSpec, options: TuneOptions, length: int) -> int:
    """Windows of `length` tokens that are trained on."""
    return min(options.steps * options.batch, max(512, _STATES // (4 * length * spec.hidden)))


def block_windows(options: TuneOptions, calibration: CalibrationSpec, length: int) -> int:
    """The same of tuning block by block: no more tokens than the solver has, whose hidden states take as much."""
    return max(1, min(options.steps * options.batch, calibration.samples * calibration.seq_len // length))


def apart(windows: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Those of `windows` (tokens, int64 [count, n]) that share no passage of text with `judged` ([count, m])."""
    if windows.shape[1] < 2 * _PASSAGE:
        return windows

    def passages(rows: np.ndarray, stride: int) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(rows, _PASSAGE, axis=1)[:, ::stride]

    known = {passage.tobytes() for row in passages(judged, 1) for passage in row}
    shared = [any(passage.tobytes() in known for passage in row) for row in passages(windows, _PASSAGE)]
    return windows[~np.array(shared, dtype=bool)]


class TuningText:
    """windows: of the calibration, tokens int64 [count, n]; draw(count, length): so many windows of other text, int64
    [count, length]; None: there is no other text."""

    def __init__(self, windows: Tensor, draw: Callable[[int, int], np.ndarray] | None, length: int) -> None:
        self._windows, self._draw, self.length = windows, draw, length
        self.judged = windows[:JUDGED]

    def trained(self, count: int) -> Tensor:
        """int64 [at most count, length]. Trained on is text that the solver has not seen, on which its error is what it
        will be; a statistics file has no more text than its windows."""
        import torch

        if self._draw is not None:
            drawn = self._draw(count, self.length)
        else:
            pieces = self._windows.shape[1] // self.length
            drawn = self._windows[:, : pieces * self.length].reshape(-1, self.length).numpy()
        found = apart(drawn, self.judged.numpy())
        # Of a short text all but what is judged would be too little to learn from.
        return torch.from_numpy(found if 4 * len(found) >= min(count, len(drawn)) else drawn)
