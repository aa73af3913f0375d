"""What a packed GGUF file holds: the file's own codes and scales, whatever types stand side by side; and what is said
of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.artifact import layout, open_artifact
from agq.artifact.pack import PackReport, pack
from agq.artifact.reader import Artifact
from agq.artifact.sources import fused_linears
from agq.errors import UsageError
from agq.gguf.opening import open_source
from tests import families
from tests.gguf.gguf_files import Type, gguf, write

pytest.importorskip("torch")
SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "head_dim": 64}


def values(artifact: Artifact, name: str) -> np.ndarray:
    """Weights float32 that a linear of an artifact means."""
    info = artifact.linears[name]
    if not info.quantized:
        return layout.unpack_rows(artifact.tensor(f"{name}.weight"), info.out, info.inputs).astype(np.float32)
    codes = layout.PACKERS[info.dtype][1](artifact.tensor(f"{name}.weight"), info.out, info.inputs)
    shape = (info.out, info.groups)
    codes = codes.astype(np.float32) - np.float32(0 if info.dtype == "i8" else info.offset)
    found = codes.reshape(*shape, -1) * panels(artifact, f"{name}.scale", shape)
    if info.minimum:
        found = found + panels(artifact, f"{name}.minimum", shape)
    return found.reshape(info.out, info.inputs)


def panels(artifact: Artifact, name: str, shape: tuple[int, int]) -> np.ndarray:
    raw = layout.unpack_rows(artifact.tensor(name), *shape)
    if artifact.describe(name).dtype == "bf16":
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)[:, :, None]


def mixed(**types: str) -> Callable[[str, tuple[int, ...]], Any]:
    """Types by the last words of the names in GGUF; F32 for the rest."""

    def choose(name: str, shape: tuple[int, ...]) -> Any:
        return Type[types.get(name.split(".")[-2], "F32")]

    return choose


def packed(folder: Path, tied: bool = True, **types: str) -> tuple[Path, PackReport]:
    model = families.make(families.Case("llama", {**SIZES, "tie_word_embeddings": tied}))
    path = write(folder / "model.gguf", model, "llama", mixed(**types))
    return path, pack(path, folder / "packed")


BLOCKS = {"attn_q": "Q4_0", "attn_k": "Q4_0", "attn_v": "Q4_0", "attn_output": "Q8_0", "ffn_down": "IQ4_NL"}
FEED = {"ffn_gate": "Q4_K", "ffn_up": "Q4_K"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("types", "forms"),
    [
        ({**BLOCKS, **FEED, "token_embd": "Q8_0"}, {"qkv": ("u4", False), "up": ("u4", True), "head": ("i8", False)}),
        ({**BLOCKS, **FEED, "attn_v": "Q5_1"}, {"qkv": ("i8", True), "head": ("f32", False)}),
        ({**BLOCKS, **FEED, "attn_v": "Q4_1"}, {"qkv": ("i8", True)}),
        ({**BLOCKS, **FEED, "attn_v": "Q8_0", "ffn_up": "Q5_K"}, {"qkv": ("i8", False), "up": ("i8", True)}),
        ({**BLOCKS, **FEED, "attn_q": "F16", "attn_k": "BF16", "attn_v": "F16"}, {"qkv": ("f32", False)}),
        ({**BLOCKS, **FEED, "token_embd": "Q4_K"}, {"head": ("u4", True)}),
        ({**BLOCKS, **FEED, "token_embd": "F16"}, {"head": ("f16", False)}),
    ],
)
def test_exact(types: dict[str, str], forms: dict[str, tuple[str, bool]], tmp_path: Path) -> None:
    """Every weight is the one that the package dequantizes, bit for bit."""
    path, report = packed(tmp_path, **types)
    artifact, source = open_artifact(tmp_path / "packed"), open_source(path, floats=True)
    assert artifact.verify() == [] and report.notes == ()
    for item in fused_linears(source.parts.block(0), source.spec):
        expected = np.concatenate([source.read(linear.weight) for linear in item.linears])
        assert np.array_equal(values(artifact, item.name), expected), item.name
    assert np.array_equal(values(artifact, "head"), source.read("lm_head.weight"))
    for name, (dtype, minimum) in forms.items():
        info = artifact.linears[name if name == "head" else f"blocks.0.{name}"]
        assert (info.dtype, info.minimum) == (dtype, minimum)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("type", "dtype"), [("Q8_0", "i8"), ("IQ4_NL", "f32"), ("F16", "f16"), ("Q4_1", "f32"), ("Q6_K", "f32")]
)
def test_an_embedding_beside_the_head(type: str, dtype: str, tmp_path: Path) -> None:
    """Codes where the engine has no minima to add and no negative scales, else floats: exact in each case."""
    path, _ = packed(tmp_path, tied=False, token_embd=type, output="Q8_0", **BLOCKS, **FEED)
    artifact, source = open_artifact(tmp_path / "packed"), open_source(path, floats=True)
    table = artifact.tensor("embed")
    assert artifact.info.tables["embed"] == dtype
    if artifact.has("embed.scale"):
        table = (table.reshape(len(table), -1, 32) * artifact.tensor("embed.scale")[:, :, None]).reshape(len(table), -1)
    assert np.array_equal(np.asarray(table, np.float32), source.read("model.embed_tokens.weight"))


@pytest.mark.slow
def test_the_loss_is_measured_and_said(tmp_path: Path) -> None:
    path, report = packed(tmp_path, **{**BLOCKS, **FEED, "attn_output": "Q6_K", "ffn_down": "Q2_K"})
    artifact, source = open_artifact(tmp_path / "packed"), open_source(path, floats=True)
    block, said = source.parts.block(0), []
    for role, name, type in (("o", "out", "Q6_K"), ("down", "down", "Q2_K")):
        exact = source.read(block.linears[role].weight)
        lost = np.sqrt(np.square(values(artifact, f"blocks.0.{name}") - exact).sum() / np.square(exact).sum())
        assert 0 < lost < 0.01
        said.append(f"{type} of 1 tensor is stored in 8 bits: relative error {100 * lost:.2g} %")
    assert list(report.notes) == said


@pytest.mark.slow
def test_inputs_of_linears(tmp_path: Path) -> None:
    path, _ = packed(tmp_path, **BLOCKS, **FEED)
    info = open_artifact(tmp_path / "packed").linears["blocks.0.qkv"]
    assert info.words() == ("4 g32", "8 g32")
    pack(path, tmp_path / "floats", act_bits=16)
    assert not open_artifact(tmp_path / "floats").linears["blocks.0.qkv"].activations.quantized
    for source, bits in ((path, 4), (tmp_path, 8)):
        with pytest.raises(UsageError):
            pack(source, tmp_path / "none", act_bits=bits)


@pytest.mark.slow
def test_what_the_model_does_not_use_is_said(tmp_path: Path) -> None:
    model = families.make(families.Case("llama", SIZES))

    def change(writer: Any) -> None:
        writer.add_tensor("blk.0.attn_rot_embd.weight", np.ones(4, np.float32))

    path = write(tmp_path / "model.gguf", model, "llama", mixed(), change)
    report = pack(path, tmp_path / "packed")
    assert report.notes == ("left out, as the model does not use them: `blk.0.attn_rot_embd.weight`",)
    assert gguf.GGUFReader(path).tensors


@pytest.mark.slow
@pytest.mark.parametrize(
    "type",
    [
        "Q2_K",
        "Q3_K",
        "Q6_K",
        "TQ1_0",
        "TQ2_0",
        "IQ2_XXS",
        "IQ2_XS",
        "IQ2_S",
        "IQ3_XXS",
        "IQ3_S",
        "IQ1_S",
        "IQ1_M",
        "NVFP4",
    ],
)
def test_types_that_are_rounded(type: str, tmp_path: Path) -> None:
    """Every code is the nearest one: no weight is further than half a step from the file's."""
    path, report = packed(tmp_path, **dict.fromkeys(BLOCKS | FEED, type))
    artifact, source = open_artifact(tmp_path / "packed"), open_source(path, floats=True)
    for item in fused_linears(source.parts.block(0), source.spec):
        exact = np.concatenate([source.read(linear.weight) for linear in item.linears])
        steps = np.abs(exact).reshape(len(exact), -1, 32).max(axis=2) / 127
        wrong = np.abs(values(artifact, item.name) - exact).reshape(*steps.shape, 32).max(axis=2)
        assert exact.any() and (wrong <= 0.5001 * steps).all()
    said = [f"{type} of 7 tensors is stored in 8 bits: relative error 0."] if type != "TQ1_0" else []
    assert [note[: note.index("error") + 8] for note in report.notes] == said
