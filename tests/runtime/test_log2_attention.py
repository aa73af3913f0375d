"""Integer attention with powers of two: the 4-bit log2 quantizer, and the engine against the torch reference."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import agq
from agq.checkpoint.attention_scales import AttentionScales
from agq.errors import AgqError
from agq.evaluation.perplexity import token_nll
from agq.numerics.trip import calibrate
from agq.recipe.pruning import PruningOptions
from agq.reference.attention import Scoring, attend_through
from agq.reference.attention_log2 import attend_log2
from agq.reference.decoder import ReferenceModel
from agq.reference.pruning import log2_probability, pruned_states
from agq.runtime.engine import Engine


def scales_of(model: ReferenceModel, windows: torch.Tensor) -> list[AttentionScales]:
    """Static scales from int64 windows [m, n]: absolute maxima of q and k per head, TRIP for v."""
    found = []
    for block in model.blocks:
        block.capture = {}
    model.hidden(windows)
    for block in model.blocks:
        q, k, v = (block.capture[name] for name in ("q*", "k*", "v*"))
        block.capture = None
        values = calibrate(v.transpose(1, 2).flatten(2).flatten(0, 1), 8, 3)
        q_scale, k_scale = ((x.abs().amax(dim=(0, 2, 3)) / 127).numpy() for x in (q, k))
        found.append(AttentionScales(q_scale, k_scale, values.scale, values.zero, values.alpha.numpy()))
    return found


@pytest.fixture(scope="module")
def integer(request: pytest.FixtureRequest, demo_model: Path, shared_model, demo_text: Path, tmp_path_factory):
    """What `make` gives for a trained model."""
    folder = demo_model if request.param == "llama-demo" else shared_model(request.param)
    return make(folder, demo_text, tmp_path_factory.mktemp("log2"))


@pytest.fixture(scope="module")
def integer_llama(demo_model: Path, demo_text: Path, tmp_path_factory):
    return make(demo_model, demo_text, tmp_path_factory.mktemp("log2"))


def make(folder: Path, demo_text: Path, place: Path) -> tuple[ReferenceModel, Path, np.ndarray]:
    """(reference with integer attention, artifact of float32 weights, tokens of held-out text)."""
    windows = torch.as_tensor(tokens_of(folder, demo_text / "calibration.txt")[:768]).view(3, 256)
    scales = scales_of(ReferenceModel.from_folder(folder), windows)
    output = place / "model.agq.safetensors"
    agq.pack(folder, output, weights="f32", head_bits=32, attention=scales)
    return ReferenceModel.from_folder(folder, attention=scales), output, held_out(folder, demo_text)


def tokens_of(folder: Path, text: Path) -> np.ndarray:
    from agq.text.tokenizers import load_tokenizer

    return np.asarray(load_tokenizer(folder).encode(text.read_text(encoding="utf-8")[:6000]))


def held_out(folder: Path, demo_text: Path) -> np.ndarray:
    return tokens_of(folder, demo_text / "heldout.txt")[:600]


def ppl(logits: np.ndarray, tokens: np.ndarray) -> float:
    return math.exp(token_nll(logits[:-1].copy(), tokens[1:]).mean())


def test_quantizer_vectors() -> None:
    """The published form of the log2 quantizer: round to nearest exponent, 16 and more are zero."""
    p = torch.tensor([0.3, 0.7, 2**-15.4, 2**-15.6, 2**-0.49, 1.0, 0.0])
    assert log2_probability(p).tolist() == [0.25, 0.5, 2.0**-15, 0.0, 1.0, 1.0, 0.0]


def test_attention_by_hand() -> None:
    """Shifts and additions on Python integers; no accumulator beyond 128 * 2^15 * sqrt 2 before the zero point."""
    rng = np.random.default_rng(5)
    heads, kv_heads, n, d = 4, 2, 40, 8
    q, k, v = (
        torch.as_tensor(rng.normal(0, 2, (1, h, n, d)), dtype=torch.float32) for h in (heads, kv_heads, kv_heads)
    )
    scales = AttentionScales(
        rng.uniform(0.03, 0.06, heads), rng.uniform(0.03, 0.06, kv_heads), 0.01, 140, rng.integers(0, 4, kv_heads * d)
    )
    found = attend_log2(q, k, v, scales, Scoring(0.35))[0].numpy()
    for head in range(heads):
        kv = head // 2
        qc = np.clip(np.rint(q[0, head].numpy() * (1 / scales.q_scale[head])), -127, 127).astype(int)
        kc = np.clip(np.rint(k[0, kv].numpy() * (1 / scales.k_scale[kv])), -127, 127).astype(int)
        step = scales.v_scale * 2.0 ** scales.v_exponent[kv * d : (kv + 1) * d].astype(float)
        vc = np.clip(np.rint(v[0, kv].numpy() / step) + 140, 0, 255).astype(int) - 128
        for row in range(n):
            s = [float(qc[row] @ kc[j]) * scales.q_scale[head] * scales.k_scale[kv] * 0.35 for j in range(row + 1)]
            p = np.exp(np.array(s) - max(s))
            p /= p.sum()
            acc, total = np.zeros(d, dtype=int), 0
            for j in range(row + 1):
                exponent = round(-math.log2(p[j]))
                if exponent <= 15:
                    acc += vc[j] << (15 - exponent)
                    total += 1 << (15 - exponent)
            assert np.abs(acc).max() <= 5.94e6 and total <= 2**15 * math.sqrt(2)
            expected = (acc + (128 - 140) * total) * 2.0**-15 * step
            assert np.allclose(found[head, row], expected, rtol=1e-5, atol=1e-5)


models = pytest.mark.parametrize("integer", ["llama-demo", "opt-demo", "bloom-demo"], indirect=True)


@pytest.mark.slow
@models
def test_engine_agrees_with_the_reference(integer) -> None:
    """Exponents differ only where -log2 p is at a tie. Perplexity within 0.2 %, but for opt-demo: there flipped
    exponents change windows of 600 tokens by 0.5 % (standard deviation) either way, depending on the processor that
    computes the reference; 6000 tokens by 0.2 %."""
    reference, artifact, tokens = integer
    expected = reference.logits(tokens)
    with Engine(artifact, threads=2, context=640) as engine:
        found = engine.forward(tokens, logits="all")
        engine.truncate(0, 0)
        pieces = [engine.forward(part, logits="all") for part in np.split(tokens, [1, 2, 130])]
        assert np.array_equal(np.concatenate(pieces), found)
        assert engine.kv_bytes < 2 * engine.spec.layers * engine.spec.kv_size * 640 * 1.3  # one byte for each value
    allowed = 1e-2 if engine.spec.family == "opt" else 2e-3
    assert abs(ppl(found, tokens) / ppl(expected, tokens) - 1) < allowed
    errors = np.abs(found - expected).max(axis=1) / np.abs(expected).max()
    assert np.median(errors) < 0.02


@models
def test_integers_add_little_to_the_quantizer(integer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the 4-bit log2 quantizer on a floating-point softmax, with q, k, v as computed."""
    reference, _, tokens = integer

    def floats(q, k, v, scales, scoring, shares=None):
        return attend_through(q, k, v, scoring, log2_probability)

    integers = ppl(reference.logits(tokens), tokens)
    monkeypatch.setattr("agq.reference.block.attend_log2", floats)
    assert abs(integers / ppl(reference.logits(tokens), tokens) - 1) < 0.01


