"""The transformer that a ModelSpec describes, in torch float32, one decoder block at a time.

This is the reference: the same function as transformers in float32, and for a quantized folder the arithmetic of
docs/arithmetic.md (activations, KV cache, output head) simulated in floats. The C engine must agree with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agq.checkpoint import Checkpoint, open_checkpoint, read_linear
from agq.checkpoint.attention_scales import AttentionScales
from agq.checkpoint.static import StaticRecord
from agq.errors import AgqError
from agq.formats import HEAD, TABLES
from agq.formats.activations import WIDE
from agq.models import ModelParts, ModelSpec
from agq.models.parts import BLOCK_NORMS, qkv_rows
from agq.numerics.trip import log2_softmax
from agq.recipe import ActivationScheme
from agq.reference.attention import Positions
from agq.reference.block import Block, Linear, Norm
from agq.reference.quantizers import (
    activation_quantizer,
    head_quantizer,
    kv_quantizer,
    kv_rotation,
    static_quantizer,
    table_rows,
)

# Rows of the output head that are computed at once, times the vocabulary: bounds the memory of the logits' temporaries.
_HEAD_CHUNK = 512


class Parameters:
    """Float32 tensors of a checkpoint by module name; quantized linears are dequantized.

    fake_quant: whether linears of a quantized folder get the activation quantizers that the folder names.
    """

    def __init__(self, checkpoint: Checkpoint, fake_quant: bool = True, device: torch.device | str = "cpu") -> None:
        self.checkpoint = checkpoint
        self.spec: ModelSpec = checkpoint.spec
        self.parts: ModelParts = checkpoint.parts
        self.fake_quant = fake_quant
        self.device = torch.device(device)
        # Linears outside the blocks know no sink tokens.
        self._outside = {self.parts.head, self.parts.project_in, self.parts.project_out}

    @cached_property
    def qkv_rows(self) -> tuple[Tensor, ...]:
        """Rows of a fused projection that are q's, k's and v's, int64."""
        with torch.inference_mode(False):  # the walk makes them without gradients, tuning computes gradients by them
            return tuple(torch.tensor(rows, device=self.device) for rows in qkv_rows(self.spec, self.parts.qkv_order))

    def tensor(self, name: str) -> Tensor:
        """float32 tensor `name`."""
        return torch.from_numpy(np.ascontiguousarray(self.checkpoint.read(name))).to(self.device)

    def optional(self, name: str) -> Tensor | None:
        return self.tensor(name) if self.checkpoint.has(name) else None

    def linear(self, module: str) -> Linear:
        """The linear `module`, dequantized and with its activation quantizer where the folder is quantized."""
        bias = self.optional(f"{module}.bias")
        record = self.checkpoint.record
        hadamard = record.hadamards.get(module, 0)
        if self.checkpoint.quantization is not None and self.checkpoint.quantization.scheme(module) is not None:
            stored = read_linear(self.checkpoint, module)
            weight = torch.from_numpy(stored.dequantize()).to(self.device)
            scheme = stored.activations if self.fake_quant else None
            static = self.checkpoint.statics.inputs.get(module) if self.fake_quant else None
            if static is not None:
                return Linear(weight, bias, static_quantizer(static, hadamard), hadamard)
            sinks = 0 if module in self._outside else record.sink_tokens
            transform = activation_quantizer(scheme, record.clips.get(module, 1.0), hadamard, sinks)
            return Linear(weight, bias, transform, hadamard)
        return Linear(self.tensor(f"{module}.weight"), bias, activation_quantizer(None, 1.0, hadamard), hadamard)

    @overload
    def norm(self, module: str) -> Norm: ...

    @overload
    def norm(self, module: None) -> None: ...

    @overload
    def norm(self, module: str | None) -> Norm | None: ...

    def norm(self, module: str | None) -> Norm | None:
        """The norm `module`; None stays None."""
        if module is None:
            return None
        weight = self.optional(f"{module}.weight")
        if weight is not None and self.spec.norm_offset:
            weight = weight + self.spec.norm_offset
        return Norm(weight, self.optional(f"{module}.bias"), self.spec.norm_eps, self.spec.norm)

    def block(self, index: int, kv_bits: int = 32) -> Block:
        """Decoder block `index` with a KV cache of `kv_bits`."""
        parts = self.parts.block(index)
        linears = {role: self.linear(linear.module) for role, linear in parts.linears.items()}
        norms = {role: self.norm(parts.norms.get(role)) for role in BLOCK_NORMS}
        return Block(
            self.spec,
            linears,
            norms["attn_norm"],
            norms["mlp_norm"],
            kv_quantizer(kv_bits),
            kv_rotation(kv_bits, self.spec.head_dim),
            attention_post=norms["attn_post_norm"],
            mlp_post=norms["mlp_post_norm"],
            q_norm=norms["q_norm"],
            k_norm=norms["k_norm"],
            index=index,
            qkv_rows=self.qkv_rows,
        )


