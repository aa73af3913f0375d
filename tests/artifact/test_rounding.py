"""Packing with 4 bits by itself gives what `quantize` by round to nearest gives, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agq.artifact import open_artifact, rounding
from agq.artifact.pack import pack
from agq.artifact.rounding import group_codes, group_scales
from agq.errors import AgqError
from agq.formats import PER_ROW, WEIGHTS, PerGroup
from tests.checkpoint.folders import config, random_tensors, write_folder
from tests.support import REPOSITORY


@pytest.mark.parametrize("hidden", [64, 96, 48])  # 48: no group divides it
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_as_quantize_by_rtn(tmp_path: Path, hidden: int, dtype: str) -> None:
    from agq.quantization.quantize import quantize

    settings = config("llama", hidden_size=hidden, intermediate_size=3 * hidden)
    folder = write_folder(tmp_path / "m", settings, random_tensors(settings, dtype=dtype))
    quantize(folder, tmp_path / "q", method="rtn", scheme="W4A8")
    pack(tmp_path / "q", tmp_path / "q.agq.safetensors")
    pack(folder, tmp_path / "a.agq.safetensors", weights="int4")
    wanted, found = open_artifact(tmp_path / "q.agq.safetensors"), open_artifact(tmp_path / "a.agq.safetensors")
    assert found.linears == wanted.linears
    assert found.linears["blocks.0.down"].group == {64: PerGroup(64), 96: PerGroup(32), 48: PER_ROW}[hidden]
    for name in wanted.names():
        if name in wanted.info.documents:  # config.json says how the folder was quantized
            continue
        assert np.array_equal(found.tensor(name), wanted.tensor(name)), name


def test_without_the_library_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=(90, 128)).astype(np.float32)
    values[3], values[4, :64] = 0, 1e-30
    format = WEIGHTS["u4"]
    fast = group_scales(values, 64, format, stored="bf16")
    monkeypatch.setattr(rounding, "library", lambda: None)
    assert np.array_equal(group_scales(values, 64, format, stored="bf16"), fast)
    codes = group_codes(values, fast, format)
    assert codes.min() == -8 and codes.max() == 7 and not codes[3].any()
    assert np.abs(codes.reshape(90, 2, 64) * fast[:, :, None] - values.reshape(90, 2, 64)).mean() < 0.12


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    settings = config("llama")
    tensors = random_tensors(settings)
    tensors["model.layers.0.mlp.down_proj.weight"][1][7, 3] = 0x7FC0
    folder = write_folder(tmp_path / "m", settings, tensors)
    with pytest.raises(AgqError, match=r"values that are not finite in `model.layers.0.mlp.down_proj.weight`"):
        pack(folder, tmp_path / "a.safetensors", weights="int4")
    assert list(tmp_path.iterdir()) == [folder]


def test_no_torch(tmp_path: Path) -> None:
    settings = config("llama")
    folder = write_folder(tmp_path / "m", settings, random_tensors(settings))
    code = (
        "import sys; sys.modules['torch'] = None; from agq.artifact.pack import pack; "
        f"pack({str(folder)!r}, {str(tmp_path / 'a')!r}, weights='int4')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
    assert open_artifact(tmp_path / "a").recipe == {"weights": "int4", "method": "rtn"}


def test_scales_of_f16_weights_are_f16_values() -> None:
    """As quantize stores them beside f16 weights; small ones are subnormal there."""
    values = np.full((2, 32), 3e-6, np.float32)
    values[1] = 1e-9
    plain = group_scales(values, 32, WEIGHTS["u4"], stored="bf16")
    half = group_scales(values, 32, WEIGHTS["u4"], stored="f16")
    assert (half.astype(np.float16).astype(np.float32) == half).all() and half[1, 0] == 1
    assert not (plain.astype(np.float16).astype(np.float32) == plain).all()
