"""Where the hidden states of a run lie: on the device, in memory, or in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agq.files import ensure_free_space


class FileTensors:
    """Allocates the hidden states: on the device if they take less than a quarter of its free memory, else in memory,
    or in files of the work folder where memory is short."""

    def __init__(self, folder: Path, in_memory: bool, device: torch.device) -> None:
        self.folder = folder
        self.in_memory = in_memory
        self.device = device
        self.count = 0

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        if self.device.type == "cuda" and 4 * int(np.prod(shape)) < torch.cuda.mem_get_info(self.device)[0] // 4:
            return torch.empty(shape, device=self.device)
        if self.in_memory:
            return torch.empty(shape)
        self.count += 1
        path = self.folder / f"hidden-{self.count}.tmp"
        ensure_free_space(path, 4 * int(np.prod(shape)))
        return torch.from_numpy(np.memmap(path, dtype=np.float32, mode="w+", shape=shape))

    def remove(self) -> None:
        for path in self.folder.glob("hidden-*.tmp"):
            path.unlink(missing_ok=True)
