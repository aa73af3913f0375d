"""What agq computes on the way (Hadamard transforms of inputs, clipped activations, a 4-bit KV cache): the engine
against the torch reference, folder against artifact, and what is said and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agq
from agq.artifact import open_artifact
from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.formats import PerGroup
from agq.runtime.engine import Engine
from agq.runtime.generation import load_tokenizer
from tests.checkpoint.folders import config, quantized_tensors, random_tensors, write_folder, write_quantized

SHAPES = {
    "llama": config("llama", hidden_size=128, intermediate_size=352, vocab_size=97),
    "llama-untied": config("llama", tie_word_embeddings=False),
    "opt": config("opt"),
    "bloom": config("bloom"),
}


def online_folder(path: Path, settings: dict[str, Any], bits: int = 8, clip: float = 0.9, kv_bits: int = 4) -> Path:
    """A quantized folder whose agq.json prescribes a transform and clip of every linear and a narrow KV cache."""
    folder = write_quantized(path, settings, act_bits=bits)
    scheme = {"bits": bits, "group_size": -1, "symmetric": bits == 8, "clip": clip}
    modules = {
        linear.module: {**scheme, "hadamard": linear.in_features & -linear.in_features}
        for linear in open_checkpoint(folder).parts.block_linears()
    }
    online = ["hadamard", "act_clip", f"kv{kv_bits}"]
    record = {"format": 1, "activations": modules, "kv_bits": kv_bits, "online": online}
    (folder / "agq.json").write_text(json.dumps(record))
    return folder


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("bits", [4, 8])
def test_engine_equals_the_reference(tmp_path: Path, name: str, bits: int) -> None:
    """Up to values that lie next to a tie of a quantizer: with random weights few tokens meet one."""
    from agq.reference.decoder import ReferenceModel

    settings = SHAPES[name]
    folder = online_folder(tmp_path / "q", settings, bits)
    agq.pack(folder, tmp_path / "a.safetensors")
    artifact = open_artifact(tmp_path / "a.safetensors")
    assert artifact.info.kv_bits == 4 and artifact.verify() == []
    down = artifact.linears["blocks.1.down"]
    assert (down.hadamard, down.act_clip) == (down.inputs & -down.inputs, 0.9)
    tokens = np.random.default_rng(3).integers(3, settings["vocab_size"], 30)
    expected = ReferenceModel.from_folder(folder, head_bits=8).logits(tokens)
    plain = ReferenceModel.from_folder(folder, fake_quant=False).logits(tokens)
    with Engine(artifact, threads=1, context=40) as engine:
        whole = engine.forward(tokens, logits="all")
        engine.truncate(0, 0)
        steps = np.concatenate([engine.forward([token]) for token in tokens])
    np.testing.assert_array_equal(steps, whole)
    errors = np.linalg.norm(whole - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.median(errors) < 2e-3
    assert distance(whole, expected) < 0.2 * distance(plain, expected)


def test_bloom_without_the_norm_of_its_embeddings(tmp_path: Path) -> None:
    """A transformation has computed it into the table: no such tensors, whether config.json or agq.json says so."""
    from agq.reference.decoder import ReferenceModel

    logits = []
    for name, settings, record in (
        ("config", config("bloom", agq_embed_norm=False, tie_word_embeddings=False), None),
        ("record", config("bloom", tie_word_embeddings=False), {"format": 1, "transforms": {"bake_embed_norm": True}}),
    ):
        lacking = config("bloom", agq_embed_norm=False, tie_word_embeddings=False)
        folder = write_folder(tmp_path / name, lacking)
        (folder / "config.json").write_text(json.dumps(settings))
        if record is not None:
            (folder / "agq.json").write_text(json.dumps(record))
        checkpoint = open_checkpoint(folder)
        assert not checkpoint.spec.embed_norm and checkpoint.parts.embed_norm is None
        agq.pack(folder, tmp_path / f"{name}.safetensors", weights="f32")
        tokens = np.arange(3, 40)
        with Engine(tmp_path / f"{name}.safetensors", threads=1, context=40) as engine:
            logits.append(engine.forward(tokens, logits="all"))
        assert distance(logits[-1], ReferenceModel.from_folder(folder).logits(tokens)) < 1e-5
    np.testing.assert_array_equal(logits[0], logits[1])


def test_float_weights_with_a_transform(tmp_path: Path) -> None:
    from agq.reference.decoder import ReferenceModel

    folder = write_folder(tmp_path / "m", config("llama", tie_word_embeddings=False))
    modules = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj", "lm_head"]
    entry = {"bits": 16, "group_size": -1, "symmetric": True, "hadamard": 32}
    (folder / "agq.json").write_text(json.dumps({"format": 1, "activations": dict.fromkeys(modules, entry)}))
    agq.pack(folder, tmp_path / "a.safetensors", weights="f32")
    tokens = np.arange(3, 50)
    with Engine(tmp_path / "a.safetensors", threads=2, context=50) as engine:
        assert {plan.name for plan in engine.plan() if "hadamard 32" in plan.activations} == {
            "blocks.0.down",
            "blocks.1.out",
            "head",
        }
        found = engine.forward(tokens, logits="all")
    assert distance(found, ReferenceModel.from_folder(folder).logits(tokens)) < 1e-5


@pytest.fixture(scope="module")
def demo_online(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder, artifact) of the demo model with 4-bit weights, activations (clipped) and KV cache; down's columns are
    transformed as its input is."""
    import torch

    from agq.checkpoint.compressed_tensors import quantization_config
    from agq.numerics.hadamard import fwht
    from agq.recipe import ActivationScheme, WeightScheme
    from agq.safetensors.files import f32_to_bf16

    path = tmp_path_factory.mktemp("demo-online")
    checkpoint = open_checkpoint(demo_model)
    tensors, entries = {}, {}
    for name in random_tensors(checkpoint.config):
        values = checkpoint.read(name)
        tensors[name] = ("BF16", f32_to_bf16(values).reshape(values.shape))
    for linear in checkpoint.parts.block_linears():
        values = torch.from_numpy(checkpoint.read(linear.weight))
        entries[linear.module] = {"bits": 4, "group_size": -1, "symmetric": False, "clip": 0.95}
        if linear.role == "down":
            entries[linear.module]["hadamard"] = linear.in_features & -linear.in_features
            values = fwht(values, entries[linear.module]["hadamard"])
        del tensors[linear.weight]
        tensors.update(quantized_tensors(linear, values.numpy(), 4, 32, True))
    table = quantization_config(
        [(["Linear"], WeightScheme(4, True, PerGroup(32)), ActivationScheme(4, False))], ["lm_head"], "pack-quantized"
    )
    folder = write_folder(path / "q", {**checkpoint.config, "quantization_config": table}, tensors, tokenizer=False)
    for file in checkpoint.tokenizer_files():
        (folder / file.name).write_bytes(file.read_bytes())
    record = {"format": 1, "activations": entries, "kv_bits": 4, "head_bits": 8}
    (folder / "agq.json").write_text(json.dumps(record))
    agq.pack(folder, path / "a.safetensors")
    return folder, path / "a.safetensors"


