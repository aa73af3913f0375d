"""Linears from codes, scales and minima of other formats: what is stored, that the engine multiplies by exactly those
weights, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.artifact import layout, open_artifact
from agq.artifact.linear_info import LinearInfo
from agq.artifact.pack import pack
from agq.artifact.reader import Artifact
from agq.artifact.tables import array
from agq.artifact.writer import write_artifact
from agq.errors import AgqError
from agq.formats import PER_ROW, PerGroup, words
from agq.native.library import load_library
from agq.runtime import descriptor
from agq.runtime.engine import Engine
from agq.safetensors.files import bf16_to_f32, f32_to_bf16
from tests.artifact.coded import linear_tensors
from tests.checkpoint.folders import config, write_folder

G32 = PerGroup(32)
Weights = dict[str, np.ndarray]


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, low: float, high: float) -> np.ndarray:
    """float32, of values that `dtype` holds; half precision has subnormal ones among them."""
    values = rng.uniform(low, high, shape).astype(np.float32)
    if dtype == "f16":
        values[rng.random(shape) < 0.1] *= np.float32(1e-4)
        return values.astype(np.float16).astype(np.float32)
    return bf16_to_f32(f32_to_bf16(values)).reshape(shape) if dtype == "bf16" else values


def coded(rng: np.random.Generator, info: LinearInfo) -> tuple[Weights, np.ndarray]:
    """Random tensors of a linear, and the weights float32 [out, inputs] that they mean."""
    dtype = info.scale_dtype or "f32"
    low, high = (0, 15) if info.minimum else (-8, 7)
    if info.dtype == "i8":
        low, high = (0, 31) if info.minimum else (-127, 127)
    codes = rng.integers(low, high + 1, (info.out, info.inputs)).astype(np.int8)
    scale = numbers(rng, (info.out, info.groups), dtype, 0.001, 0.02)
    minimum = numbers(rng, (info.out, info.groups), dtype, -0.2, 0.1) if info.minimum else None
    size = info.inputs // info.groups
    weights = codes * np.repeat(scale, size, axis=1)
    if minimum is not None:
        weights += np.repeat(minimum, size, axis=1)
    return linear_tensors(info, codes, scale, minimum), weights


def rewritten(source: Path, target: Path, linears: dict[str, LinearInfo], tensors: Weights, **changes: Any) -> Artifact:
    """An artifact as `source`, but with these linears."""
    old = open_artifact(source)
    model = replace(old.info, linears=old.linears | linears, **changes)
    kept = {name: array(np.array(old.tensor(name))) for name in model.tensors() if old.has(name)}
    write_artifact(target, model, kept | {name: array(values) for name, values in tensors.items()}, None, {}, "test")
    return open_artifact(target)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed model of floats, its embedding tied to the head."""
    folder = tmp_path_factory.mktemp("coded")
    pack(write_folder(folder / "m", config("llama")), folder / "a", weights="f32", kv_bits=32)
    return folder / "a"


def both(plain: Path, folder: Path, **scheme: Any) -> tuple[Artifact, Artifact, dict[str, np.ndarray]]:
    """The model with all linears coded; the same with their weights as floats; the weights."""
    rng = np.random.default_rng(7)
    old = open_artifact(plain)
    infos, tensors, floats, dense, weights = {}, {}, {}, {}, {}
    for name, info in old.linears.items():
        infos[name] = LinearInfo(out=info.out, inputs=info.inputs, group=G32, **scheme)
        parts, weights[name] = coded(rng, infos[name])
        tensors |= {f"{name}.{leaf}": values for leaf, values in parts.items()}
        floats[name] = LinearInfo(out=info.out, inputs=info.inputs, dtype="f32")
        dense[f"{name}.weight"] = layout.pack_rows(weights[name])
    made = rewritten(plain, folder / "coded", infos, tensors, head_bits=infos["head"].format.bits)
    return made, rewritten(plain, folder / "floats", floats, dense), weights


