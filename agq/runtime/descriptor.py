"""From an opened artifact to the C side's `agq_model`: plain filling of fields, addresses lead into the artifact's
memory map.
"""

import os
from typing import Any

import numpy as np

from agq.artifact.linear_info import LinearInfo
from agq.artifact.reader import Artifact
from agq.artifact.schema import block_norms
from agq.errors import AgqError, UsageError
from agq.formats import groups, weight_format
from agq.formats.weights import EXACT
from agq.models import ModelSpec, RopeSpec

# Words of a ModelSpec -> constants of agq.h.
NORMS = {"rms": "AGQ_NORM_RMS", "layer": "AGQ_NORM_LAYER"}
POSITIONS = {"rope": "AGQ_POSITION_ROPE", "learned": "AGQ_POSITION_LEARNED", "alibi": "AGQ_POSITION_ALIBI"}
ACTIVATIONS = {
    "silu_gated": "AGQ_ACTIVATION_SILU_GATED",
    "relu": "AGQ_ACTIVATION_RELU",
    "gelu_tanh": "AGQ_ACTIVATION_GELU_TANH",
    "gelu_erf": "AGQ_ACTIVATION_GELU_ERF",
    "gelu_tanh_gated": "AGQ_ACTIVATION_GELU_TANH_GATED",
    "gelu_erf_gated": "AGQ_ACTIVATION_GELU_ERF_GATED",
}
QK_NORMS = {"none": "AGQ_QK_NORM_NONE", "head": "AGQ_QK_NORM_HEAD", "whole": "AGQ_QK_NORM_WHOLE"}
# Fields of a ModelSpec that agq.h has by the same name, and by another one.
_SAME = (
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
    "attention_softcap",
    "logit_softcap",
)
_FLAGS = ("norm_after", "residual_from_norm", "post_norms", "parallel")
_FACTORS = {"embed_scale": "embed_factor", "residual_scale": "residual_factor", "logit_scale": "logit_factor"}
# Of a soft cap that is there: what agq.h says.
LEAST_SOFTCAP = 1e-6


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
    if info.ordered:
        target.input_order = ffi.cast("uint32_t *", artifact.address(f"{name}.input_order"))
        target.input_order_bytes = artifact.stored_bytes(f"{name}.input_order")
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
    _check_spec(spec)
    for name in _SAME:
        setattr(model, name, getattr(spec, name))
    for name in _FLAGS:
        setattr(model, name, int(getattr(spec, name)))
    for name, theirs in _FACTORS.items():
        setattr(model, theirs, getattr(spec, name))
    model.rotary_dim = spec.turned if spec.rotary_dim else 0
    model.no_pre_norms = int(not spec.pre_norms)
    model.qk_norm = ffi.integer_const(QK_NORMS[spec.qk_norm])
    model.norm_kind = ffi.integer_const(NORMS[spec.norm])
    model.position_kind = ffi.integer_const(POSITIONS[spec.position])
    model.activation_kind = ffi.integer_const(ACTIVATIONS[spec.activation])
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
        block = blocks[index]
        for name in block_norms(spec):
            _fill_norm(ffi, getattr(block, name), artifact, f"blocks.{index}.{name}")
        block.window = spec.layer_window(index)
        block.rope = ffi.integer_const(_rope_of(spec, index))
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


def _check_spec(spec: ModelSpec) -> None:
    """AgqError for what a ModelSpec can say and the engine cannot compute."""
    if spec.residual_from_norm and not spec.pre_norms:
        raise AgqError("the engine cannot start the residual branch at the output of a norm that the model lacks")
    for name in ("attention_softcap", "logit_softcap"):
        if 0 < getattr(spec, name) < LEAST_SOFTCAP:
            raise AgqError(f"the engine cannot compute a `{name}` of {getattr(spec, name):g}, below {LEAST_SOFTCAP:g}")


def _rope_of(spec: ModelSpec, index: int) -> str:
    """The constant of agq.h for a block's rotary positions."""
    if spec.position != "rope":
        return "AGQ_ROPE_GLOBAL"
    rope = spec.layer_rope(index)
    return "AGQ_ROPE_NONE" if rope is None else "AGQ_ROPE_GLOBAL" if rope is spec.rope else "AGQ_ROPE_LOCAL"


def ropes(spec: ModelSpec) -> dict[str, RopeSpec]:
    """Rotary positions that the engine takes frequencies for, by their constants of agq.h."""
    found = {"AGQ_ROPE_GLOBAL": spec.rope, "AGQ_ROPE_LOCAL": spec.rope_local}
    return {name: rope for name, rope in found.items() if rope is not None}


def rope_frequencies(spec: ModelSpec, rope: RopeSpec, length: int) -> tuple[np.ndarray, float]:
    """Inverse frequencies float32 [turned / 2] and the factor on cos and sin, for a sequence of `length` tokens."""
    values, scaling = spec.inv_freq(rope, length)
    return np.asarray(values, np.float32), scaling
