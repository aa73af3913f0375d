"""A rotated model whose embedding serves as head again, through a matrix: quantized folder, packed file, engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from agq.artifact import open_artifact
from agq.artifact.pack import pack
from agq.checkpoint import open_checkpoint
from agq.checkpoint.head_matrix import NAME, head_matrix_problem
from agq.cli.info import _head
from agq.errors import AgqError
from agq.inspect.describe import describe_artifact, describe_folder
from agq.inspect.verify import verify
from agq.native.library import libraries
from agq.quantization.quantize import quantize
from agq.reference.decoder import ReferenceModel
from agq.runtime.engine import Engine
from agq.runtime.generation import refuse_not_a_number
from agq.safetensors.files import SafetensorsFile
from tests.inspect.test_wrong_numbers import damaged, first
from tests.runtime.runtime_support import relative_error, save_with_tokenizer, sentencepiece_like

LEVELS = [item.isa for item in libraries() if item.usable]
IDS = np.random.default_rng(3).integers(0, 300, 24).tolist()


def model(folder: Path, kind: str, **changes: object) -> Path:
    """A tied model in float32 whose gains are not 1."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "vocab_size": 300,
        "hidden_size": 96,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    }
    torch.manual_seed(5)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(settings | changes))).float()
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "norm" in name:
                value.copy_(torch.rand_like(value) * 2 + 0.2)
    return save_with_tokenizer(made, folder, sentencepiece_like())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized LLaMA whose residual stream is rotated."""
    base = tmp_path_factory.mktemp("tied")
    source = model(base / "source", "llama")
    quantize(source, base / "quantized", preset="rtn", scheme="W8A8", rotate=True)
    return base / "quantized"


@pytest.fixture(scope="module")
def finer(folder: Path) -> Path:
    """The same with float activations: ratios of 6-bit codes of an embedding are ties of 8-bit activations."""
    output = folder.parent / "finer"
    quantize(folder.parent / "source", output, preset="rtn", scheme="W8A16", rotate=True)
    return output


@pytest.fixture(scope="module")
def untied(folder: Path) -> Path:
    """The same without the matrix: the head is one of its own."""
    copy = shutil.copytree(folder, folder.parent / "untied")
    record = json.loads((copy / "agq.json").read_text())
    del record[NAME]
    (copy / "agq.json").write_text(json.dumps(record))
    return copy


def logits(path: Path, isa: str | None = None) -> np.ndarray:
    with Engine(path, threads=1, context=64, isa=isa) as engine:
        return engine.forward(IDS, logits="all")


@pytest.mark.parametrize("isa", LEVELS)
def test_logits_are_those_of_the_head_of_its_own(folder: Path, untied: Path, tmp_path: Path, isa: str) -> None:
    pack(folder, tmp_path / "tied", head_bits=32)
    pack(untied, tmp_path / "untied", head_bits=32, embed_bits=32)
    assert relative_error(logits(tmp_path / "tied", isa), logits(tmp_path / "untied", isa)) < 1e-5
    assert open_artifact(tmp_path / "tied").has("project_out.weight")
    assert open_artifact(tmp_path / "untied").has("embed")


def test_other_loaders_are_told_which_file_holds_the_weights(folder: Path, untied: Path) -> None:
    """vLLM reads all safetensors files, or those of the index: `head_matrix` is no parameter of its model."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    file = SafetensorsFile(folder / "model.safetensors")
    assert index["weight_map"] == dict.fromkeys(file.tensors, "model.safetensors")
    assert index["metadata"]["total_size"] == file.size - file.header.data_start
    assert (folder / "agq.safetensors").exists()


@pytest.mark.parametrize("isa", LEVELS)
def test_packed_file_computes_what_the_reference_does(folder: Path, tmp_path: Path, isa: str) -> None:
    report = pack(folder, tmp_path / "packed")
    assert (report.head_bits, report.embed_bits, report.parameters) == (8, 8, _parameters(folder))
    artifact = open_artifact(tmp_path / "packed")
    assert artifact.info.embed_in_head and artifact.spec.head_matrix and not artifact.has("embed")
    assert artifact.metadata["agq.abi"] == "6"
    expected = ReferenceModel.from_folder(folder).logits(IDS)
    assert relative_error(logits(tmp_path / "packed", isa), expected) < 2e-3
    assert verify(tmp_path / "packed") == ("packed", [])


