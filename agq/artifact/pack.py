"""Model folder -> packed artifact."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agq.artifact import layout
from agq.artifact.plan import PackPlan
from agq.artifact.plan_linears import ROUNDED
from agq.artifact.schema import ArtifactModel, norm_sizes
from agq.artifact.writer import write_artifact
from agq.checkpoint.attention_scales import AttentionScales
from agq.errors import UsageError
from agq.formats import EMBEDDING, FLOATS, HEAD, KV_CACHE, words
from agq.gguf.opening import open_source

# What `weights` may say of an unquantized folder: a float type, or codes that packing itself rounds to.
WEIGHTS = (*FLOATS, *ROUNDED)


@dataclass(frozen=True)
class PackReport:
    """What was written.

    Attributes:
        bits_per_weight: stored bits (codes, scales, zero points, padding) per weight of the decoder blocks' linears.
        bits_per_weight_overall: 8 x file size / all parameters.
        bytes: file size. parameters: of the whole model. seconds: wall time.
        schemes: description -> number of block linears, e.g. {"W4 g128, A8 per token": 24}.
        notes: what was left out or stored otherwise than the source has it.
    """

    path: str
    bytes: int
    seconds: float
    parameters: int
    bits_per_weight: float
    bits_per_weight_overall: float
    kv_bits: int
    head_bits: int
    embed_bits: int
    sink_tokens: int
    layout: str
    schemes: dict[str, int]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def pack(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    kv_bits: int | None = None,
    head_bits: int | None = None,
    weights: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    attention: list[AttentionScales] | None = None,
    embed_bits: int | None = None,
    act_bits: int | None = None,
) -> PackReport:
    """Packs a model folder or a GGUF file into one file.

    Args:
        source: a compressed-tensors folder, an unquantized one, or a GGUF file.
        kv_bits: KV cache of the runs to come, 4, 8 or 32; default agq.json's, else 8, or 32 where all weights are
            floats.
        head_bits: output head (and embedding, when tied) in 4 or 6 (a scale per group), 8 (per row), 16 or 32 bits;
            default agq.json's, else 8, or the weights' own type where all weights are floats.
        weights: for unquantized folders: "f32", "f16", "bf16", "int8" (rounded to nearest, one scale per row) or "int4"
            (a scale per group, agq/artifact/rounding.py), both with activations of 8 bits per token; default the
            folder's own float type.
        progress: called with (bytes done, bytes in all, tensor name).
        attention: static scales of integer attention, one of each block, which is computed then (kv_bits 8); default
            the folder's.
        embed_bits: an embedding that is not tied to the head in 8 (a scale per row), 16 or 32 bits; default agq.json's,
            else 8 where the folder is quantized and its head has 8 bits, or the type that the folder stores it in.
        act_bits: of a GGUF file: inputs of linears of codes with 8 bits in groups of 32 columns (the default), or 16:
            floats. A folder says it itself.

    Raises:
        UsageError: wrong option values. AgqError: anything wrong with the folder, disk full.
    """
    started = time.monotonic()
    if weights is not None and weights not in WEIGHTS:
        raise UsageError(f"unknown weights `{weights}`", hint=f"weights: {', '.join(WEIGHTS)}")
    for widths, bits in ((KV_CACHE, kv_bits), (HEAD, head_bits), (EMBEDDING, embed_bits)):
        widths.check(bits, UsageError)
    checkpoint = open_source(source, act_bits)
    output = Path(output)
    if output.is_dir():
        raise UsageError(f"output `{output}` is a folder", hint="name a file, such as model.agq.safetensors")
    if output.exists() and any(output.samefile(path) for path in checkpoint.files()):
        raise UsageError(f"output `{output}` is a file of the model itself", hint="choose another name")
    checkpoint.check_finite()
    plan = PackPlan(checkpoint, weights, head_bits, embed_bits, kv_bits, attention or checkpoint.statics.attention)
    size = write_artifact(output, plan.model, plan.tensors(), plan.recipe(), plan.source(), _created_by(), progress)
    blocks = [info for name, info in plan.model.linears.items() if name.startswith("blocks.")]
    stored = sum(item.nbytes for info in blocks for name, item in info.tensors("").items() if name != ".bias")
    count = sum(info.out * info.inputs for info in blocks)
    parameters = parameter_count(plan.model)
    schemes: dict[str, int] = {}
    for info in blocks:
        scheme = words.linear(*info.words())
        schemes[scheme] = schemes.get(scheme, 0) + 1
    return PackReport(
        path=str(output),
        bytes=size,
        seconds=time.monotonic() - started,
        parameters=parameters,
        bits_per_weight=8 * stored / count,
        bits_per_weight_overall=8 * size / parameters,
        kv_bits=plan.model.kv_bits,
        head_bits=plan.model.head_bits,
        embed_bits=plan.model.embed_bits,
        sink_tokens=plan.model.sink_tokens,
        layout=layout.LAYOUT,
        schemes=schemes,
        notes=tuple(checkpoint.notes()),
    )


def _created_by() -> str:
    from agq.version import __version__

    return f"agq {__version__}"


def parameter_count(model: ArtifactModel) -> int:
    """Parameters of the model (a tied embedding counts once)."""
    spec = model.spec
    count = sum(info.out * (info.inputs + (1 if info.bias else 0)) for info in model.linears.values())
    count -= spec.hidden**2 if spec.head_matrix else 0  # no parameters: rotation and gains
    count += 0 if model.embed_in_head else spec.vocab * spec.embed_dim
    if "position" in model.tables:
        count += (spec.context + spec.position_offset) * spec.hidden
    return count + sum(norm_sizes(spec).values())
