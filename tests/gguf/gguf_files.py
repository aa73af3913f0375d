"""GGUF files of small random models, written as llama.cpp's converter writes them: by the `gguf` package, from models
of transformers. Block types that the package does not quantize to get random blocks; the model then gets the weights
that they mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.runtime_support import byte_level

gguf = pytest.importorskip("gguf")
Type = gguf.GGMLQuantizationType

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "olmo2": "olmo2",
    "granite": "granite",
    "gpt_neox": "gptneox",
    "bloom": "bloom",
}
# Those whose q and k the converter sorts.
PERMUTED = ("llama", "mistral", "smollm3", "granite")


def random_blocks(kind: Any, blocks: int, seed: int) -> np.ndarray:
    """Valid blocks uint8 [blocks, bytes]: small scales of both signs, everything else at random."""
    rng = np.random.default_rng(seed)
    _, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,)} | dict.fromkeys(
        ("Q4_K", "Q5_K"), (0, 2)
    )
    both = {"Q4_1": (0, 2), "Q5_1": (0, 2)}
    if kind.name == "MXFP4":
        data[:, 0] = rng.integers(118, 124, blocks)
        return data
    if kind.name == "IQ1_M":  # its float16 is spread over the upper four bits of four words
        data[:, 55] = data[:, 55] & 0x0F | 0x10
        return data
    spread = {"IQ4_NL": 1e-3, "IQ4_XS": 3e-5, "Q8_0": 1e-3}.get(kind.name, 2e-4 if kind.name in halves else 2e-3)
    for at in (halves | both).get(kind.name, (0,)):
        values = (rng.normal(0, spread, blocks)).astype("<f2")
        data[:, at : at + 2] = values.view(np.uint8).reshape(blocks, 2)
    return data


def stored(values: np.ndarray, kind: Any, seed: int) -> np.ndarray:
    """A matrix in a type: as the package quantizes it, or random blocks."""
    if kind.name in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        return gguf.quants.quantize(values, kind)
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return random_blocks(kind, values.size // block, seed).reshape(len(values), -1)


def permute(values: np.ndarray, heads: int) -> np.ndarray:
    """convert_hf_to_gguf.py's `permute` of the rows of q and k."""
    shape = values.shape
    return values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def unpermute(values: np.ndarray, heads: int) -> np.ndarray:
    shape = values.shape
    return values.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def sorted_rows(family: str, name: str, values: np.ndarray, config: Any, back: bool) -> np.ndarray:
    """A tensor with its rows as GGUF has them, or `back` again."""
    if family in PERMUTED and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return (unpermute if back else permute)(values, heads)
    if family in ("gpt_neox", "bloom") and "query_key_value" in name:
        heads, shape = config.num_attention_heads, values.shape
        parts = (3, heads) if back else (heads, 3)
        return values.reshape(*parts, -1, *shape[1:]).swapaxes(0, 1).reshape(shape)
    return values


def metadata(family: str, config: Any, writer: Any) -> None:
    """Keys of the model, as set_gguf_parameters of the family's converter."""
    c = config
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(getattr(c, "max_position_embeddings", None) or 64)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(getattr(c, "intermediate_size", None) or 4 * c.hidden_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_vocab_size(c.vocab_size)
    if family in ("gpt_neox", "bloom"):
        writer.add_layer_norm_eps(getattr(c, "layer_norm_eps", None) or c.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(c.num_key_value_heads)
        writer.add_layer_norm_rms_eps(c.rms_norm_eps)
        head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        if family != "phi3":
            writer.add_key_length(head)
            writer.add_value_length(head)
    rope = getattr(c, "rope_parameters", None) or {}
    if family == "gemma3_text":
        writer.add_rope_freq_base(rope["full_attention"]["rope_theta"])
        factor = rope["full_attention"].get("factor")
        if factor:
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(factor)
    elif rope:
        writer.add_rope_freq_base(rope["rope_theta"])
        if rope.get("rope_type") == "linear":  # as files before `rope.scaling.type` have it
            writer.add_float32(f"{ARCHITECTURES[family]}.rope.scale_linear", rope["factor"])
        if rope.get("rope_type") == "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope["factor"])
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if family in ("mistral", "phi3", "gemma2", "gemma3_text") and c.sliding_window:
        writer.add_sliding_window(c.sliding_window)
    if family == "gemma3_text":
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in c.layer_types])
    if family == "gemma2":
        writer.add_attn_logit_softcapping(c.attn_logit_softcapping)
        writer.add_final_logit_softcapping(c.final_logit_softcapping)
    if family == "phi3":
        head = c.hidden_size // c.num_attention_heads
        writer.add_rope_dimension_count(int(rope.get("partial_rotary_factor", 1.0) * head))
        writer.add_rope_scaling_orig_ctx_len(c.original_max_position_embeddings)
    if family == "gpt_neox":
        head = c.hidden_size // c.num_attention_heads
        writer.add_rope_dimension_count(int(rope.get("partial_rotary_factor", 0.25) * head))
        writer.add_parallel_residual(c.use_parallel_residual)
    if family == "granite":
        writer.add_attention_scale(c.attention_multiplier)
        writer.add_embedding_scale(c.embedding_multiplier)
        writer.add_residual_scale(c.residual_multiplier)
        writer.add_logit_scale(c.logits_scaling)