class Embedding:
    """Token ids -> hidden states: table, learned positions, embedding norm and OPT-350m's projection."""

    def __init__(self, parameters: Parameters, table: Tensor | None = None) -> None:
        spec, parts = parameters.spec, parameters.parts
        self.spec = spec
        self.table = parameters.tensor(f"{parts.embed}.weight") if table is None else table
        self.position = parameters.tensor(f"{parts.position}.weight") if parts.position else None
        self.norm = parameters.norm(parts.embed_norm)
        self.project_in = parameters.linear(parts.project_in) if parts.project_in else None

    def __call__(self, tokens: Tensor) -> Tensor:
        """int64 [batch, n] -> float32 [batch, n, hidden]. Positions start at 0.

        Raises AgqError for a token outside the vocabulary or more tokens than the learned positions hold.
        """
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.table.shape[0]:
            raise AgqError(
                f"token ids run from {int(tokens.min())} to {int(tokens.max())}, the model's vocabulary has "
                f"{self.table.shape[0]} entries",
                hint="the tokenizer belongs to another model",
            )
        h = F.embedding(tokens, self.table)
        if self.spec.embed_scale != 1.0:
            h = h * self.spec.embed_scale
        if self.project_in is not None:
            h = self.project_in(self.project_in.transform(h))
        if self.position is not None:
            n, offset = tokens.shape[1], self.spec.position_offset
            if n + offset > self.position.shape[0]:
                raise AgqError(
                    f"{n} tokens do not fit the model's {self.position.shape[0] - offset} positions",
                    hint=f"use `seq_len: {self.position.shape[0] - offset}` or less",
                )
            h = h + self.position[offset : offset + n]
        return h if self.norm is None else self.norm(h)


