"""The tensors of a transformed model, computed from the original ones when they are asked for: one tensor in memory at
a time.

Row vectors: a hidden state h becomes h Q, so a linear that reads it gets W Q and one that writes it Q^T W.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agq.checkpoint import Checkpoint
from agq.numerics.hadamard import fwht
from agq.quantization.encode import TORCH_DTYPES
from agq.quantization.transforms.plan import TransformPlan
from agq.quantization.transforms.tensors import NORMS, TransformTensors
from agq.reference.block import Linear
from agq.reference.quantizers import activation_quantizer

# Roles whose linears read what goes into attention or feed-forward, and which of them.
_READS = {
    **dict.fromkeys(("q", "k", "v", "qkv"), "attention"),
    **dict.fromkeys(("gate", "up", "gate_up"), "mlp"),
}
# What a fused `gate_up` consists of.
_HALVES = ("gate", "up")


class TransformedParameters(TransformTensors):
    """Parameters of an unquantized checkpoint with a plan applied. `spec` and `parts` describe the transformed
    model."""

    def __init__(self, checkpoint: Checkpoint, plan: TransformPlan, device: torch.device | str = "cpu") -> None:
        super().__init__(checkpoint, plan, device)
        self._linears = {
            linear.module: (block.index, role)
            for block in checkpoint.parts.blocks()
            for role, linear in block.linears.items()
        }
        self._norms = {
            block.norms[role]: (block.index, place)
            for block in checkpoint.parts.blocks()
            for place, role in NORMS.items()
            if role in block.norms
        }

    # ---- the interface of Parameters

    def tensor(self, name: str) -> Tensor:
        """float32 tensor `name` of the transformed model."""
        module, leaf = name.rsplit(".", 1)
        if module in self._linears:
            index, role = self._linears[module]
            return self._weight(index, role, module) if leaf == "weight" else self._bias(index, role, module)
        if module in self._norms:
            return self._norm_tensor(module, leaf)
        parts = self.checkpoint.parts
        if module == parts.embed:
            return self._embedding()
        if module == parts.position:
            return super().tensor(name) if self.r1 is None else self._residual_rows(super().tensor(name))
        if module == parts.final_norm:
            return self._final_norm(leaf)
        if module == parts.head:
            return self._head()
        return super().tensor(name)

    def values(self, name: str) -> np.ndarray:
        """The same as an array."""
        found: np.ndarray = self.tensor(name).cpu().numpy()
        return found

    def linear(self, module: str) -> Linear:
        """The linear `module`, with the online transform of its input where the plan has one."""
        hadamard = self.hadamard(module)
        return Linear(
            self.tensor(f"{module}.weight"),
            self.optional(f"{module}.bias"),
            activation_quantizer(None, 1.0, hadamard),
            hadamard,
        )

    def hadamard(self, module: str) -> int:
        """Block length of the online transform of a module's input; 0: none."""
        return self.plan.hadamard if self._linears.get(module, (0, ""))[1] == "down" else 0

    def input(self, index: int, place: str, x: Tensor) -> Tensor:
        """What the linears at a place of a block multiply, the online transform included, where those of the model
        without exponents, rotations and permutation read x, float32 [..., channels]."""
        shift = self._shift(place, index)
        if shift is not None:
            x = x - (self.to_query_heads(shift) if place == "o" else shift)
        scale = self._exponents(place, index)
        if scale is not None:
            x = x / (self.to_query_heads(scale) if place == "o" else scale)
        if place in ("attention", "mlp"):
            return x if self.r1 is None else x @ self.r1
        if place == "o" and self.plan.r2 is not None:
            return self.turn_values(index, x)
        if place == "down":
            order = self._order(index)
            if order is not None:
                x = x[..., order]
            if self.plan.hadamard:
                x = fwht(x, self.plan.hadamard)
        return x

    # ---- linears of the blocks

    def _norm_of(self, index: int, role: str) -> str | None:
        """The norm that a role reads; None where there is none."""
        return self.checkpoint.parts.block(index).norms.get(NORMS[_READS[role]])

    def _folds(self, module: str) -> bool:
        return self.plan.fold and self.checkpoint.has(f"{module}.weight")

    def _weight(self, index: int, role: str, module: str) -> Tensor:
        if role in _READS:
            return self._outputs(index, role, self._reading(index, role, module))
        weight = self._raw(f"{module}.weight")
        place = "o" if role == "o" else "down"
        scale = self._exponents(place, index)
        if scale is not None:
            weight = weight * (self.to_query_heads(scale) if role == "o" else scale)
        if role == "o" and self.plan.r2 is not None:
            weight = self.turn_values(index, weight)
        if role == "down":
            order = self._order(index)
            if order is not None:
                weight = weight[:, order]
            if self.plan.hadamard:
                weight = fwht(weight, self.plan.hadamard)
        return self._residual_rows(weight.t()).t().contiguous()

    def _reading(self, index: int, role: str, module: str) -> Tensor:
        """The weight of a linear that reads a norm (or the hidden states), with what is done to its inputs."""
        weight = self._raw(f"{module}.weight")
        norm = self._norm_of(index, role)
        if norm is not None and self._folds(norm):
            weight = weight * self._gain(norm)
        scale = self._exponents(_READS[role], index)
        if scale is not None:
            weight = weight * scale
        return weight if self.r1 is None else weight @ self.r1

    def _bias(self, index: int, role: str, module: str) -> Tensor:
        bias = self._raw(f"{module}.bias")
        if role not in _READS:
            shift = self._shift("o", index) if role == "o" else None
            if shift is not None:
                bias = bias + self._raw(f"{module}.weight") @ self.to_query_heads(shift)
            return self._residual_rows(bias)
        norm = self._norm_of(index, role)
        if norm is not None and self._folds(norm) and self.checkpoint.has(f"{norm}.bias"):
            bias = bias + self._raw(f"{module}.weight") @ self._raw(f"{norm}.bias")
        if norm is not None and self._shift(_READS[role], index) is not None:
            taken = self._norm_bias(norm, shifted=False) - self._norm_bias(norm, shifted=True)
            bias = bias + self._reading(index, role, module) @ taken
        if role in ("v", "qkv") and (shift := self._shift("o", index)) is not None:
            bias = bias.clone()
            bias[self._value_rows(role)] -= shift
        return self._outputs(index, role, bias)

    def _value_rows(self, role: str) -> Tensor | slice:
        """The rows of `v` or of a fused projection that are values, in the order of their heads."""
        return self.qkv_rows[2] if role == "qkv" else slice(None)

    def _outputs(self, index: int, role: str, rows: Tensor) -> Tensor:
        """What is done to the outputs of q, k, v, gate, up: rows is a weight [out, in] or a bias [out]."""
        spec = self.source
        if role in ("v", "qkv"):
            scale = self._exponents("o", index)
            if scale is None and self.plan.r2 is None:
                return rows
            values = rows[self._value_rows(role)]
            flat = values.shape
            values = values.reshape(spec.kv_heads, spec.head_dim, *flat[1:])
            if scale is not None:
                values = values / scale.reshape(spec.kv_heads, spec.head_dim, *([1] * (len(flat) - 1)))
            if self.plan.r2 is not None:
                values = torch.einsum("kd...,kde->ke...", values, self.r2(index))
            rows = rows.clone()
            rows[self._value_rows(role)] = values.reshape(flat)
            return rows
        if role == "gate_up":
            return torch.cat(
                [self._outputs(index, half, part) for half, part in zip(_HALVES, rows.chunk(2), strict=True)]
            )
        if role in ("gate", "up"):
            scale = self._exponents("down", index)
            if scale is not None and role == "up":
                rows = rows / (scale[:, None] if rows.dim() == 2 else scale)
            order = self._order(index)
            return rows if order is None else rows[order].contiguous()
        return rows

    # ---- the residual stream

    def _residual_rows(self, rows: Tensor) -> Tensor:
        """Vectors that are added to the residual stream, float32 [..., hidden]: centred and rotated."""
        if self.centred:
            rows = rows - rows.mean(dim=-1, keepdim=True)
        return rows if self.r1 is None else rows @ self.r1

    def _embedding(self) -> Tensor:
        parts = self.checkpoint.parts
        table = self._raw(f"{parts.embed}.weight")
        if self.plan.bake_embed_norm:
            table = F.layer_norm(
                table,
                (table.shape[-1],),
                self._optional(f"{parts.embed_norm}.weight"),
                self._optional(f"{parts.embed_norm}.bias"),
                self.source.norm_eps,
            )
        return table if self.r1 is None else self._residual_rows(table)

    def _optional(self, name: str) -> Tensor | None:
        return self._raw(name) if self.checkpoint.has(name) else None

    def _norm_tensor(self, module: str, leaf: str) -> Tensor:
        if leaf == "bias":
            return self._norm_bias(module, shifted=True)
        gain = self._kept_gain(module)
        index, place = self._norms[module]
        scale = self._exponents(place, index)
        return self._weight_of(gain if scale is None else gain / scale)

    def _weight_of(self, gain: Tensor) -> Tensor:
        """A norm's gain as its weight is stored."""
        return gain - self.source.norm_offset if self.source.norm_offset else gain

    def _norm_bias(self, module: str, shifted: bool) -> Tensor:
        """Bias of a norm before a block's linears; shifted: less what is taken from the channels, rounded as it will be
        stored, so that the readers' biases can add exactly that again."""
        name = f"{module}.bias"
        bias = self._raw(name)
        if self.plan.fold:
            bias = torch.zeros_like(bias)
        index, place = self._norms[module]
        shift = self._shift(place, index) if shifted else None
        if shift is not None:
            bias = bias - shift
        scale = self._exponents(place, index)
        if scale is not None:
            bias = bias / scale
        if self.r1 is not None:
            bias = bias @ self.r1
        return bias if shift is None else bias.to(TORCH_DTYPES[self.checkpoint.dtype(name)]).float()

    def _final_norm(self, leaf: str) -> Tensor:
        """The gain goes into the head where the residual stream is rotated; the head has no bias, so the norm keeps its
        own."""
        module = self.checkpoint.parts.final_norm
        assert module is not None  # its tensors are asked for
        gain = self._gain(module)
        if leaf == "weight":
            return self._weight_of(gain if self.r1 is None else torch.ones_like(gain))
        bias = self._raw(f"{module}.bias")
        return bias if self.r1 is None else (bias / gain) @ self.r1

    def _head(self) -> Tensor:
        parts = self.checkpoint.parts
        weight = self._raw(f"{parts.head}.weight")
        if self.r1 is None:
            return weight
        if parts.final_norm is not None and self.checkpoint.has(f"{parts.final_norm}.weight"):
            weight = weight * self._gain(parts.final_norm)
        return weight @ self.r1