def factors(config: Any) -> dict[str, np.ndarray]:
    """Tensors of RoPE's factors: longrope's, and LLaMA 3's as its converter computes them."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return {
            f"rope_factors_{name}.weight": np.array(rope[f"{name}_factor"], np.float32) for name in ("long", "short")
        }
    if rope.get("rope_type") != "llama3":
        return {}
    head = config.head_dim
    frequencies = 1.0 / rope["rope_theta"] ** (np.arange(0, head, 2, dtype=np.float32) / head)
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    found = []
    for frequency in frequencies:
        wavelength = 2 * np.pi / frequency
        smooth = rope["original_max_position_embeddings"] / wavelength - rope["low_freq_factor"]
        smooth /= rope["high_freq_factor"] - rope["low_freq_factor"]
        between = 1 / ((1 - smooth) / rope["factor"] + smooth)
        found.append(1 if wavelength < high else rope["factor"] if wavelength > low else between)
    return {"rope_freqs.weight": np.array(found, np.float32)}


def tokenizer(writer: Any, vocab: int) -> None:
    """A byte-level tokenizer, filled up with unused tokens."""
    model = json.loads(byte_level().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    tokens += ["<|end|>", *(f"<unused{index}>" for index in range(vocab - len(tokens) - 1))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(tokens.index("<|end|>"))
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")


def types_of(linear: str, norm: str = "F32") -> Callable[[str, tuple[int, ...]], Any]:
    """A choice of types: one for matrices whose rows are whole blocks, F32 for the rest."""

    def choose(name: str, shape: tuple[int, ...]) -> Any:
        block, _ = gguf.GGML_QUANT_SIZES[Type[linear]]
        return Type[linear] if len(shape) == 2 and shape[1] % block == 0 else Type[norm]

    return choose


def write(
    path: Path,
    model: Any,
    family: str,
    choose: Callable[[str, tuple[int, ...]], Any],
    change: Callable[[Any], None] = lambda writer: None,
) -> Path:
    """Writes the GGUF file of a model of transformers, and gives the model the weights that the file means.

    choose: (name in GGUF, shape) -> type. change: more metadata.
    """
    import torch

    config, name = model.config, ARCHITECTURES[family]
    writer = gguf.GGUFWriter(path, name)
    metadata(family, config, writer)
    tokenizer(writer, config.vocab_size)
    change(writer)
    arch = next(kind for kind, text in gguf.MODEL_ARCH_NAMES.items() if text == name)
    table = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    state = dict(model.named_parameters())
    one = np.float32(family.startswith("gemma"))
    with torch.no_grad():
        for index, (key, parameter) in enumerate(state.items()):
            bare = key.removeprefix("transformer.") if family == "bloom" else key
            target = table.get_name(bare, (".weight", ".bias"))
            assert target is not None, key
            values = sorted_rows(family, key, parameter.numpy().astype(np.float32), config, back=False)
            added = one if key.endswith("norm.weight") else np.float32(0)
            values = values + added
            kind = choose(target, values.shape)
            data = stored(np.ascontiguousarray(values), kind, index)
            writer.add_tensor(target, data, raw_dtype=kind)
            meant = gguf.quants.dequantize(data, kind).reshape(values.shape) - added
            meant = sorted_rows(family, key, np.ascontiguousarray(meant), config, back=True)
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(meant)))
    for target, values in factors(config).items():
        writer.add_tensor(target, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