@pytest.mark.parametrize("isa", LEVELS)
def test_a_head_of_six_bits(finer: Path, tmp_path: Path, isa: str) -> None:
    report = pack(finer, tmp_path / "packed", head_bits=6)
    assert (report.head_bits, report.embed_bits) == (6, 6)
    head = open_artifact(tmp_path / "packed").linears["head"]
    assert (head.words()[0], head.scale_dtype, head.act_bits) == ("6 g32", "bf16", 8)
    expected = ReferenceModel.from_folder(finer, head_bits=6).logits(IDS)
    assert relative_error(logits(tmp_path / "packed", isa), expected) < 2e-3
    assert verify(tmp_path / "packed") == ("packed", [])


def test_a_head_of_six_bits_of_its_own(untied: Path, tmp_path: Path) -> None:
    """Its embedding has 8 bits, as beside a head of 8."""
    report = pack(untied, tmp_path / "packed", head_bits=6)
    assert (report.head_bits, report.embed_bits) == (6, 8)
    assert open_artifact(tmp_path / "packed").metadata["agq.abi"] == "6"
    expected = ReferenceModel.from_folder(untied, head_bits=6).logits(IDS)
    assert relative_error(logits(tmp_path / "packed"), expected) < 2e-3


def test_groups_of_a_head_are_as_wide_as_it_allows(tmp_path: Path) -> None:
    """Not those that fit the blocks' linears too, which have 96 columns among theirs."""
    source = model(tmp_path / "source", "llama", hidden_size=256, intermediate_size=96)
    pack(source, tmp_path / "packed", weights="int8", head_bits=6)
    assert open_artifact(tmp_path / "packed").linears["head"].words()[0] == "6 g128"


def _parameters(folder: Path) -> int:
    """Of the source: all tensors of the tied model, the gains among them."""
    checkpoint = open_checkpoint(folder)
    shapes = [checkpoint.parts.dense_tensors().values()]
    linears = sum(linear.out_features * linear.in_features for linear in checkpoint.parts.block_linears())
    return linears + sum(int(np.prod(shape)) for group in shapes for shape in group)


def test_another_width_of_the_embedding_keeps_the_head(folder: Path, tmp_path: Path) -> None:
    report = pack(folder, tmp_path / "packed", embed_bits=32)
    assert (report.head_bits, report.embed_bits) == (8, 32)
    artifact = open_artifact(tmp_path / "packed")
    assert artifact.has("embed") and not artifact.spec.head_matrix and artifact.metadata["agq.abi"] == "4"
    expected = ReferenceModel.from_folder(folder, embed_bits=32).logits(IDS)
    assert relative_error(logits(tmp_path / "packed"), expected) < 2e-3


def test_batches_and_cuts_change_nothing(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "packed")
    whole = logits(tmp_path / "packed")
    with Engine(tmp_path / "packed", threads=2, context=64, slots=2) as engine:
        first = engine.forward(IDS[:7], logits="all", slot=1)
        rest = engine.forward(IDS[7:], logits="all", slot=1)
        assert np.array_equal(np.concatenate([first, rest]), whole)
        assert np.array_equal(engine.forward(IDS)[-1], whole[-1])


# Bits of the head; a tensor; what becomes of its first value.
NOT_FINITE = [
    *((bits, "project_out.weight", np.nan) for bits in (6, 8, 32)),
    (8, "project_out.weight", -np.inf),
    (8, "final_norm.weight", np.nan),
    (6, "head.scale", 0x7FC0),
    (8, "head.scale", 0x7F80),
    (32, "head.weight", np.nan),
]


@pytest.mark.parametrize(("bits", "tensor", "value"), NOT_FINITE)
def test_what_is_not_finite_reaches_the_logits(
    folder: Path, tmp_path: Path, bits: int, tensor: str, value: float
) -> None:
    pack(folder, tmp_path / "packed", head_bits=bits)
    refuse_not_a_number(logits(tmp_path / "packed"))
    path = damaged(tmp_path / "packed", tmp_path / "bad", tensor, first(value))
    assert verify(path)[1] == [f"tensor `{tensor}`: 1 values that are not finite"]
    with pytest.raises(AgqError, match="not a number"):
        refuse_not_a_number(logits(path))


