"""An embedding table of its own, in 8-bit rows: what is stored and when, that engine and torch reference read the same
numbers from it, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.artifact import open_artifact
from agq.artifact.header import canonical
from agq.artifact.pack import pack
from agq.artifact.sources import quantize_rows, row_scale
from agq.checkpoint import open_checkpoint
from agq.errors import AgqError, UsageError
from agq.inspect.verify import verify
from agq.runtime.engine import Engine
from agq.safetensors.files import SafetensorsFile, bf16_to_f32
from tests.artifact.test_reader import forged, meta, model
from tests.checkpoint.folders import config, random_tensors, write_folder, write_quantized

FAMILIES = ("llama", "opt", "bloom")


def untied(family: str, **changes: Any) -> dict[str, Any]:
    return config(family, tie_word_embeddings=False, **changes)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_as_stored(tmp_path: Path, family: str) -> None:
    folder = write_quantized(tmp_path / "q", untied(family))
    report = pack(folder, tmp_path / "a.safetensors")
    artifact, checkpoint = open_artifact(tmp_path / "a.safetensors"), open_checkpoint(folder)
    assert (report.head_bits, report.embed_bits, artifact.info.embed_bits, artifact.model["embed_bits"]) == (8, 8, 8, 8)
    embed = checkpoint.read(f"{checkpoint.parts.embed}.weight")
    codes, scale = artifact.tensor("embed"), artifact.tensor("embed.scale")
    assert codes.dtype == np.int8 and codes.shape == embed.shape and scale.dtype == np.float32
    assert np.array_equal(scale, row_scale(embed)) and np.array_equal(codes, quantize_rows(embed, scale))
    # Half a step; and the last code reaches half a bf16 step of the scale less far than the largest value.
    assert (np.abs(codes * scale[:, None] - embed) <= scale[:, None] * (0.5 + 127 / 256)).all()
    assert artifact.verify() == [] and verify(tmp_path / "a.safetensors") == ("packed", [])


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_smaller(tmp_path: Path, family: str) -> None:
    folder = write_quantized(tmp_path / "q", untied(family, vocab_size=1000))
    sizes = {bits: pack(folder, tmp_path / f"{bits}.safetensors", embed_bits=bits).bytes for bits in (8, 16, 32)}
    elements = 1000 * open_checkpoint(folder).spec.embed_dim
    assert sizes[16] - sizes[8] == pytest.approx(elements - 4 * 1000, abs=1000)
    assert sizes[32] - sizes[16] == pytest.approx(2 * elements, abs=1000)


def test_a_row_of_zeros(tmp_path: Path) -> None:
    settings = untied("llama")
    tensors = random_tensors(settings)
    tensors["model.embed_tokens.weight"][1][5] = 0
    pack(write_folder(tmp_path / "m", settings, tensors), tmp_path / "a.safetensors", weights="int8", embed_bits=8)
    artifact = open_artifact(tmp_path / "a.safetensors")
    assert artifact.tensor("embed.scale")[5] == 0 and not artifact.tensor("embed")[5].any()
    with Engine(artifact, threads=1, context=8) as engine:
        assert np.isfinite(engine.forward([5, 6])).all()


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    settings = untied("llama")
    tensors = random_tensors(settings)
    tensors["model.embed_tokens.weight"][1][5, 1] = 0x7F80
    folder = write_folder(tmp_path / "m", settings, tensors)
    with pytest.raises(AgqError, match=r"not finite in `model\.embed_tokens\.weight`"):
        pack(folder, tmp_path / "a.safetensors", embed_bits=8)
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("record", "options", "dtype"),
    [
        ({}, {}, "i8"),
        ({"head_bits": 8}, {}, "i8"),
        ({}, {"head_bits": 16}, "bf16"),
        ({"head_bits": 32}, {}, "bf16"),
        ({"embed_bits": 16}, {}, "bf16"),
        ({"embed_bits": 32}, {}, "f32"),
        ({"embed_bits": 8, "head_bits": 16}, {}, "i8"),
        ({"embed_bits": 16}, {"embed_bits": 8}, "i8"),
        ({}, {"embed_bits": 16}, "bf16"),
    ],
)
def test_which_width(tmp_path: Path, record: dict[str, Any], options: dict[str, int], dtype: str) -> None:
    folder = write_quantized(tmp_path / "q", untied("llama"))
    (folder / "agq.json").write_text(json.dumps({"format": 1, **record}))
    report = pack(folder, tmp_path / "a.safetensors", **options)
    artifact = open_artifact(tmp_path / "a.safetensors")
    assert artifact.describe("embed").dtype == dtype
    assert report.embed_bits == artifact.info.embed_bits == {"i8": 8, "bf16": 16, "f32": 32}[dtype]
    assert artifact.has("embed.scale") == (dtype == "i8")


def test_unquantized_folders_keep_their_floats(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", untied("llama"))
    for index, options in enumerate(({}, {"weights": "int8"}, {"head_bits": 8})):
        assert pack(folder, tmp_path / f"{index}.safetensors", **options).embed_bits == 16
    embed = bf16_to_f32(open_artifact(tmp_path / "1.safetensors").tensor("embed"))
    assert np.array_equal(embed, open_checkpoint(folder).read("model.embed_tokens.weight"))


def test_a_tied_embedding_has_the_width_of_the_head(tmp_path: Path) -> None:
    folder = write_quantized(tmp_path / "q", config("llama"))
    report = pack(folder, tmp_path / "a.safetensors", head_bits=16, embed_bits=16)
    assert report.embed_bits == open_artifact(tmp_path / "a.safetensors").info.embed_bits == 16
    with pytest.raises(UsageError, match="is its output head"):
        pack(folder, tmp_path / "b.safetensors", embed_bits=16)
    with pytest.raises(UsageError, match="embedding of 4 bits"):
        pack(folder, tmp_path / "b.safetensors", embed_bits=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_engine_equals_the_reference(tmp_path: Path, family: str) -> None:
    """Everything else in floats, so that nothing hides a difference of the embedding."""
    from agq.reference.decoder import ReferenceModel

    folder = write_quantized(tmp_path / "q", untied(family), act_bits=16)
    (folder / "agq.json").write_text(json.dumps({"format": 1, "kv_bits": 32, "head_bits": 32, "embed_bits": 8}))
    pack(folder, tmp_path / "a.safetensors")
    tokens = np.random.default_rng(3).integers(3, 83, 30)
    expected = ReferenceModel.from_folder(folder).logits(tokens)
    floats = ReferenceModel.from_folder(folder, embed_bits=16).logits(tokens)
    with Engine(open_artifact(tmp_path / "a.safetensors"), threads=1, context=32) as engine:
        found = engine.forward(tokens, logits="all")
    norm = np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) < 1e-5 * norm < 0.1 * np.linalg.norm(floats - expected)


def test_reference_does_what_pack_does(tmp_path: Path) -> None:
    """The table is coded with an 8-bit head of a quantized folder, and only then."""
    from agq.reference.decoder import ReferenceModel

    folder = write_quantized(tmp_path / "q", untied("llama"))
    (folder / "agq.json").write_text(json.dumps({"format": 1, "head_bits": 8}))
    checkpoint = open_checkpoint(folder)
    embed = checkpoint.read("model.embed_tokens.weight")
    scale = row_scale(embed)
    coded = quantize_rows(embed, scale) * scale[:, None]
    for options, expected in (
        ({}, coded),
        ({"head_bits": 16}, embed),
        ({"embed_bits": 32}, embed),
        ({"fake_quant": False}, embed),
    ):
        assert np.array_equal(ReferenceModel.from_folder(folder, **options).embedding.table.numpy(), expected), options
    plain = write_folder(tmp_path / "m", untied("llama"))
    assert np.array_equal(
        ReferenceModel.from_folder(plain, head_bits=8).embedding.table.numpy(),
        open_checkpoint(plain).read("model.embed_tokens.weight"),
    )


# ---- files of others


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small artifact with an 8-bit embedding [83, 64]."""
    folder = tmp_path_factory.mktemp("embedding")
    pack(write_quantized(folder / "q", untied("llama")), folder / "a.safetensors")
    return (folder / "a.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (model(lambda item: item.update(embed_bits=16)), "embed_bits"),
        (model(lambda item: item.update(embed_bits=8.0)), "embed_bits"),
        (model(lambda item: item.update(embed_bits=None)), "embed_bits"),
        (model(lambda item: item.update(embed_in_head=True)), "fit"),
        (model(lambda item: item["tensors"]["embed"].update(dtype="bf16")), "embed_bits"),
        (
            model(lambda item: (item["tensors"]["embed"].update(dtype="bf16"), item.update(embed_bits=16))),
            r"embed\.scale",
        ),
        (model(lambda item: item["tensors"]["embed"].update(dtype="u4")), "unknown type"),
        (model(lambda item: item["tensors"]["embed"].update(shape=[84, 64])), "embed"),
        (model(lambda item: item["tensors"]["embed.scale"].update(dtype="f16")), r"embed\.scale"),
        (model(lambda item: item["tensors"]["embed.scale"].update(shape=[82])), r"embed\.scale"),
        (model(lambda item: item["tensors"].pop("embed.scale")), r"embed\.scale"),
        (lambda header: header["embed"].update(dtype="I8"), "embed"),
        (meta(agq__abi="1"), "pack the model again|reads 7"),
    ],
)
def test_forged_headers(tmp_path: Path, small: bytes, change: Callable[[dict], Any], word: str) -> None:
    with pytest.raises(AgqError, match=word):
        open_artifact(forged(tmp_path / "a", small, change))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_scales_that_cannot_be(tmp_path: Path, small: bytes, value: float) -> None:
    """With hashes that fit: `verify` says it, the engine does not start."""
    (tmp_path / "a").write_bytes(small)
    file = SafetensorsFile(tmp_path / "a")
    info = file.tensors["embed.scale"]
    start, stop = file.header.data_start + info.start, file.header.data_start + info.stop
    del file
    content = bytearray(small)
    content[start + 4 * 82 : start + 4 * 83] = np.float32(value).tobytes()

    def rehash(header: dict[str, Any]) -> None:
        hashes = json.loads(header["__metadata__"]["agq.sha256"])
        hashes["embed.scale"] = hashlib.sha256(content[start:stop]).hexdigest()
        header["__metadata__"]["agq.sha256"] = canonical(hashes)

    path = forged(tmp_path / "b", bytes(content), rehash)
    artifact = open_artifact(path)
    assert artifact.verify() == []
    problem = "values below 0" if value < 0 else "1 values that are not finite"
    assert verify(path)[1] == [f"tensor `embed.scale`: {problem}"]
    with pytest.raises(AgqError, match="embed scales: that of row 82"):
        Engine(artifact, threads=1, context=8)


def test_files_of_abi_2_are_read(tmp_path: Path) -> None:
    """They say nothing of `embed_bits`."""
    folder = write_quantized(tmp_path / "q", untied("llama"))
    pack(folder, tmp_path / "new", embed_bits=16)
    drop = model(lambda item: item.pop("embed_bits"))
    old = forged(
        tmp_path / "old", (tmp_path / "new").read_bytes(), lambda header: (meta(agq__abi="2")(header), drop(header))
    )
    logits = []
    for path in (tmp_path / "new", old):
        artifact = open_artifact(path)
        assert artifact.verify() == [] and artifact.info.embed_bits == 16
        with Engine(artifact, threads=1, context=8) as engine:
            logits.append(engine.forward([3, 4, 5]))
    assert np.array_equal(*logits)
