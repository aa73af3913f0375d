"""What is transformed in a model, as data: seeds, exponents and permutations, and which asked-for steps a model does
not allow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from agq.checkpoint import Checkpoint
from agq.errors import AgqError
from agq.files import atomic_writer
from agq.models.spec import GATED, ModelSpec
from agq.recipe import TransformOptions
from agq.safetensors.files import SafetensorsFile, load_json
from agq.safetensors.shards import Entry, write_file

FORMAT = "agq-transforms-1"
# Activations f of the feed-forward part with down(f(c x) ...) = c down(f(x) ...) for c > 0: ReLU, and the gated
# product, which is linear in `up`.
SCALABLE = (*GATED, "relu")
# Places at which channels are scaled by powers of two, by what reads them.
PLACES = ("attention", "o", "mlp", "down")
# Places whose channels can be shifted: a norm's bias or that of the values takes the shift away, the readers' biases
# add it again.
SHIFTED_PLACES = ("attention", "o", "mlp")

_NO_NORMS = "attention and feed-forward read the hidden states themselves: no norm stands before them"


@dataclass(frozen=True)
class TransformPlan:
    """The transformations of one model, in the order in which they are applied.

    fold: norm gains (and biases) are folded into the linears that read the norms; for LayerNorms the mean over channels
        is removed from everything that writes to the residual stream.
    zero_gains: gains of 0 stay where they are when the others are folded: the residual stream is not rotated.
    bake_embed_norm: BLOOM's embedding norm is computed into the embedding table.
    exponents: place -> int8 [layers, channels]: the channel's values are divided by 2^e and the reading columns
        multiplied. Places: "attention" and "mlp" (what q, k, v and gate, up read; [hidden]), "o" (the values of each
        key/value head; [kv_heads * head_dim]), "down" ([ffn]).
    shifts: place -> float32 [layers, channels] (places as above, not "down"): what is subtracted from the channels
        before anything else, and added again through the biases of what reads them (Outlier Suppression+, arXiv
        2304.09145).
    r1, r2: seeds of the rotation of the residual stream and of the values of each key/value head; None: none.
    turns1, turns2: learned rotations after those of r1 and r2, float32 [blocks, b, b] of consecutive channels of the
        residual stream and [layers, kv_heads, head_dim, head_dim]; None: none.
    permutation: int32 [layers, ffn] or None: channel j of down's input is channel permutation[j] of the original.
    hadamard: block length of the Walsh-Hadamard transform of down's input, computed at run time; 0: none.
    formats: "<block>.<place>" -> a finer format of that input than the recipe's (agq/quantization/transforms/finer.py).
    skipped: step -> why the model does not allow it, or what was done instead.
    """

    fold: bool = False
    zero_gains: bool = False
    bake_embed_norm: bool = False
    exponents: Mapping[str, np.ndarray] = field(default_factory=dict)
    shifts: Mapping[str, np.ndarray] = field(default_factory=dict)
    r1: int | None = None
    r2: int | None = None
    turns1: np.ndarray | None = None
    turns2: np.ndarray | None = None
    permutation: np.ndarray | None = None
    hadamard: int = 0
    formats: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Nothing is changed."""
        return not (
            self.fold
            or self.bake_embed_norm
            or self.exponents
            or self.shifts
            or self.r1 is not None
            or self.r2 is not None
            or self.permutation is not None
            or self.hadamard
        )

    @property
    def plain(self) -> bool:
        """The transformed model is one of the same Hugging Face class: nothing has to be computed online."""
        return not (self.hadamard or self.bake_embed_norm)

    def spec(self, spec: ModelSpec) -> ModelSpec:
        """The description of the transformed model."""
        untied = self.r1 is not None or self.bake_embed_norm
        return replace(spec, tied=spec.tied and not untied, embed_norm=spec.embed_norm and not self.bake_embed_norm)

    def behind_matrix(self, spec: ModelSpec) -> bool:
        """The head was the embedding, and still is, times a matrix (agq/checkpoint/head_matrix.py). LayerNorms center
        the table, and a norm of the embeddings can be baked into it: then it is not."""
        return self.r1 is not None and spec.tied and not spec.layer_norm and not self.bake_embed_norm

    def to_dict(self) -> dict[str, Any]:
        """JSON for agq.json: everything but the arrays, of which the file of `save` keeps the values."""
        return {
            "fold": self.fold,
            "bake_embed_norm": self.bake_embed_norm,
            "scaled": sorted(self.exponents),
            "shifted": sorted(self.shifts),
            "r1": self.r1,
            "r2": self.r2,
            "learned": self.turns1 is not None or self.turns2 is not None,
            "permuted": self.permutation is not None,
            "hadamard": self.hadamard,
            "formats": dict(self.formats),
            "skipped": dict(self.skipped),
        }

    def save(self, path: Path) -> None:
        """Writes the plan as a safetensors file, whole or not at all."""
        arrays = {
            f"exponents.{place}": ("I8", np.asarray(value, np.int8)) for place, value in sorted(self.exponents.items())
        }
        arrays.update(
            {f"shifts.{place}": ("F32", np.asarray(value, np.float32)) for place, value in sorted(self.shifts.items())}
        )
        for name in ("turns1", "turns2"):
            if (value := getattr(self, name)) is not None:
                arrays[name] = ("F32", np.asarray(value, np.float32))
        if self.permutation is not None:
            arrays["permutation"] = ("I32", np.asarray(self.permutation, np.int32))
        entries = [Entry.of(name, dtype, array) for name, (dtype, array) in arrays.items()]
        with atomic_writer(path) as file:
            write_file(file, entries, {"format": FORMAT, "plan": json.dumps(self.to_dict())})

    @classmethod
    def load(cls, path: Path) -> TransformPlan:
        """The inverse of `save`. Raises AgqError for another file."""
        file = SafetensorsFile(path)
        if file.header.metadata.get("format") != FORMAT:
            raise AgqError(f"`{path}` is not a file of transformations", hint=f"expected format `{FORMAT}`")
        values = load_json(file.header.metadata["plan"].encode(), f"the metadata of `{path}`")
        arrays = {name: np.array(file.raw(name)) for name in file.tensors}
        return cls(
            fold=values["fold"],
            zero_gains=values["fold"] and values["r1"] is None,
            bake_embed_norm=values["bake_embed_norm"],
            exponents={place: arrays[f"exponents.{place}"] for place in values["scaled"]},
            shifts={place: arrays[f"shifts.{place}"] for place in values["shifted"]},
            r1=values["r1"],
            r2=values["r2"],
            turns1=arrays.get("turns1"),
            turns2=arrays.get("turns2"),
            permutation=arrays.get("permutation"),
            hadamard=values["hadamard"],
            formats=values["formats"],
            skipped=values["skipped"],
        )