def test_info_says_it(folder: Path, untied: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "packed")
    assert _head(describe_artifact(open_artifact(tmp_path / "packed"))) == "tied to the embedding through a matrix"
    assert _head(describe_folder(open_checkpoint(folder))) == "its own, packed as the embedding behind a matrix"
    assert _head(describe_folder(open_checkpoint(untied))) == "its own"


def _damaged(folder: Path, copy: Path, **arrays: np.ndarray) -> Path:
    from safetensors.numpy import save_file

    shutil.copytree(folder, copy)
    (copy / "agq.safetensors").unlink()
    if arrays:
        save_file(arrays, copy / "agq.safetensors")
    return copy


@pytest.mark.parametrize("what", ["other gains", "not finite"])
def test_a_matrix_that_does_not_give_the_head_is_refused(folder: Path, tmp_path: Path, what: str) -> None:
    matrix = np.array(open_checkpoint(folder).head_matrix)
    matrix[0, 0] = np.nan if what == "not finite" else matrix[0, 0] + 0.5
    copy = _damaged(folder, tmp_path / "copy", head_matrix=matrix)
    problem = (
        "values that are not finite" if what == "not finite" else "the embedding's rows times it are not the head's"
    )
    assert verify(copy) == ("folder", [f"`{NAME}`: {problem}"])
    with pytest.raises(AgqError, match=problem):
        pack(copy, tmp_path / "packed")


@pytest.mark.parametrize(
    ("shape", "message"), [((95, 96), "missing or not float32"), (None, "lacks `agq.safetensors`")]
)
def test_a_folder_without_its_matrix_is_refused(
    folder: Path, tmp_path: Path, shape: tuple[int, int] | None, message: str
) -> None:
    arrays = {} if shape is None else {"head_matrix": np.zeros(shape, np.float32)}
    with pytest.raises(AgqError, match=message):
        open_checkpoint(_damaged(folder, tmp_path / "copy", **arrays))


@pytest.mark.parametrize(
    ("value", "tied", "message"), [("yes", False, "not true or false"), (True, True, "of its own")]
)
def test_a_record_that_cannot_be_is_refused(
    folder: Path, tmp_path: Path, value: object, tied: bool, message: str
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    record = json.loads((copy / "agq.json").read_text())
    (copy / "agq.json").write_text(json.dumps(record | {NAME: value}))
    if tied:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
        shutil.copy(folder.parent / "source" / "model.safetensors", copy / "model.safetensors")
    with pytest.raises(AgqError, match=message):
        open_checkpoint(copy)


GRANITE = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0, "attention_multiplier": 0.2}


@pytest.mark.parametrize(("kind", "changes"), [("qwen2", {}), ("granite", GRANITE)])
def test_other_families(tmp_path: Path, kind: str, changes: dict[str, float]) -> None:
    """Biases, and factors on embeddings, what is added and logits: those stand outside of what the matrix does."""
    source = model(tmp_path / "source", kind, **changes)
    quantize(source, tmp_path / "quantized", preset="rtn", scheme="W8A8", rotate=True)
    checkpoint = open_checkpoint(tmp_path / "quantized")
    assert checkpoint.head_matrix is not None and head_matrix_problem(checkpoint) is None
    pack(tmp_path / "quantized", tmp_path / "packed", head_bits=32)
    own = ReferenceModel(checkpoint, fake_quant=True, head_bits=32, embed_bits=16).logits(IDS)
    assert relative_error(ReferenceModel(checkpoint, head_bits=32).logits(IDS), own) < 1e-5
    assert relative_error(logits(tmp_path / "packed"), own) < 2e-3


def test_a_model_with_a_head_of_its_own_has_no_matrix(tmp_path: Path) -> None:
    source = model(tmp_path / "source", "llama", tie_word_embeddings=False)
    quantize(source, tmp_path / "quantized", preset="rtn", scheme="W8A8", rotate=True)
    assert open_checkpoint(tmp_path / "quantized").head_matrix is None
    assert not (tmp_path / "quantized" / "agq.safetensors").exists()
