"""The folder that quantization writes: what it says of itself, and that it computes the model that was quantized."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agq.artifact.pack import pack
from agq.checkpoint import open_checkpoint
from agq.evaluation.opening import open_scorer
from agq.quantization.report import QuantizeReport
from agq.quantization.transforms.parameters import TransformedParameters
from agq.reference.decoder import ReferenceModel
from tests.quantization.quantization_support import quantized

pytestmark = pytest.mark.slow

EVERYTHING = {
    "scheme": "W4A4",
    "rotate": True,
    "scale": True,
    "hadamard": 128,
    "permute": True,
    "act_clip": 0.9,
    "rot_steps": 8,
}


@pytest.fixture(scope="module")
def made(short_model: Path, tmp_path_factory: pytest.TempPathFactory) -> QuantizeReport:
    output = tmp_path_factory.mktemp("written") / "everything"
    return quantized(short_model, output, ignore=["re:.*layers.1.mlp.down_proj"], **EVERYTHING)


@pytest.fixture(scope="module")
def folder(made: QuantizeReport) -> Path:
    return made.path


def test_agq_json_names_what_is_computed_online(folder: Path) -> None:
    record = json.loads((folder / "agq.json").read_text())
    assert record["online"] == ["hadamard", "act_clip", "kv8"]
    assert record["transforms"]["r1"] == 0 and record["transforms"]["hadamard"] == 128
    assert record["transforms"]["scaled"] == ["down", "o"] and record["transforms"]["permuted"] is True
    first = record["activations"]["model.layers.0.mlp.down_proj"]
    assert first == {"bits": 4, "symmetric": False, "group_size": 128, "clip": 0.9, "hadamard": 128}
    left = record["activations"]["model.layers.1.mlp.down_proj"]
    assert left["bits"] == 16 and left["hadamard"] == 128
    checkpoint = open_checkpoint(folder)
    assert checkpoint.record.clips["model.layers.0.self_attn.q_proj"] == 0.9
    assert "model.layers.1.mlp.down_proj" not in checkpoint.record.clips
    assert set(checkpoint.record.hadamards) == {f"model.layers.{i}.mlp.down_proj" for i in range(2)}


def test_rotated_model_is_untied_and_named_as_agqs_own(folder: Path, short_model: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "agq_llama" and config["tie_word_embeddings"] is False
    checkpoint = open_checkpoint(folder)
    assert not checkpoint.spec.tied and checkpoint.dtype("lm_head.weight") == "BF16"
    assert not np.array_equal(checkpoint.read("lm_head.weight"), checkpoint.read("model.embed_tokens.weight"))
    assert np.all(checkpoint.read("model.norm.weight") == 1)


def test_transformers_refuses_a_folder_that_it_would_compute_wrongly(folder: Path) -> None:
    from transformers import AutoConfig

    with pytest.raises(ValueError, match="agq_llama"):
        AutoConfig.from_pretrained(folder)


def test_written_tensors_are_those_of_the_transformed_model(made: QuantizeReport, short_model: Path) -> None:
    """Everything that is not quantized, to the precision of bf16."""
    source = open_checkpoint(short_model)
    written = open_checkpoint(made.path)
    parameters = TransformedParameters(source, made.transforms)
    for name in (
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.0.input_layernorm.weight",
    ):
        expected = parameters.tensor(name).numpy()
        assert np.abs(written.read(name) - expected).max() <= 2.0**-8 * np.abs(expected).max()


def test_eight_bit_transformed_model_computes_what_the_original_does(short_model: Path, tmp_path: Path) -> None:
    """Two-sided: the quantized model differs from the original, by as little as eight bits allow."""
    ids = np.random.default_rng(0).integers(3, 8192, 64)
    expected = ReferenceModel.from_folder(short_model).logits(ids)
    for name, options in {
        "plain": {},
        "rotated": {"rotate": True, "scale": True, "hadamard": 256, "permute": True},
    }.items():
        quantized(short_model, tmp_path / name, scheme="W8A8", **options)
        found = ReferenceModel.from_folder(tmp_path / name).logits(ids)
        error = np.abs(found - expected).mean() / expected.std()
        assert 1e-4 < error < 0.03, name


def test_untransformed_tensors_are_copied_bit_for_bit(short_model: Path, tmp_path: Path) -> None:
    quantized(short_model, tmp_path / "plain", scheme="W4A8", method="rtn")
    source, written = open_checkpoint(short_model), open_checkpoint(tmp_path / "plain")
    for name in source.parts.dense_tensors():
        assert np.array_equal(source.read_raw(name)[1], written.read_raw(name)[1])
    record = json.loads((tmp_path / "plain" / "agq.json").read_text())
    assert "transforms" not in record and record["online"] == ["kv8"]


def test_rotated_folder_without_online_steps_loads_in_transformers(short_model: Path, tmp_path: Path) -> None:
    """R1, R2 and scales are only other weights: the same class, no stray key."""
    from transformers import AutoModelForCausalLM

    quantized(short_model, tmp_path / "rotated", scheme="W4A8", rotate=True, scale=True)
    config = json.loads((tmp_path / "rotated" / "config.json").read_text())
    assert config["model_type"] == "llama"
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "rotated", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[kind], (kind, report[kind])
    assert model.config.tie_word_embeddings is False


@pytest.mark.parametrize(
    "options",
    [{"scheme": "W4A8", "rotate": True, "scale": True}, {"kv_bits": 4, **EVERYTHING}],
    ids=["w4a8", "everything"],
)
def test_packing_computes_the_transformed_model(short_model: Path, tmp_path: Path, options: dict) -> None:
    """A single token mostly goes through all layers before a rounding falls the other way: exactly the reference for
    most tokens. Longer texts differ by such flips, which with 8-bit activations stay far below what quantization itself
    changes."""
    quantized(short_model, tmp_path / "rotated", **options)
    pack(tmp_path / "rotated", tmp_path / "rotated.agq.safetensors")
    ids = np.random.default_rng(0).integers(3, 8192, 64)
    original = ReferenceModel.from_folder(short_model).logits(ids)
    expected = ReferenceModel.from_folder(tmp_path / "rotated").logits(ids)
    scorer = open_scorer(tmp_path / "rotated.agq.safetensors", threads=1)
    found = np.concatenate(list(scorer.logits(ids, 0, 64, 64)))
    reference = ReferenceModel.from_folder(tmp_path / "rotated")
    exact = 0
    for token in ids[:12]:
        alone = next(iter(scorer.logits(np.array([token]), 0, 1, 1)))[0]
        exact += bool(np.abs(alone - reference.logits(np.array([token]))[0]).max() < 1e-4 * expected.std())
    scorer.close()
    assert exact >= 7
    if options["scheme"] == "W4A8":
        assert np.abs(found - expected).mean() < 0.25 * np.abs(expected - original).mean()
