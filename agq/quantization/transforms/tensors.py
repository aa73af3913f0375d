"""What a plan does to channels, as tensors: powers of two, shifts, rotations, the order of the feed-forward channels.

Row vectors: a hidden state h becomes h Q, so a linear that reads it gets W Q and one that writes it Q^T W.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from agq.checkpoint import Checkpoint
from agq.models import parts as parts_of
from agq.numerics.hadamard import basis, mean_keeping_rotation, random_rotation, random_signs
from agq.quantization.encode import TORCH_DTYPES
from agq.quantization.transforms.plan import TransformPlan
from agq.reference.decoder import Parameters

# The norm before attention and before feed-forward.
NORMS = {"attention": "attn_norm", "mlp": "mlp_norm"}


class TransformTensors(Parameters):
    """A plan over an unquantized checkpoint. source: the model's spec; spec, parts: those of the transformed one."""

    def __init__(self, checkpoint: Checkpoint, plan: TransformPlan, device: torch.device | str = "cpu") -> None:
        super().__init__(checkpoint, fake_quant=False, device=device)
        self.plan = plan
        self.source = checkpoint.spec
        self.spec = plan.spec(checkpoint.spec)
        self.parts = parts_of(self.spec)

    # ---- rotations

    @property
    def centred(self) -> bool:
        """The mean over channels is removed from what the blocks write to the residual stream, and with R1 from the
        embeddings (without it they stay, so that a tied head stays tied). LayerNorm does not see the difference."""
        return self.plan.fold and self.source.layer_norm

    @cached_property
    def r1(self) -> Tensor | None:
        """Q of the residual stream, float32 [hidden, hidden]."""
        if self.plan.r1 is None:
            return None
        make = mean_keeping_rotation if self.source.layer_norm else random_rotation
        rotation = make(self.source.hidden, self.plan.r1, "r1").float()
        if self.plan.turns1 is not None:
            rotation = rotation @ torch.block_diag(*torch.from_numpy(self.plan.turns1))
        return rotation.to(self.device)

    def head_matrix(self) -> np.ndarray | None:
        """M = R^T diag(g) R, float32 [hidden, hidden], with which the rotated embedding serves as the head that it was
        before (agq/checkpoint/head_matrix.py): the transformed head is the transformed embedding times M. None where
        the head was not the embedding, still is it, or is not that product."""
        if self.r1 is None or not self.plan.behind_matrix(self.source):
            return None
        rotation, norm = self.r1.double().cpu(), self.checkpoint.parts.final_norm
        gain = torch.ones(len(rotation), dtype=torch.float64)
        if norm is not None and self.checkpoint.has(f"{norm}.weight"):
            gain = self._gain(norm).double().cpu()
        return ((rotation.t() * gain) @ rotation).float().numpy()

    def turn_values(self, index: int, x: Tensor) -> Tensor:
        """Attention outputs x of a block, float32 [..., heads * head_dim], under R2."""
        spec = self.source
        heads = x.reshape(-1, spec.kv_heads, spec.heads // spec.kv_heads, spec.head_dim)
        return torch.einsum("tkgd,kde->tkge", heads, self.r2(index)).reshape(x.shape)

    def r2(self, index: int) -> Tensor:
        """P of each key/value head of a block, float32 [kv_heads, head_dim, head_dim]: values v become v P."""
        assert self.plan.r2 is not None
        heads, width = self.source.kv_heads, self.source.head_dim
        signs = random_signs(self.plan.r2, f"r2.{index}", heads * width).reshape(heads, width, 1)
        rotations = (signs * basis(width)).float()
        if self.plan.turns2 is not None:
            rotations = rotations @ torch.from_numpy(self.plan.turns2[index])
        return rotations.to(self.device)

    def _shift(self, place: str, index: int) -> Tensor | None:
        """What is subtracted from the channels at a place of a block, float32; None: nothing."""
        if place not in self.plan.shifts:
            return None
        return torch.from_numpy(self.plan.shifts[place][index]).to(self.device)

    def _exponents(self, place: str, index: int) -> Tensor | None:
        """2^e of the channels at a place of a block, float32; None where nothing is scaled. Behind a norm that is
        stored less an offset: what is next to 2^e and can be stored."""
        if place not in self.plan.exponents:
            return None
        scale = torch.exp2(torch.from_numpy(self.plan.exponents[place][index]).float()).to(self.device)
        if place not in NORMS or not self.source.norm_offset:
            return scale
        norm, offset = self.checkpoint.parts.block(index).norms[NORMS[place]], self.source.norm_offset
        gain = self._kept_gain(norm)
        stored = (gain / scale - offset).to(TORCH_DTYPES[self.checkpoint.dtype(f"{norm}.weight")]).float() + offset
        return torch.where((stored == 0) | (gain == 0), 1.0, gain / stored)

    def _order(self, index: int) -> Tensor | None:
        if self.plan.permutation is None:
            return None
        return torch.from_numpy(self.plan.permutation[index]).long().to(self.device)

    def to_query_heads(self, channels: Tensor) -> Tensor:
        """[kv_heads * head_dim] -> [heads * head_dim]: the query heads of a group read the same values."""
        spec = self.source
        return (
            channels.reshape(spec.kv_heads, spec.head_dim)
            .repeat_interleave(spec.heads // spec.kv_heads, dim=0)
            .reshape(-1)
        )

    # ---- gains of norms

    def _raw(self, name: str) -> Tensor:
        return Parameters.tensor(self, name)

    def _gain(self, norm: str) -> Tensor:
        """A norm's factors on channels: its weight, and what the model adds to it."""
        weight = self._raw(f"{norm}.weight")
        return weight + self.source.norm_offset if self.source.norm_offset else weight

    def _kept_gain(self, norm: str) -> Tensor:
        """What is left of them where they are folded into what reads the norm.

        Gemma 3 has gains of 0, on channels whose values are a thousand times as large as those of the others. Folded,
        such a channel would make the scale of the whole token, to be multiplied by a column of zeros.
        """
        gain = self._gain(norm)
        if not self.plan.fold:
            return gain
        return (gain != 0).to(gain.dtype) if self.plan.zero_gains else torch.ones_like(gain)