def feasible(checkpoint: Checkpoint, options: TransformOptions) -> TransformPlan:
    """The plan of `options` as far as the architecture allows it, without what has to be measured on data (exponents,
    permutation).

    Steps that a model does not allow are left out and named in `skipped`. Raises AgqError for a block length that
    cannot be.
    """
    spec = checkpoint.spec
    skipped: dict[str, str] = {}
    if (
        options.r1_layernorm
        and spec.layer_norm
        and not spec.embed_norm
        and not spec.projected
        and not spec.post_norms
        and not _no_folding(checkpoint)
    ):
        options = replace(options, fold=True, r1=True, r2=True)
    fold = options.fold
    if reason := _no_folding(checkpoint):
        skipped.update({name: reason for name in ("fold", "r1") if getattr(options, name)})
        fold = False
    if options.r1 and spec.post_norms:
        skipped["r1"] = "norms with gains per channel stand between what the blocks add and the residual stream"
    if options.scale_norms and not spec.pre_norms:
        skipped["scale_norms"] = _NO_NORMS
    elif options.scale_norms and (spec.norm_after or spec.residual_from_norm):
        skipped["scale_norms"] = "the norms' outputs are part of the residual stream"
    elif options.scale_norms and not spec.norm_affine:
        skipped["scale_norms"] = "the norms have no gains"
    if options.scale and spec.activation not in SCALABLE:
        skipped["scale"] = (
            f"the feed-forward's hidden layer is not scaled through {spec.activation}; the attention values are"
        )
    if options.shift and (reason := _no_shift(spec)):
        skipped["shift"] = reason
    bake = options.bake_embed_norm and spec.embed_norm and "fold" not in skipped
    r1 = options.r1 and "r1" not in skipped
    if r1 and spec.projected:
        skipped["r1"] = "embeddings of another width than the blocks are projected: their projections are not rotated"
        r1 = False
    if r1 and spec.embed_norm and not bake:
        skipped["r1"] = (
            "the norm of the embeddings has per-channel gains: set bake_embed_norm to rotate the residual stream"
        )
        r1 = False
    if options.hadamard:
        _check_block(options.hadamard, spec.ffn)
    return TransformPlan(
        fold=fold or r1,
        zero_gains=fold and not r1,
        bake_embed_norm=bake,
        r1=options.seed if r1 else None,
        r2=options.seed if options.r2 else None,
        hadamard=options.hadamard,
        skipped=skipped,
    )


def _no_folding(checkpoint: Checkpoint) -> str | None:
    """Why the gains of this model's norms cannot be folded; None where they can."""
    spec = checkpoint.spec
    if not spec.pre_norms:
        return _NO_NORMS
    if spec.norm_after:
        return "the norms follow the residual additions (OPT-350m): their gains act on the residual stream itself"
    if spec.residual_from_norm:
        return "the residual stream starts at the norms' outputs: their gains act on it"
    if spec.layer_norm and spec.norm_affine and not (spec.attention_bias and spec.mlp_bias):
        return "the linears have no biases that could take up the biases of the norms"
    if spec.layer_norm and spec.norm_affine and checkpoint.parts.final_norm is not None:
        gain = np.abs(checkpoint.read(f"{checkpoint.parts.final_norm}.weight"))
        if gain.min() < 1e-4 * gain.max():
            return "the final norm has gains next to zero: its bias cannot be carried over"
    return None


def _no_shift(spec: ModelSpec) -> str | None:
    """Why no channel of this model can be shifted; None where some can."""
    return None if shifted_places(spec) else "the model has no biases that could take up a shift"


def shifted_places(spec: ModelSpec) -> tuple[str, ...]:
    """Places whose channels can be shifted: where both the writer and the readers have biases."""
    norms = spec.pre_norms and spec.layer_norm and spec.norm_affine and not (spec.norm_after or spec.residual_from_norm)
    allowed = {"attention": norms and spec.attention_bias, "o": spec.attention_bias, "mlp": norms and spec.mlp_bias}
    return tuple(place for place in SHIFTED_PLACES if allowed[place])


def _check_block(size: int, ffn: int) -> None:
    if size < 1 or size & (size - 1) or ffn % size:
        sizes = [str(1 << k) for k in range(4, 15) if ffn % (1 << k) == 0]
        hint = f"possible: {', '.join(sizes)}" if sizes else "use 0: no online transform"
        raise AgqError(
            f"a Hadamard block of {size} does not divide the {ffn} inputs of the feed-forward's second layer", hint=hint
        )