def forward(artifact: Artifact, name: str, x: np.ndarray, scalar: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """agq_linear_forward of a linear: float32 [m, out]; and the inputs float64 [m, inputs] that it multiplies."""
    library = load_library(None)
    ffi = library.ffi
    model, _keep = descriptor.build_model(ffi, artifact)
    linear = ffi.addressof(descriptor.linear_of(model, model.blocks, name))
    info, m = artifact.linears[name], x.shape[0]
    y = np.zeros((m, info.out), np.float32)
    of = ffi.from_buffer
    assert library.c.agq_linear_forward(linear, of("float[]", x), m, of("float[]", y), 1, scalar) == 0
    if not info.activations.quantized:
        return y, x.astype(np.float64)
    codes = np.zeros(x.shape, np.int8)
    scales = np.zeros((m, info.act_group.scales(info.inputs)), np.float32)
    assert (
        library.c.agq_quantize_activations(
            linear, of("float[]", x), m, of("int8_t[]", codes), of("float[]", scales), scalar
        )
        == 0
    )
    return y, codes * np.repeat(scales.astype(np.float64), info.inputs // scales.shape[1], axis=1)


ACTIVATIONS = [
    {"act_bits": 32},
    {"act_bits": 8, "act_group": G32},
    {"act_bits": 8},
    {"act_bits": 4, "act_group": G32, "act_symmetric": False},
]


@pytest.mark.parametrize("acts", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["u4", "i8"])
@pytest.mark.parametrize("scale_dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("minimum", [False, True])
def test_products(plain: Path, tmp_path: Path, acts: dict, dtype: str, scale_dtype: str, minimum: bool) -> None:
    """Every linear, for one token, few and many (one of them zero), against float64."""
    made, _, weights = both(plain, tmp_path, dtype=dtype, scale_dtype=scale_dtype, minimum=minimum, **acts)
    assert made.verify() == []
    rng = np.random.default_rng(3)
    for name, info in made.linears.items():
        for m in (1, 3, 41):
            x = rng.normal(size=(m, info.inputs)).astype(np.float32)
            x[m // 2] *= m == 1
            found, inputs = forward(made, name, x)
            exact = weights[name].astype(np.float64)
            # Rounding of the partial sums: codes and minima are summed apart and may cancel.
            size = np.abs(inputs) @ (np.abs(exact) + 0.4).T
            assert (np.abs(found - inputs @ exact.T) <= 1e-6 * size).all(), (name, m)
            assert np.array_equal(found, forward(made, name, x, scalar=1)[0]), (name, m)


@pytest.mark.parametrize("dtype", ["u4", "i8"])
@pytest.mark.parametrize("minimum", [False, True])
def test_engine(plain: Path, tmp_path: Path, dtype: str, minimum: bool) -> None:
    """The whole model with float activations against the same weights as floats: the embedding rows come from the
    head, too."""
    made, floats, _ = both(plain, tmp_path, dtype=dtype, scale_dtype="f16", minimum=minimum)
    tokens = np.random.default_rng(5).integers(3, 83, 30)
    logits = []
    for artifact in (made, floats):
        with Engine(artifact, threads=2, context=32) as engine:
            logits.append(engine.forward(tokens, logits="all"))
    assert np.abs(logits[0] - logits[1]).max() < 1e-5 * np.abs(logits[1]).max()


def test_what_is_stored(plain: Path, tmp_path: Path) -> None:
    made, _, weights = both(plain, tmp_path, dtype="u4", scale_dtype="f16", minimum=True, act_bits=8, act_group=G32)
    name = "blocks.1.down"
    info = made.linears[name]
    shape = (info.out, info.groups)
    assert made.metadata["agq.abi"] == "5" and info.abi == 5 and info.minimum
    assert words.linear(*info.words()) == "W4 g32 with minimum, A8 g32"
    assert made.describe(f"{name}.minimum") == made.describe(f"{name}.scale")
    assert made.describe(f"{name}.scale").dtype == "f16" and made.describe(f"{name}.scale").shape == shape
    codes = layout.unpack_u4(made.tensor(f"{name}.weight"), info.out, info.inputs).astype(np.float32)
    scale, minimum = (
        np.repeat(layout.unpack_rows(made.tensor(f"{name}.{leaf}"), *shape).astype(np.float32), 32, axis=1)
        for leaf in ("scale", "minimum")
    )
    assert np.array_equal(codes * scale + minimum, weights[name])


def test_oldest_version(plain: Path, tmp_path: Path) -> None:
    """Scales of f16 and a coded head that is the embedding need version 5, whatever else is as before."""
    for index, (scheme, abi) in enumerate(
        [
            ({"dtype": "i8", "scale_dtype": "f32"}, 4),
            ({"dtype": "i8", "scale_dtype": "f16"}, 5),
            ({"dtype": "u4", "scale_dtype": "f32"}, 5),
        ]
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        made, floats, _ = both(plain, folder, **scheme)
        assert made.info.abi == abi and floats.info.abi == 4


def test_an_embedding_with_groups(tmp_path: Path) -> None:
    settings = config("llama", tie_word_embeddings=False)
    pack(write_folder(tmp_path / "m", settings), tmp_path / "a", weights="f32", kv_bits=32)
    rng = np.random.default_rng(9)
    codes = rng.integers(-127, 128, (83, 64)).astype(np.int8)
    scale = numbers(rng, (83, 2), "f16", 0.001, 0.02)
    table = (codes * np.repeat(scale, 32, axis=1)).astype(np.float32)
    tables = {"embed": codes, "embed.scale": scale}
    made = rewritten(tmp_path / "a", tmp_path / "b", {}, tables, tables={"embed": "i8"}, embed_group=G32)
    floats = rewritten(tmp_path / "a", tmp_path / "c", {}, {"embed": table}, tables={"embed": "f32"})
    assert made.info.abi == 5 and made.info.embed_group == G32 and made.tensor("embed.scale").shape == (83, 2)
    logits = []
    for artifact in (made, floats):
        with Engine(artifact, threads=1, context=32) as engine:
            logits.append(engine.forward(np.arange(3, 30), logits="all"))
    assert np.array_equal(*logits)


def test_pieces_of_rows() -> None:
    """Whole panels one after another are the whole."""
    info = LinearInfo(out=40, inputs=64, dtype="u4", scale_dtype="f32", group=G32, minimum=True)
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 16, (40, 64)).astype(np.int8)
    scale, minimum = (rng.random((40, 2)).astype(np.float32) for _ in range(2))
    whole = linear_tensors(info, codes, scale, minimum)
    parts = [
        linear_tensors(info, *(values[rows] for values in (codes, scale, minimum)))
        for rows in (slice(32), slice(32, 40))
    ]
    for leaf, values in whole.items():
        assert np.array_equal(np.concatenate([part[leaf] for part in parts]), values)
        assert values.nbytes == info.tensors("x")[f"x.{leaf}"].nbytes


def test_with_zero_points() -> None:
    info = LinearInfo(out=16, inputs=32, dtype="u4", scale_dtype="f32", group=PER_ROW, asym=True, minimum=True)
    codes, zero = np.full((16, 32), -8, np.int8), np.full((16, 1), 7, np.int8)
    ones = np.ones((16, 1), np.float32)
    found = linear_tensors(info, codes, ones, ones, zero)
    assert not found["weight"].any() and (found["zero"] == 15).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"codes": np.full((16, 64), 16, np.int8)}, "code is not between 0 and 15"),
        ({"codes": np.full((16, 64), -1, np.int8)}, "code is not between 0 and 15"),
        ({"codes": np.zeros((16, 32), np.int8)}, "codes of a linear"),
        ({"scale": np.ones((16, 1), np.float32)}, "scales of a linear"),
        ({"minimum": None}, "minima of a linear"),
        ({"zero": np.zeros((16, 2), np.int8)}, "zero points of a linear"),
        ({"scale": np.full((16, 2), 0.1, np.float32)}, "scale is not a f16 number"),
        ({"minimum": np.full((16, 2), 1e6, np.float32)}, "minimum"),
    ],
)
def test_what_cannot_be_stored(change: dict[str, Any], word: str) -> None:
    info = LinearInfo(out=16, inputs=64, dtype="u4", scale_dtype="f16", group=G32, minimum=True)
    ones = np.ones((16, 2), np.float32)
    with pytest.raises(AgqError, match=word):
        linear_tensors(info, **({"codes": np.zeros((16, 64), np.int8), "scale": ones, "minimum": ones} | change))


def test_what_cannot_be_computed() -> None:
    for info, word in (
        (LinearInfo(out=16, inputs=64, dtype="f32", minimum=True), "minima"),
        (
            LinearInfo(
                out=16,
                inputs=64,
                dtype="u4",
                scale_dtype="f32",
                act_bits=4,
                act_static=True,
                act_symmetric=False,
                minimum=True,
            ),
            "minima and static",
        ),
    ):
        with pytest.raises(AgqError, match=word):
            LinearInfo.from_dict(info.to_dict(), "x", (16, 64))