class ReferenceModel:
    """The whole model in memory. Use `from_folder`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        fake_quant: bool = True,
        kv_bits: int | None = None,
        head_bits: int | None = None,
        device: torch.device | str = "cpu",
        parameters: Parameters | None = None,
        attention: list[AttentionScales] | None = None,
        embed_bits: int | None = None,
    ) -> None:
        """kv_bits: 4, 8, 16 or 32, head_bits: 4, 6, 8, 16 or 32; None takes what the folder's agq.json says (32,
        nothing quantized, for a plain folder or with fake_quant off). embed_bits: of an embedding that is not the head
        (nor is by a matrix, Checkpoint.tying), 8, 16 or 32; None takes what `agq pack` would. parameters: other tensors
        than the checkpoint's own (a transformed model). attention: static scales of integer attention, which is
        computed then (with keys and values of 8 bits); None takes the folder's, where it has them and fake_quant is
        on."""
        parameters = parameters or Parameters(checkpoint, fake_quant, device)
        self.checkpoint = checkpoint
        self.spec: ModelSpec = parameters.spec
        record = checkpoint.agq if fake_quant else {}
        self.sink_tokens = checkpoint.record.sink_tokens if fake_quant else 0
        self.kv_bits = int(record.get("kv_bits", 32)) if kv_bits is None else kv_bits
        self.head_bits = int(record.get("head_bits", 32)) if head_bits is None else head_bits
        HEAD.check(self.head_bits)
        parts = parameters.parts
        matrix = checkpoint.tying(self.head_bits, embed_bits) if fake_quant else None
        if matrix is not None:
            self.spec = replace(self.spec, tied=True, head_matrix=True)
        head = None if self.spec.tied else parameters.linear(parts.head)
        table = parameters.tensor(f"{parts.embed}.weight")
        if head is None:
            head = Linear(table)
        if TABLES[self.head_bits].integer:
            head = Linear(
                table_rows(head.weight, self.head_bits),
                head.bias,
                activation_quantizer(ActivationScheme(WIDE.bits, symmetric=True), 1.0, head.hadamard),
                head.hadamard,
            )
            if self.spec.tied:
                table = head.weight
        if embed_bits is None and fake_quant:
            embed_bits = checkpoint.embed_bits(_packed_head_bits(checkpoint, self.head_bits))
        if embed_bits is not None and TABLES[embed_bits].integer and not self.spec.tied:
            table = table_rows(table, embed_bits)
        self.head = head
        self.embedding = Embedding(parameters, table)
        self.blocks = [parameters.block(i, self.kv_bits) for i in range(self.spec.layers)]
        statics = checkpoint.statics if fake_quant else StaticRecord()
        for block, heads in zip(self.blocks, statics.heads or (), strict=False):
            block.heads, block.softmax = head_quantizer(heads), log2_softmax
        for index, scales in enumerate(attention or statics.attention or ()):
            scales.check(self.spec.heads, self.spec.kv_heads, self.spec.head_dim, f"attention scales of block {index}")
            self.blocks[index].scales = scales
        self.final_norm = parameters.norm(parts.final_norm)
        self.project_out = parameters.linear(parts.project_out) if parts.project_out else None
        if matrix is not None:
            self.project_out = Linear(torch.tensor(matrix, device=parameters.device))
        self.device = parameters.device
        self._positions: tuple[int, Positions] | None = None

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        fake_quant: bool = True,
        kv_bits: int | None = None,
        head_bits: int | None = None,
        device: torch.device | str = "cpu",
        attention: list[AttentionScales] | None = None,
        embed_bits: int | None = None,
    ) -> ReferenceModel:
        """Opens a Hugging Face folder, quantized or not; the rest as for the class. Raises AgqError for what cannot be
        read."""
        checkpoint = open_checkpoint(path)
        return cls(checkpoint, fake_quant, kv_bits, head_bits, device, None, attention, embed_bits)

    def positions(self, n: int) -> Positions:
        if self._positions is None or self._positions[0] != n:
            self._positions = (n, Positions.of(self.spec, n, self.device))
        return self._positions[1]

    @torch.inference_mode()
    def hidden(self, tokens: Tensor) -> Tensor:
        """int64 [batch, n] -> float32 [batch, n, embed_dim], what the output head reads."""
        h = self.embedding(tokens.to(self.device))
        positions = self.positions(tokens.shape[1])
        for block in self.blocks:
            h = block(h, positions)
        return finish(h, self.final_norm, self.project_out)

    @torch.inference_mode()
    def logits(self, tokens: np.ndarray | Tensor) -> np.ndarray:
        """Token ids [n] -> float32 logits [n, vocab]."""
        ids = torch.as_tensor(np.asarray(tokens), dtype=torch.int64).reshape(1, -1)
        h = self.hidden(ids)[0]
        out = torch.empty(h.shape[0], self.head.weight.shape[0], dtype=torch.float32)
        for rows, part in self._head_chunks(h):
            out[rows] = part
        return out.numpy()

    @torch.inference_mode()
    def nll(self, tokens: np.ndarray | Tensor) -> np.ndarray:
        """Token ids [n] -> float32 [n - 1], the negative log likelihood of tokens 1.. given those before; without the
        memory of the whole logits."""
        ids = torch.as_tensor(np.asarray(tokens), dtype=torch.int64).reshape(1, -1)
        h = self.hidden(ids)[0, :-1]
        targets = ids[0, 1:].to(h.device)
        parts = [F.cross_entropy(part, targets[rows], reduction="none") for rows, part in self._head_chunks(h)]
        return torch.cat(parts).cpu().numpy()

    def _head_chunks(self, h: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, h.shape[0], _HEAD_CHUNK):
            rows = slice(start, start + _HEAD_CHUNK)
            yield rows, self.scores(h[rows])

    def scores(self, h: Tensor) -> Tensor:
        """What the output head reads, float32 [n, embed_dim] -> logits [n, vocab]."""
        return shaped_logits(self.head(self.head.transform(h)), self.spec)


def _packed_head_bits(checkpoint: Checkpoint, head_bits: int) -> int:
    """Width of the head in an artifact: a head that the folder stores quantized keeps its own."""
    scheme = checkpoint.quantization.scheme(checkpoint.parts.head) if checkpoint.quantization else None
    return head_bits if scheme is None else scheme.bits


def shaped_logits(logits: Tensor, spec: ModelSpec) -> Tensor:
    """Products of the output head with the model's factor and soft cap."""
    if spec.logit_scale != 1.0:
        logits = logits * spec.logit_scale
    return torch.tanh(logits / spec.logit_softcap) * spec.logit_softcap if spec.logit_softcap else logits


def finish(h: Tensor, final_norm: Norm | None, project_out: Linear | None) -> Tensor:
    """What stands between the last block and the output head."""
    if final_norm is not None:
        h = final_norm(h)
    return h if project_out is None else project_out(project_out.transform(h))
