"""From an opened artifact to the C side's `agq_model`: plain filling of fields, addresses lead into the artifact's
memory map.
"""

import os
from typing import Any

import numpy as np

from agq.artifact.linear_info import LinearInfo
from agq.artifact.reader import Artifact
from agq.errors import UsageError
from agq.formats import groups, weight_format
from agq.formats.weights import EXACT

# Words of a ModelSpec -> constants of agq.h.
NORMS = {"rms": "AGQ_NORM_RMS", "layer": "AGQ_NORM_LAYER"}
POSITIONS = {"rope": "AGQ_POSITION_ROPE", "learned": "AGQ_POSITION_LEARNED", "alibi": "AGQ_POSITION_ALIBI"}
ACTIVATIONS = {
    "silu_gated": "AGQ_ACTIVATION_SILU_GATED",
    "relu": "AGQ_ACTIVATION_RELU",
    "gelu_tanh": "AGQ_ACTIVATION_GELU_TANH",
    "gelu_erf": "AGQ_ACTIVATION_GELU_ERF",
}


def dtype(ffi: Any, name: str) -> int:
    """The C library's number of an element type."""
    return int(ffi.integer_const(weight_format(name).enum))


def multiplier() -> str:
    """What multiplies 4-bit weights and dynamic 4-bit activations: AGQ_MULTIPLIER, `default` or `packed` (two weights
    in one 16-bit operand). UsageError for anything else."""
    name = os.environ.get("AGQ_MULTIPLIER", "") or "default"
    if name not in ("default", "packed"):
        raise UsageError(f"AGQ_MULTIPLIER is `{name}`", hint="use default or packed")
    return name


def fill_linear(ffi: Any, target: Any, artifact: Artifact, name: str, info: LinearInfo) -> None:
    """Fills an `agq_linear` from the artifact's linear `name`."""
    target.out_features, target.in_features = info.out, info.inputs
    target.weight_dtype = dtype(ffi, info.dtype)
    target.scale_dtype = dtype(ffi, info.scale_dtype or EXACT)
    target.group_size = groups.to_artifact(info.group)
    target.act_bits, target.act_group = info.act_bits, groups.to_artifact(info.act_group)
    target.act_symmetric = int(info.act_symmetric)
    target.hadamard, target.act_clip = info.hadamard, info.act_clip
    if multiplier() == "packed" and info.format.pairs and info.sinks:
        target.multiplier = ffi.integer_const("AGQ_MULTIPLIER_PACKED")
    target.weight = ffi.cast("void *", artifact.address(f"{name}.weight"))
    target.weight_bytes = artifact.stored_bytes(f"{name}.weight")
    if info.quantized:
        target.scale = ffi.cast("void *", artifact.address(f"{name}.scale"))
        target.scale_bytes = artifact.stored_bytes(f"{name}.scale")
    if info.minimum:
        target.minimum = ffi.cast("void *", artifact.address(f"{name}.minimum"))
        target.minimum_bytes = artifact.stored_bytes(f"{name}.minimum")
    if info.asym:
        target.zero = ffi.cast("int8_t *", artifact.address(f"{name}.zero"))
        target.zero_bytes = artifact.stored_bytes(f"{name}.zero")
    if info.act_static:
        target.act_static, target.act_scale, target.act_zero = 1, info.act_scale, info.act_zero
        target.act_exponent = ffi.cast("uint8_t *", artifact.address(f"{name}.act_exponent"))
        target.act_exponent_bytes = artifact.stored_bytes(f"{name}.act_exponent")
    if info.bias:
        target.bias = ffi.cast("float *", artifact.address(f"{name}.bias"))


def _fill_norm(ffi: Any, target: Any, artifact: Artifact, name: str) -> None:
    for leaf in ("weight", "bias"):
        if artifact.has(f"{name}.{leaf}"):
            setattr(target, leaf, ffi.cast("float *", artifact.address(f"{name}.{leaf}")))


