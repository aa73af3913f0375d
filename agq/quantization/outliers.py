"""Models with the activation outliers of large ones: a tool for tests and measurements.

Small models have few channels that are much larger than the others. `inject_outliers` writes a model that has them and
computes the same function: a channel that stands between two linear maps is multiplied by a factor in the first and
divided by it in the second. Places of each block: gains (and biases) of the norms against the columns of q, k, v and of
gate, up; rows of v against columns of o; rows of up (of fc1 before a ReLU) against columns of down. A feed-forward
part with a GELU and no gate has no such pair (BLOOM), a model without norms before attention not those of norms.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from agq.checkpoint import Checkpoint, open_checkpoint
from agq.errors import AgqError
from agq.files import atomic_directory, atomic_write_bytes, atomic_write_text
from agq.models import BlockParts
from agq.models.parts import qkv_rows
from agq.numerics.hadamard import random_permutation
from agq.quantization.transforms.plan import SCALABLE
from agq.safetensors.shards import Entry, write_shards

STRENGTHS = (8.0, 16.0, 30.0, 60.0)
_SHARD_BYTES = 5_000_000_000


def inject_outliers(
    folder: str | Path, out: str | Path, seed: int = 0, strengths: Sequence[float] = STRENGTHS, channels: int = 4
) -> dict[str, list[list[int]]]:
    """Writes the model of `folder` with `channels` outlier channels at every place of every block to `out`, in float32.

    strengths: factors that the channels take in turn. The channels of the norms are the same in all blocks, as in
    trained models; the others are drawn for each. seed: of the choice (SHA-256, the same on every machine).

    Returns place -> channels of each block. Raises AgqError for an unquantized model's lack, for strengths that are not
    positive, or for more channels than there are.
    """
    checkpoint = open_checkpoint(folder)
    spec = checkpoint.spec
    if checkpoint.quantization is not None:
        raise AgqError(f"`{folder}` is quantized already", hint="start from the unquantized model")
    if not strengths or min(strengths) <= 0:
        raise AgqError("strengths of outliers are positive numbers")
    if not 1 <= channels <= min(spec.hidden, spec.kv_size, spec.ffn):
        raise AgqError(f"{channels} outlier channels are not between 1 and the width of every place")
    factors = np.array([strengths[i % len(strengths)] for i in range(channels)], dtype=np.float64)
    norms = spec.pre_norms and spec.norm_affine and not (spec.norm_after or spec.residual_from_norm)
    widths = {"attention": spec.hidden, "mlp": spec.hidden} if norms else {}
    widths |= {"o": spec.kv_size} | ({"down": spec.ffn} if spec.activation in SCALABLE else {})
    chosen: dict[str, list[list[int]]] = {place: [] for place in widths}
    edits: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = {}
    for block in checkpoint.parts.blocks():
        for place, width in widths.items():
            label = f"outliers.{place}" if place in ("attention", "mlp") else f"outliers.{place}.{block.index}"
            picked = random_permutation(seed, label, width)[:channels].numpy()
            chosen[place].append(picked.tolist())
            for name, axis, index, factor in _pairs(checkpoint, block, place, picked, factors):
                edits.setdefault(name, []).append((axis, index, factor))
    _write(checkpoint, Path(out), edits)
    return chosen


def _pairs(
    checkpoint: Checkpoint, block: BlockParts, place: str, picked: np.ndarray, factors: np.ndarray
) -> Iterable[tuple[str, str, np.ndarray, np.ndarray]]:
    """(tensor, "rows" or "columns", which of them, factors) of all tensors that a place touches in a block."""
    spec, linears = checkpoint.spec, block.linears

    def rows(module: str, index: np.ndarray) -> Iterable[tuple[str, str, np.ndarray, np.ndarray]]:
        for leaf in ("weight", "bias"):
            if checkpoint.has(f"{module}.{leaf}"):
                yield f"{module}.{leaf}", "rows", index, factors

    if place in ("attention", "mlp"):
        yield from rows(block.norms["attn_norm" if place == "attention" else "mlp_norm"], picked)
        for role in block.groups[0 if place == "attention" else 2]:
            yield linears[role].weight, "columns", picked, 1 / factors
    elif place == "o":
        head, channel = np.divmod(picked, spec.head_dim)
        fused = linears.get("qkv")
        values = np.array(qkv_rows(spec, block.qkv_order)[2])
        yield from rows((fused or linears["v"]).module, values[picked] if fused else picked)
        group = spec.heads // spec.kv_heads
        for member in range(group):
            yield linears["o"].weight, "columns", (head * group + member) * spec.head_dim + channel, 1 / factors
    else:
        fused = linears.get("gate_up")
        yield from rows((fused or linears["up"]).module, spec.ffn + picked if fused else picked)
        yield linears["down"].weight, "columns", picked, 1 / factors


def _write(checkpoint: Checkpoint, out: Path, edits: dict[str, list[tuple[str, np.ndarray, np.ndarray]]]) -> None:
    offset = checkpoint.spec.norm_offset
    norms = {f"{module}.weight" for block in checkpoint.parts.blocks() for module in block.norms.values()}

    def edited(name: str) -> np.ndarray:
        added = offset if name in norms else 0.0
        values = checkpoint.read(name).astype(np.float64) + added
        for axis, index, factor in edits.get(name, ()):
            if axis == "columns":
                values[:, index] *= factor
            else:
                values[index] *= factor if values.ndim == 1 else factor[:, None]
        return (values - added).astype(np.float32)

    entries = [Entry(name, "F32", checkpoint.shape(name), partial(edited, name)) for name in checkpoint.names()]
    config = checkpoint.config | {"dtype": "float32", "torch_dtype": "float32"}
    with atomic_directory(out, overwrite=False) as folder:
        write_shards(folder, entries, _SHARD_BYTES)
        atomic_write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        for name in checkpoint.texts():
            atomic_write_bytes(folder / name, checkpoint.text(name) or b"")
