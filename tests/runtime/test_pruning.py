"""Token pruning in the engine: the same survivors and logits as the torch reference, in all three families; and what
a slot with caches of different length allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agq.errors import AgqError
from agq.recipe.pruning import PruningOptions
from agq.reference.decoder import ReferenceModel
from agq.reference.pruning import pruned_states
from agq.runtime.engine import Engine
from tests.runtime.runtime_support import relative_error, save_with_tokenizer
from tests.runtime.test_against_transformers import bloom, opt

TOKENS = 150


@pytest.fixture(scope="module")
def family(request: pytest.FixtureRequest, fp32_artifact, demo_model: Path, shared_model):
    """(torch reference, artifact of float32 weights and cache) of one trained model."""
    folder = demo_model if request.param == "llama-demo" else shared_model(request.param)
    return ReferenceModel.from_folder(folder), fp32_artifact(folder)


def some_tokens(vocab: int, n: int = TOKENS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab, n)


families = pytest.mark.parametrize("family", ["llama-demo", "opt-demo", "bloom-demo"], indirect=True)


@families
@pytest.mark.parametrize("positions", ["safe", "paper"])
def test_evaluation_agrees_with_the_reference(family, positions: str) -> None:
    """Logits of every token are asked for and none is protected: those of removed tokens leave early."""
    model, artifact = family
    options = PruningOptions("2-4,6", 0.4, positions)
    tokens = some_tokens(model.spec.vocab)
    expected = pruned_states(model, torch.as_tensor(tokens), options, protect_wanted=False)
    logits = model.head(expected.hidden).numpy()
    with Engine(artifact, threads=2, context=TOKENS, batch=TOKENS) as engine:
        engine.set_pruning(options, protect_wanted=False)
        found = engine.forward(tokens, logits="all")
        kept = engine.survivors()
    assert np.array_equal(kept, expected.kept.numpy())
    assert kept[0] and kept[-1] and kept.sum() == expected.counts[-1] == options.counts(TOKENS, model.spec.layers)[-1]
    assert relative_error(found, logits) < 1e-4


@families
@pytest.mark.parametrize("positions", ["safe", "paper"])
def test_decoding_after_a_pruned_prompt(family, positions: str) -> None:
    """Tokens appended one by one, and several at once, attend over each layer's own list."""
    model, artifact = family
    options = PruningOptions("2-6", 0.5, positions)
    tokens = some_tokens(model.spec.vocab, TOKENS + 12)
    expected = pruned_states(model, torch.as_tensor(tokens), options, prompt=TOKENS)
    logits = model.head(expected.hidden[TOKENS - 1 :]).numpy()
    with Engine(artifact, threads=1, context=TOKENS + 20, pruning=options) as engine:
        found = [engine.forward(tokens[:TOKENS])]
        found += [engine.forward(tokens[TOKENS : TOKENS + 5], logits="all")]
        found += [engine.forward(tokens[i : i + 1]) for i in range(TOKENS + 5, TOKENS + 12)]
        kept = engine.survivors()
        assert np.array_equal(kept, expected.kept.numpy())
        assert relative_error(np.concatenate(found), logits) < 1e-4
        engine.truncate(0, TOKENS + 5)
        again = engine.forward(tokens[TOKENS + 5 :], logits="all")
        assert np.array_equal(again, np.concatenate(found[2:]))


@pytest.mark.parametrize("shape", ["norms after, projections", "residual from norm"])
def test_unusual_shapes(shape: str, fp32_artifact, tmp_path: Path) -> None:
    """Tokens leave early through the norms and projections that stand after the residual addition."""
    torch.manual_seed(3)
    model = (
        opt(do_layer_norm_before=False, word_embed_proj_dim=32, num_hidden_layers=4)
        if shape == "norms after, projections"
        else bloom(apply_residual_connection_post_layernorm=True, n_layer=4)
    )
    folder = save_with_tokenizer(model, tmp_path / "model")
    reference, tokens = ReferenceModel.from_folder(folder), some_tokens(300, 100)
    options = PruningOptions("1,3-4", 0.6)
    expected = pruned_states(reference, torch.as_tensor(tokens), options, protect_wanted=False)
    with Engine(fp32_artifact(folder), threads=1, context=100, batch=100) as engine:
        engine.set_pruning(options, protect_wanted=False)
        found = engine.forward(tokens, logits="all")
        assert np.array_equal(engine.survivors(), expected.kept.numpy())
    assert relative_error(found, reference.head(expected.hidden).numpy()) < 1e-4