def _fill_attention(ffi: Any, block: Any, artifact: Artifact, name: str) -> None:
    """Static scales of integer attention."""
    block.q_scale = ffi.cast("float *", artifact.address(f"{name}.q_scale"))
    block.k_scale = ffi.cast("float *", artifact.address(f"{name}.k_scale"))
    block.v_exponent = ffi.cast("uint8_t *", artifact.address(f"{name}.v_exponent"))
    block.v_scale = float(artifact.tensor(f"{name}.v_scale")[0])
    block.v_zero = int(artifact.tensor(f"{name}.v_zero")[0])


def build_model(ffi: Any, artifact: Artifact) -> tuple[Any, list[Any]]:
    """The artifact as `agq_model *`, and what must be kept alive as long as it is used (the artifact among it).

    RoPE's frequencies are not part of it: they are set per slot (`rope_frequencies`).
    """
    spec, info = artifact.spec, artifact.info
    model = ffi.new("agq_model *")
    blocks = ffi.new("agq_block[]", spec.layers)
    keep: list[Any] = [artifact, model, blocks]
    for name in (
        "hidden",
        "layers",
        "heads",
        "kv_heads",
        "head_dim",
        "ffn",
        "vocab",
        "norm_eps",
        "attention_scale",
        "embed_dim",
    ):
        setattr(model, name, getattr(spec, name))
    model.norm_kind = ffi.integer_const(NORMS[spec.norm])
    model.position_kind = ffi.integer_const(POSITIONS[spec.position])
    model.activation_kind = ffi.integer_const(ACTIVATIONS[spec.activation])
    model.norm_after, model.residual_from_norm = int(spec.norm_after), int(spec.residual_from_norm)
    model.embed_in_head = int(info.embed_in_head)
    if not info.embed_in_head:
        model.embed_dtype = dtype(ffi, info.tables["embed"])
        model.embed = ffi.cast("void *", artifact.address("embed"))
        model.embed_bytes = artifact.stored_bytes("embed")
        if artifact.has("embed.scale"):
            model.embed_scale = ffi.cast("float *", artifact.address("embed.scale"))
            model.embed_scale_bytes = artifact.stored_bytes("embed.scale")
            model.embed_group = groups.to_artifact(info.embed_group)
    if spec.position == "learned":
        model.position_dtype = dtype(ffi, info.tables["position"])
        model.position_offset = spec.position_offset
        model.position_rows = artifact.describe("position").shape[0]
        model.position = ffi.cast("void *", artifact.address("position"))
        model.position_bytes = artifact.stored_bytes("position")
    if spec.position == "alibi":
        slopes = ffi.new("float[]", spec.alibi_slopes())
        keep.append(slopes)
        model.alibi_slopes = slopes
    model.has_embed_norm, model.has_final_norm = int(spec.embed_norm), int(spec.final_norm)
    _fill_norm(ffi, model.embed_norm, artifact, "embed_norm")
    _fill_norm(ffi, model.final_norm, artifact, "final_norm")
    for index in range(spec.layers):
        _fill_norm(ffi, blocks[index].attn_norm, artifact, f"blocks.{index}.attn_norm")
        _fill_norm(ffi, blocks[index].mlp_norm, artifact, f"blocks.{index}.mlp_norm")
    model.sink_tokens = info.sink_tokens
    if info.attention == "log2":
        model.attention_kind = ffi.integer_const("AGQ_ATTENTION_LOG2")
        for index in range(spec.layers):
            _fill_attention(ffi, blocks[index], artifact, f"blocks.{index}")
    for name, linear in artifact.linears.items():
        fill_linear(ffi, linear_of(model, blocks, name), artifact, name, linear)
    model.blocks = blocks
    return model, keep


def linear_of(model: Any, blocks: Any, name: str) -> Any:
    """The `agq_linear` inside the descriptor that an artifact's linear name means: `head`, `blocks.3.qkv`."""
    parts = name.split(".")
    return getattr(blocks[int(parts[1])], parts[2]) if parts[0] == "blocks" else getattr(model, name)


def rope_frequencies(artifact: Artifact, length: int) -> tuple[np.ndarray, float]:
    """Inverse frequencies float32 [head_dim / 2] and the factor on cos and sin, for a sequence of `length` tokens."""
    rope = artifact.spec.rope
    assert rope is not None  # position is "rope": a ModelSpec has it then
    values, scaling = rope.inv_freq(artifact.spec.head_dim, length)
    return np.asarray(values, np.float32), scaling
