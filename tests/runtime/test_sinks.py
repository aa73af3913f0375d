"""Sink tokens: the first tokens of a sequence have 8-bit activations where the others have 4. The engine against the
torch reference and against the same weights with 8 bits everywhere; chunks, batches and pruning; files and what they
refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import agq
from agq.artifact import open_artifact
from agq.artifact.schema import ArtifactModel
from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.formats.limits import MAX_SINK_TOKENS
from agq.inspect.verify import verify
from agq.recipe.pruning import PruningOptions
from agq.reference.decoder import ReferenceModel
from agq.reference.pruning import pruned_states
from agq.runtime.engine import Engine
from tests.checkpoint.folders import config, write_quantized
from tests.runtime.test_online import SHAPES, distance, edited, online_folder

SINKS = 3


def sink_folder(path: Path, settings: dict, sinks: int = SINKS) -> Path:
    """4-bit activations (clipped, behind a transform) everywhere, 8 bits for the first tokens."""

    def mark(record: dict) -> None:
        record.update(sink_tokens=sinks, online=[*record["online"], "sink_tokens"])

    return edited(online_folder(path, settings, 4, kv_bits=8), mark)


def packed(folder: Path) -> Path:
    path = folder.with_suffix(".safetensors")
    agq.pack(folder, path)
    return path


def some_tokens(settings: dict, n: int = 30) -> np.ndarray:
    return np.random.default_rng(3).integers(3, settings["vocab_size"], n)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_engine_equals_the_reference(tmp_path: Path, name: str) -> None:
    settings = SHAPES[name]
    folder, tokens = sink_folder(tmp_path / "sinks", settings), some_tokens(SHAPES[name])
    eight = online_folder(tmp_path / "eight", settings, 8, clip=1.0, kv_bits=8)
    artifact = open_artifact(packed(folder))
    assert artifact.info.sink_tokens == artifact.model["sink_tokens"] == SINKS and artifact.verify() == []
    expected = ReferenceModel.from_folder(folder, head_bits=8).logits(tokens)
    with Engine(artifact, threads=1, context=40) as engine:
        whole = engine.forward(tokens, logits="all")
    with Engine(packed(eight), threads=1, context=40) as engine:
        np.testing.assert_array_equal(engine.forward(tokens, logits="all")[:SINKS], whole[:SINKS])
    errors = np.linalg.norm(whole - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.median(errors) < 2e-3 and errors[:SINKS].max() < 2e-3
    plain = ReferenceModel.from_folder(online_folder(tmp_path / "plain", settings, 4, kv_bits=8), head_bits=8).logits(
        tokens
    )
    assert distance(plain[:SINKS], expected[:SINKS]) > 0.02 and distance(plain[SINKS:], expected[SINKS:]) > 0.005


@pytest.mark.parametrize("name", ["llama", "opt", "bloom"])
def test_chunks_batches_and_truncation(tmp_path: Path, name: str) -> None:
    """The same bits for any cut of a prompt, in a batch with sequences at other positions, and after going back into
    the sinks."""
    artifact, tokens = packed(sink_folder(tmp_path / "sinks", SHAPES[name])), some_tokens(SHAPES[name])
    with Engine(artifact, threads=1, context=40) as engine:
        whole = engine.forward(tokens, logits="all")
    for batch, cuts in ((1, (30,)), (7, (2, 1, 9, 18)), (32, (SINKS, 27)), (32, (1,) * 30)):
        with Engine(artifact, threads=2, context=40, batch=batch) as engine:
            parts = [engine.forward(part, logits="all") for part in np.split(tokens, np.cumsum(cuts)[:-1])]
            np.testing.assert_array_equal(np.concatenate(parts), whole)
            engine.truncate(0, 1)
            np.testing.assert_array_equal(engine.forward(tokens[1:], logits="all"), whole[1:])
    with Engine(artifact, threads=1, context=40, slots=4, batch=64) as engine:
        engine.forward(tokens[:10], slot=2)
        slots = [0] * 12 + [3] * 1 + [2] * 20 + [1] * 5
        rows = [*range(12), 0, *range(10, 30), *range(5)]
        found = engine.forward(tokens[rows], slot=slots, logits="all")
        np.testing.assert_array_equal(found, whole[rows])
        step = engine.forward(tokens[[12, 5, 1]], slot=[0, 1, 3], logits="all")
        np.testing.assert_array_equal(step, whole[[12, 5, 1]])


@pytest.mark.parametrize("name", ["llama", "opt", "bloom"])
@pytest.mark.parametrize("positions", ["safe", "paper"])
def test_pruning_keeps_them(tmp_path: Path, name: str, positions: str) -> None:
    """Also in evaluation, where nothing else but the first and the last token is protected. Who is pruned depends on
    the last bits of
    attention: with one pruning layer, in which most tokens go, reference and engine agree on nearly all."""
    folder, tokens = sink_folder(tmp_path / "sinks", SHAPES[name], 6), some_tokens(SHAPES[name])
    options = PruningOptions("1", 0.7, positions)
    model = ReferenceModel.from_folder(folder, head_bits=8)
    expected = pruned_states(model, torch.as_tensor(tokens), options, protect_wanted=False)
    with Engine(packed(folder), threads=1, context=40, batch=40) as engine:
        engine.set_pruning(options, protect_wanted=False)
        found = engine.forward(tokens, logits="all")
        kept = engine.survivors()
    assert kept[:6].all() and expected.kept[:6].all() and kept.sum() == expected.kept.sum() == 9
    assert (kept == expected.kept.numpy()).mean() > 0.9
    logits = model.head(model.head.transform(expected.hidden)).numpy()
    errors = np.linalg.norm(found - logits, axis=1) / np.linalg.norm(logits, axis=1)
    assert np.median(errors) < 5e-3 and errors[:6].max() < 0.05


@pytest.mark.slow
def test_what_is_said(tmp_path: Path, agq_cli) -> None:
    folder = sink_folder(tmp_path / "q", SHAPES["llama"])
    assert agq.pack(folder, tmp_path / "a.safetensors").sink_tokens == SINKS
    for path in (folder, tmp_path / "a.safetensors"):
        assert json.loads(agq_cli("info", path, "--json", check=True).stdout)["sink_tokens"] == SINKS
        assert f"the first {SINKS} of a sequence" in agq_cli("info", path, check=True).stdout
        assert not any("sink" in problem for problem in verify(path)[1])
    verbose = agq_cli("run", tmp_path / "a.safetensors", "x", "-n", 2, "-c", 40, "-vv", check=True).stderr
    assert f"sink tokens: the first {SINKS}" in verbose


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(sink_tokens=65), "not between 0 and 64"),
        (lambda record: record.update(sink_tokens=-1), "not between 0 and 64"),
        (lambda record: record.update(sink_tokens=True), "not between 0 and 64"),
        (lambda record: record.update(sink_tokens=2.0), "not between 0 and 64"),
        (lambda record: record.update(sink_tokens=0), "contradict"),
        (lambda record: record.update(online=["hadamard"]), "contradict"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, change, words: str) -> None:
    folder = edited(sink_folder(tmp_path / "q", SHAPES["llama"]), change)
    with pytest.raises(AgqError, match=words):
        open_checkpoint(folder)


def test_sinks_of_nothing_are_refused(tmp_path: Path) -> None:
    """Eight-bit activations have none; pack and verify say so."""
    folder = write_quantized(tmp_path / "q", config("opt"), act_bits=8)
    (folder / "agq.json").write_text(json.dumps({"format": 1, "sink_tokens": 4, "online": ["sink_tokens"]}))
    with pytest.raises(AgqError, match="no linear of the blocks has dynamic 4-bit activations"):
        agq.pack(folder, tmp_path / "a.safetensors")
    assert any("sink_tokens" in problem for problem in verify(folder)[1])


@pytest.mark.parametrize("value", [-1, MAX_SINK_TOKENS + 1, 1 << 40, True, 1.0, "4", None, [4]])
def test_descriptors_that_are_refused(tmp_path: Path, value) -> None:
    model = open_artifact(packed(sink_folder(tmp_path / "q", SHAPES["llama"]))).model
    assert ArtifactModel.from_dict({**model, "sink_tokens": MAX_SINK_TOKENS}).sink_tokens == MAX_SINK_TOKENS
    older = {key: item for key, item in model.items() if key != "sink_tokens"}
    assert ArtifactModel.from_dict(older).sink_tokens == 0
    with pytest.raises(AgqError, match="sink_tokens"):
        ArtifactModel.from_dict({**model, "sink_tokens": value})


def test_descriptor_without_four_bits(tmp_path: Path) -> None:
    agq.pack(write_quantized(tmp_path / "q", config("llama"), act_bits=8), tmp_path / "a.safetensors")
    with pytest.raises(AgqError, match="no linear of the blocks"):
        ArtifactModel.from_dict({**open_artifact(tmp_path / "a.safetensors").model, "sink_tokens": 1})
