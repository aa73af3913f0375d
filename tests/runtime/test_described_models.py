"""Every field of a ModelSpec that came with ABI 5 reaches the engine: artifacts made by hand, against NumPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.artifact.layout import pack_rows
from agq.artifact.linear_info import LinearInfo
from agq.artifact.reader import open_artifact
from agq.artifact.schema import ArtifactModel, linear_shapes, norm_sizes
from agq.artifact.writer import write_artifact
from agq.errors import AgqError
from agq.models import ModelSpec, RopeSpec
from agq.native.library import load_library
from agq.runtime.descriptor import build_model
from agq.runtime.engine import Engine

SPECIAL = {"bos_id": None, "eos_ids": [], "bos_token": None, "eos_token": None, "pad_token": None, "unk_token": None}
PLAIN = ModelSpec(
    family="llama",
    hidden=24,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=10,
    ffn=20,
    vocab=19,
    context=64,
    norm="rms",
    norm_eps=1e-5,
    position="rope",
    activation="silu_gated",
    attention_scale=0.4,
    tied=False,
    embed_dim=24,
    rope=RopeSpec(),
)
SOFT = replace(
    PLAIN,
    activation="gelu_tanh_gated",
    qk_norm="head",
    post_norms=True,
    embed_scale=3.0,
    residual_scale=0.7,
    logit_scale=0.5,
    attention_softcap=2.0,
    logit_softcap=3.0,
    rotary_dim=6,
    window=4,
    window_layers=(0, 2),
    rope_local=RopeSpec(theta=50.0),
    unrotated_layers=(2,),
)
SPECS = {
    "plain": PLAIN,
    "caps, windows, factors": SOFT,
    "norms after only": replace(PLAIN, pre_norms=False, post_norms=True, qk_norm="whole"),
    "parallel": replace(PLAIN, norm="layer", parallel=True, activation="gelu_erf", rotary_dim=4, unrotated_layers=(1,)),
    "erf gate": replace(PLAIN, activation="gelu_erf_gated", window=7, window_layers=(1,)),
}


def values(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 tensors by the artifact's names; linears as [out, in]."""
    rng = np.random.default_rng(seed)
    found = {name: rng.normal(0, shape[1] ** -0.5, shape) for name, shape in linear_shapes(spec).items()}
    found |= {"embed": rng.normal(0, 1, (spec.vocab, spec.embed_dim))}
    found |= {name: rng.normal(float(name.endswith("weight")), 0.3, size) for name, size in norm_sizes(spec).items()}
    return {name: array.astype(np.float32) for name, array in found.items()}


def write(path: Path, spec: ModelSpec, tensors: dict[str, np.ndarray]) -> Path:
    """An artifact of float weights."""
    documents = {"tokenizer.json": b"{}", "config.json": b"{}"}
    linears = {name: LinearInfo(*shape, "f32") for name, shape in linear_shapes(spec).items()}
    special = {**SPECIAL, "add_bos_token": None, "add_eos_token": None}
    sizes = {name: len(content) for name, content in documents.items()}
    model = ArtifactModel(spec, 32, 32, False, linears, {"embed": "f32"}, sizes, special)
    stored: dict[str, Any] = {name: np.frombuffer(content, np.uint8) for name, content in documents.items()}
    for name, array in tensors.items():
        stored[f"{name}.weight" if name in linears else name] = pack_rows(array) if name in linears else array
    pieces = {name: (lambda array=array: [np.ascontiguousarray(array)]) for name, array in stored.items()}
    write_artifact(path, model, pieces, None, {"name": "by hand", "sha256": "0" * 64}, "agq test")
    return path


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + PLAIN.norm_eps) * weight


def erf(x: np.ndarray) -> np.ndarray:
    from math import erf as one

    return np.vectorize(one)(x)


ACTIVATIONS = {
    "silu_gated": lambda x: x / (1 + np.exp(-x)),
    "gelu_erf": lambda x: x / 2 * (1 + erf(x / 2**0.5)),
    "gelu_erf_gated": lambda x: x / 2 * (1 + erf(x / 2**0.5)),
    "gelu_tanh_gated": lambda x: x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
}


def turn(spec: ModelSpec, layer: int, x: np.ndarray) -> np.ndarray:
    """RoPE of x [tokens, heads, head_dim]."""
    if layer in spec.unrotated_layers:
        return x
    rope = spec.rope_local if spec.rope_local is not None and layer in spec.window_layers else spec.rope
    half = spec.turned // 2
    angles = np.arange(len(x))[:, None, None] * rope.theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half : 2 * half]
    return np.concatenate(
        [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles), x[..., 2 * half :]], -1
    )