@pytest.mark.slow
def test_pruning_with_integer_attention(integer_llama) -> None:
    reference, artifact, tokens = integer_llama
    for scores in ("fp", "code-compat"):
        options = PruningOptions("2-5", 0.4, scores=scores)
        expected = pruned_states(reference, torch.as_tensor(tokens), options, protect_wanted=False)
        with Engine(artifact, threads=1, context=640, batch=640) as engine:
            engine.set_pruning(options, protect_wanted=False)
            found = engine.forward(tokens, logits="all")
            kept = engine.survivors()
        same = kept == expected.kept.numpy()
        assert same.mean() > 0.97  # exponents at a tie shift importances, and with them the last survivors
        assert abs(ppl(found, tokens) / ppl(reference.head(expected.hidden).numpy(), tokens) - 1) < 0.02


def test_refusals(integer_llama, demo_model: Path, tmp_path: Path) -> None:
    reference, artifact, _ = integer_llama
    scales = [block.scales for block in reference.blocks]
    with pytest.raises(AgqError, match="8-bit keys and values, not 32-bit"):
        Engine(artifact, kv_bits=32)
    with pytest.raises(AgqError, match="8-bit keys and values, not 32-bit"):
        agq.pack(demo_model, tmp_path / "x", kv_bits=32, attention=scales)
    with pytest.raises(AgqError, match="of 5 blocks, the model has 6"):
        agq.pack(demo_model, tmp_path / "x", attention=scales[:5])
    wrong = replace(scales[0], q_scale=scales[0].q_scale[:-1])
    with pytest.raises(AgqError, match="q_scale has"):
        agq.pack(demo_model, tmp_path / "x", attention=[wrong, *scales[1:]])


def test_a_recipe_that_does_not_fit() -> None:
    from agq.recipe import Recipe, Scheme
    from agq.recipe.agile import AgileOptions

    with pytest.raises(AgqError, match="8-bit keys and values, not 32-bit"):
        Recipe(scheme=Scheme.of(4, 8), agile=AgileOptions(mode="trip", softmax_bits=4), kv_bits=32)
