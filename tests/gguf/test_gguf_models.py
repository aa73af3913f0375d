"""GGUF files of every family against transformers: the engine with float inputs computes what the file means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agq.artifact.pack import pack
from agq.errors import AgqError
from agq.runtime.engine import Engine
from tests import families
from tests.gguf.gguf_files import types_of, write
from tests.runtime.runtime_support import relative_error

torch = pytest.importorskip("torch")

BOUND = 1e-3  # promised; found is 1e-5, a wrong order of rows gives 1e-1
LLAMA3 = {**families.LLAMA3, "original_max_position_embeddings": 8192}
CASES: dict[str, families.Case] = {
    "llama": families.Case("llama", {}),
    "llama-biases": families.Case("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-linear": families.Case(
        "llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}}
    ),
    "llama3": families.Case("llama", {"rope_parameters": LLAMA3}),
    # factors that are not LLaMA 3.1's are taken as they are
    "llama3-others": families.Case("llama", {"rope_parameters": families.LLAMA3}),
    "mistral": families.CASES["mistral"],
    "qwen2": families.CASES["qwen2"],
    "qwen2-yarn": families.CASES["qwen2-yarn"],
    "qwen3": families.CASES["qwen3"],
    "gemma2": families.Case("gemma2", {"sliding_window": 8, "query_pre_attn_scalar": 16}),
    "gemma3": families.Case("gemma3_text", {"sliding_window": 8, "num_hidden_layers": 7, "query_pre_attn_scalar": 16}),
    "gemma3-linear": families.Case(
        "gemma3_text",
        {
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "sliding_window": 5,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi3": families.CASES["phi3"],
    "phi3-longrope": families.CASES["phi3-longrope"],
    "phi4": families.CASES["phi4"],
    "smollm3": families.CASES["smollm3"],
    "olmo2": families.CASES["olmo2"],
    "granite": families.CASES["granite"],
    "gpt_neox": families.CASES["gpt_neox"],
    "gpt_neox-serial": families.Case("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 1.0}),
}


def model_of(name: str) -> Any:
    if name == "bloom":
        from transformers import BloomConfig, BloomForCausalLM

        torch.manual_seed(1)
        model = BloomForCausalLM(BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=301)).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter + torch.randn_like(parameter) * 0.1)
        return model
    return families.make(CASES[name], seed=3)


def compare(model: Any, path: Path, folder: Path, length: int = 60) -> float:
    """Relative error of the packed file's logits with float inputs."""
    pack(path, folder / "packed", act_bits=16, kv_bits=32)
    ids = np.random.default_rng(2).integers(0, 280, length)
    with torch.no_grad():
        expected = model(torch.tensor(ids)[None]).logits[0].float().numpy()
    with Engine(folder / "packed", threads=1, context=length) as engine:
        return relative_error(engine.forward(ids, logits="all"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, "bloom"])
def test_families(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    family = "bloom" if name == "bloom" else CASES[name].family
    path = write(tmp_path / "model.gguf", model, family, types_of("Q4_1"))
    assert compare(model, path, tmp_path) < BOUND


TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "head_dim": 64}


@pytest.mark.slow
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_types(type: str, tied: bool, tmp_path: Path) -> None:
    """Every type of exact codes, in all linears, the head, and the embedding beside it."""
    case = families.Case("qwen3", {**WIDE, "tie_word_embeddings": tied})
    model = families.make(case)
    path = write(tmp_path / "model.gguf", model, "qwen3", types_of(type))
    assert compare(model, path, tmp_path) < BOUND


@pytest.mark.slow
def test_refused_architectures(tmp_path: Path) -> None:
    model = model_of("qwen2")
    path = write(tmp_path / "model.gguf", model, "qwen2", types_of("F16"))
    data = path.read_bytes().replace(b"qwen2", b"qwenX")
    path.write_bytes(data)
    with pytest.raises(AgqError, match="architecture `qwenX`"):
        pack(path, tmp_path / "packed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"), [("expert_count", 4), ("attention.clamp_kqv", 8.0), ("attention.sliding_window", 16)]
)
def test_refused_keys(key: str, value: Any, tmp_path: Path) -> None:
    def change(writer: Any) -> None:
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(f"qwen2.{key}", value)

    path = write(tmp_path / "model.gguf", model_of("qwen2"), "qwen2", types_of("F16"), change)
    with pytest.raises(AgqError, match=f"qwen2.{key}"):
        pack(path, tmp_path / "packed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["output.bias", "blk.1.attn_output.bias", "blk.2.attn_q.scale", "blk.0.attn_k.scale"])
def test_refused_tensors(name: str, tmp_path: Path) -> None:
    """A bias that the family has not, and scales of whole tensors: llama.cpp computes with them."""
    path = write(
        tmp_path / "model.gguf",
        model_of("qwen2"),
        "qwen2",
        types_of("F16"),
        lambda writer: writer.add_tensor(name, np.ones(1, np.float32)),
    )
    with pytest.raises(AgqError, match=f"does not compute with: `{name}`"):
        pack(path, tmp_path / "packed")