def forward(spec: ModelSpec, t: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Logits [tokens, vocab] in float64, straight from the description."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        if spec.norm == "rms":
            return rms(x, t[f"{name}.weight"])
        x = x - x.mean(-1, keepdims=True)
        return rms(x, t[f"{name}.weight"]) + t[f"{name}.bias"]

    def cap(x: np.ndarray, c: float) -> np.ndarray:
        return c * np.tanh(x / c) if c else x

    t = {name: array.astype(np.float64) for name, array in t.items()}
    h = t["embed"][tokens] * spec.embed_scale
    n, q, kv = len(tokens), spec.q_size, spec.kv_size
    distance = np.arange(n)[:, None] - np.arange(n)
    for i in range(spec.layers):
        block = f"blocks.{i}"
        x = norm(h, f"{block}.attn_norm") if spec.pre_norms else h
        rows = x @ t[f"{block}.qkv"].T
        parts = [rows[:, :q], rows[:, q : q + kv], rows[:, q + kv :]]
        if spec.qk_norm == "whole":
            parts[:2] = [
                rms(part, t[f"{block}.{name}.weight"])
                for part, name in zip(parts[:2], ("q_norm", "k_norm"), strict=True)
            ]
        query, key, value = (part.reshape(n, -1, spec.head_dim) for part in parts)
        if spec.qk_norm == "head":
            query, key = rms(query, t[f"{block}.q_norm.weight"]), rms(key, t[f"{block}.k_norm.weight"])
        key, value = (np.repeat(part, spec.heads // spec.kv_heads, 1) for part in (turn(spec, i, key), value))
        scores = cap(
            np.einsum("ihd,jhd->hij", turn(spec, i, query), key) * spec.attention_scale, spec.attention_softcap
        )
        seen = (distance >= 0) & ((distance < spec.window) | (i not in spec.window_layers))
        scores = np.exp(np.where(seen, scores, -np.inf))
        attended = np.einsum("hij,jhd->ihd", scores / scores.sum(-1, keepdims=True), value).reshape(n, -1)
        delta = attended @ t[f"{block}.out"].T
        delta = norm(delta, f"{block}.attn_post_norm") if spec.post_norms else delta
        before, h = h, h + spec.residual_scale * delta
        x = before if spec.parallel else h
        up = (norm(x, f"{block}.mlp_norm") if spec.pre_norms else x) @ t[f"{block}.up"].T
        act = ACTIVATIONS[spec.activation](up[:, : spec.ffn]) * (up[:, spec.ffn :] if spec.gated else 1)
        delta = act @ t[f"{block}.down"].T
        h = h + spec.residual_scale * (norm(delta, f"{block}.mlp_post_norm") if spec.post_norms else delta)
    return cap(norm(h, "final_norm") @ t["head"].T * spec.logit_scale, spec.logit_softcap)


@pytest.mark.parametrize("name", SPECS)
def test_the_engine_computes_the_description(tmp_path: Path, name: str) -> None:
    spec = SPECS[name]
    tensors = values(spec)
    path = write(tmp_path / "m.agq.safetensors", spec, tensors)
    tokens = np.random.default_rng(1).integers(0, spec.vocab, 23)
    with Engine(path, threads=1) as engine:
        found = engine.forward(tokens, logits="all")
        engine.truncate(0, 11)
        again = engine.forward(tokens[11:], logits="all")
    expected = forward(spec, tensors, tokens)
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()
    assert np.array_equal(again, found[11:])
    artifact = open_artifact(path)
    assert artifact.spec == spec and not artifact.verify()
    assert artifact.info.abi == (4 if spec == PLAIN else 5)


def test_norms_have_their_own_sizes() -> None:
    head, whole = norm_sizes(SOFT), norm_sizes(SPECS["norms after only"])
    assert head["blocks.1.q_norm.weight"] == head["blocks.1.k_norm.weight"] == 10
    assert (whole["blocks.2.q_norm.weight"], whole["blocks.2.k_norm.weight"]) == (40, 20)
    assert "blocks.0.attn_norm.weight" not in whole and whole["blocks.0.mlp_post_norm.weight"] == 24
    both = norm_sizes(replace(SPECS["parallel"], qk_norm="head"))
    assert "blocks.0.attn_norm.bias" in both and "blocks.0.q_norm.bias" not in both


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(PLAIN, residual_from_norm=True, pre_norms=False, post_norms=True), "a norm that the model lacks"),
        (replace(PLAIN, attention_softcap=1e-9), "`attention_softcap` of 1e-09"),
        (replace(PLAIN, logit_softcap=1e-9), "`logit_softcap` of 1e-09"),
    ],
)
def test_what_the_engine_lacks_is_refused_by_name(tmp_path: Path, spec: ModelSpec, message: str) -> None:
    artifact = open_artifact(write(tmp_path / "m.agq.safetensors", spec, values(spec)))
    with pytest.raises(AgqError, match=message):
        build_model(load_library().ffi, artifact)