def log_likelihoods(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """float64 [n - 1]: of tokens 1.. given those before."""
    rows = logits[:-1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return rows[np.arange(tokens.size - 1), tokens[1:]] - np.log(np.exp(rows).sum(axis=1))


@pytest.mark.slow
def test_perplexity_of_the_packed_demo_model(demo_online: tuple[Path, Path], demo_model: Path, demo_text: Path) -> None:
    """With 4-bit activations a value beside a tie of one quantizer makes all that follows in its window another
    rounding of the same model. So: tokens before that agree to float rounding, perplexities to their statistical
    error."""
    from agq.reference.decoder import ReferenceModel

    folder, packed = demo_online
    artifact = open_artifact(packed)
    text = (demo_text / "heldout.txt").read_text(encoding="utf-8")[:11000]
    ids = np.array(load_tokenizer(artifact).encode(text, add_bos=False))
    windows = [ids[start : start + 256] for start in range(0, ids.size - 255, 256)]
    reference, original = ReferenceModel.from_folder(folder), ReferenceModel.from_folder(demo_model)
    starts, differences, losses = [], [], []
    with Engine(artifact, threads=1, context=256) as engine:
        for tokens in windows:
            engine.truncate(0, 0)
            found, expected = engine.forward(tokens, logits="all"), reference.logits(tokens)
            starts += [distance(found[row], expected[row]) for row in range(8)]
            ours = log_likelihoods(found, tokens)
            differences += list(ours - log_likelihoods(expected, tokens))
            losses += list(-original.nll(tokens) - ours)
    assert len(windows) >= 10 and np.median(starts) < 1e-5
    error = np.std(differences) / np.sqrt(len(differences))
    assert abs(np.mean(differences)) < 4 * error and error < 0.012
    assert 0 < np.mean(losses) < np.log(1.6)  # what 4 bits everywhere cost by plain rounding


def test_sizes_of_the_cache(demo_artifact: Path) -> None:
    from agq.inspect.describe import kv_bytes_per_token

    for bits in (4, 8, 32):
        with Engine(demo_artifact, threads=1, context=128, kv_bits=bits) as made:
            assert made.kv_bytes == 128 * kv_bytes_per_token(made.spec, bits)


@pytest.mark.slow
def test_what_is_said(tmp_path: Path, agq_cli) -> None:
    folder = online_folder(tmp_path / "q", SHAPES["llama"], 4)
    report = agq.pack(folder, tmp_path / "a.safetensors")
    assert report.kv_bits == 4 and "W4 g32, A4 per token asym, hadamard 32, clip 0.9" in report.schemes
    for path in (folder, tmp_path / "a.safetensors"):
        shown = agq_cli("info", path, "--json", check=True)
        rows = {item["name"]: item["activations"] for item in json.loads(shown.stdout)["linears"]}
        assert "4 per token asym, hadamard 32, clip 0.9" in rows.values()
        assert "4 bits" in agq_cli("info", path, check=True).stdout
    verbose = agq_cli("run", tmp_path / "a.safetensors", "x", "-n", 2, "-c", 40, "-vv", check=True).stderr
    assert "KV cache 4 bits" in verbose and "hadamard 32, clip 0.9" in verbose


def edited(folder: Path, change) -> Path:
    record = json.loads((folder / "agq.json").read_text())
    change(record)
    (folder / "agq.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(online=["hadamard", "spinquant_r4"]), "`spinquant_r4`"),
        (lambda record: record.update(online="hadamard"), "not a list"),
        (lambda record: record.update(transforms=3), "`transforms`"),
        (lambda record: record["activations"]["model.layers.0.self_attn.q_proj"].update(hadamard=32), "one scheme"),
        (lambda record: record["activations"]["model.layers.0.self_attn.v_proj"].update(clip=0.5), "one scheme"),
        (lambda record: record["activations"]["model.layers.1.mlp.down_proj"].update(hadamard=64), "block of 64"),
        (
            lambda record: record["activations"].update(
                lm_head={"bits": 16, "group_size": -1, "symmetric": True, "hadamard": 32}
            ),
            "tied",
        ),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, change, words: str) -> None:
    folder = edited(online_folder(tmp_path / "q", SHAPES["llama"]), change)
    with pytest.raises(AgqError, match=words):
        agq.pack(folder, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