@families
def test_no_ratio_is_no_pruning(family) -> None:
    model, artifact = family
    tokens = some_tokens(model.spec.vocab)
    with Engine(artifact, threads=2, context=TOKENS, batch=64) as engine:
        plain = engine.forward(tokens, logits="all")
    for options, protect in ((PruningOptions("1-6", 0.0), False), (PruningOptions("2-3", 0.0, "paper"), True)):
        with Engine(artifact, threads=1, context=TOKENS, batch=TOKENS) as engine:
            engine.set_pruning(options, protect)
            first = engine.forward(tokens[:100], logits="all")
            rest = engine.forward(tokens[100:], logits="all")
            assert np.array_equal(np.concatenate([first, rest]), plain)
            assert engine.survivors().all()
    hidden = model.hidden(torch.as_tensor(tokens)[None])[0]
    assert torch.equal(pruned_states(model, torch.as_tensor(tokens), PruningOptions("1-6", 0.0)).hidden, hidden)


def test_protected_tokens_scores_and_slots(fp32_artifact, demo_model: Path) -> None:
    """Wanted tokens stay; several prompts in one batch are pruned as each alone; log2 scores choose as the
    reference."""
    model, artifact = ReferenceModel.from_folder(demo_model), fp32_artifact(demo_model)
    tokens = some_tokens(model.spec.vocab)
    want = np.zeros(TOKENS, bool)
    want[[3, 50, 149]] = True
    options = PruningOptions("1-5", 0.8, scores="code-compat")
    expected = pruned_states(model, torch.as_tensor(tokens), options, wanted=torch.as_tensor(want))
    with Engine(artifact, threads=1, context=TOKENS, slots=3, pruning=options, batch=2 * TOKENS) as engine:
        alone = engine.forward(tokens, slot=1, logits=want)
        kept = engine.survivors(1)
        assert kept[want].all() and np.array_equal(kept, expected.kept.numpy())
        assert relative_error(alone, model.head(expected.hidden[want]).numpy()) < 1e-4
        engine.truncate(1, 0)
        other = some_tokens(model.spec.vocab, 70, seed=1)
        both = engine.forward(
            np.concatenate([other, tokens]),
            slot=[2] * 70 + [1] * TOKENS,
            logits=np.concatenate([np.zeros(70, bool), want]),
        )
        assert np.array_equal(both, alone) and np.array_equal(engine.survivors(1), kept)
        step = engine.forward([5, 6], slot=[0, 2], logits="all")
        engine.truncate(0, 0), engine.truncate(2, 0)
        engine.forward(other, slot=2)
        assert np.array_equal(engine.forward([6], slot=2)[0], step[1])


def test_what_a_pruned_slot_refuses(fp32_artifact, demo_model: Path) -> None:
    artifact = fp32_artifact(demo_model)
    options = PruningOptions("2-6", 0.5)
    with Engine(artifact, threads=1, context=200, batch=100, pruning=options) as engine:
        tokens = some_tokens(engine.vocab)
        with pytest.raises(AgqError, match="150 tokens do not fit a batch of 100"):
            engine.forward(tokens)
        engine.forward(tokens[:100])
        with pytest.raises(AgqError, match="cannot be cut to 50"):
            engine.truncate(0, 50)
        assert engine.length() == 100
        engine.forward(tokens[100:])
        engine.truncate(0, 100)
        with pytest.raises(AgqError, match="holds tokens"):
            engine.set_pruning(None)
        with pytest.raises(AgqError, match="names layer 7, the model has 6"):
            engine.set_pruning(PruningOptions("2-7", 0.5))
        engine.truncate(0, 0)
        engine.set_pruning(None)
        engine.forward(tokens)
        assert engine.survivors().all()
        engine.truncate(0, 50)


def test_a_conversation_goes_on_after_a_pruned_prompt(demo_artifact: Path) -> None:
    """The pruned prompt is used again as a whole, or computed again: never cut in between."""
    from agq.runtime.generation import generate, load_tokenizer

    options = PruningOptions("2-4", 0.5)
    with Engine(demo_artifact, threads=1, context=200, pruning=options) as engine:
        tokenizer = load_tokenizer(engine.artifact)
        prompt = some_tokens(engine.vocab, 60).tolist()
        first = generate(engine, tokenizer, prompt, max_tokens=5, eos_ids=[])
        list(first)
        longer = prompt + first.tokens + [5, 6, 7]
        second = generate(engine, tokenizer, longer, max_tokens=5, eos_ids=[], cached=first.history())
        list(second)
        assert second.statistics.cached_tokens == 64  # the last generated one was not computed
        other = generate(engine, tokenizer, prompt[:40] + [9] * 10, max_tokens=5, eos_ids=[], cached=second.history())
        list(other)
        assert other.statistics.cached_tokens == 0
        engine.truncate(0, 0)
        again = generate(engine, tokenizer, prompt[:40] + [9] * 10, max_tokens=5, eos_ids=[])
        list(again)
        assert again.tokens == other.tokens
