"""E4M3 bytes against torch.float8_e4m3fn."""

from __future__ import annotations

import numpy as np
import torch

from agq.safetensors.fp8 import decode_e4m3


def test_every_byte() -> None:
    codes = np.arange(256, dtype=np.uint8)
    values = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(decode_e4m3(codes), values)
    assert np.isfinite(values).sum() == 254 and np.nanmax(values) == 448
