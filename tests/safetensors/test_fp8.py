"""E4M3 bytes against torch.float8_e4m3fn: every byte, every neighbourhood of a rounding boundary."""

from __future__ import annotations

import numpy as np
import torch

from agq.safetensors.fp8 import LARGEST, decode_e4m3, encode_e4m3


def test_every_byte() -> None:
    codes = np.arange(256, dtype=np.uint8)
    values = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(decode_e4m3(codes), values)
    finite = ~np.isnan(values)
    assert (encode_e4m3(values[finite]) == codes[finite]).all()  # both zeros among them
    assert finite.sum() == 254 and np.nanmax(values) == LARGEST
    assert np.isnan(decode_e4m3(encode_e4m3(values[~finite]))).all()


def test_rounding_at_its_boundaries() -> None:
    """The middle between two neighbours goes to the even one; one float32 beside it goes to the nearer one."""
    positive = decode_e4m3(np.arange(127, dtype=np.uint8))
    middles = (positive[1:] + positive[:-1]) / 2
    near = np.concatenate([middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.float32(1e9))])
    values = np.concatenate([near, -near]).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(encode_e4m3(values), expected)


def test_beyond_the_largest() -> None:
    values = np.array([449, 1e30, np.inf, -np.inf, 1e-30, -1e-30], np.float32)
    assert decode_e4m3(encode_e4m3(values)).tolist() == [448, 448, 448, -448, 0, 0]
