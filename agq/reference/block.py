"""One decoder block in torch float32, cut into the stages between which a weight solver can stop.

The stages of a block, for hidden states h [batch, n, hidden]:

    x = attention_input(h)      what q, k, v read
    c = context(x, positions)   what o reads
    a = after_attention(h, x, c)
    x = mlp_input(h, a)         what gate and up (fc1) read
    u = mlp_hidden(x)           what down (fc2) reads
    h = after_mlp(a, x, u)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from agq.checkpoint.attention_scales import AttentionScales
from agq.models import ModelSpec
from agq.reference.attention import Positions, Scoring, attend, attend_through, rotate, share_of_first
from agq.reference.attention_log2 import attend_log2

# A transformation of a linear's inputs, float32 [..., channels] -> the same shape: the activation quantizer, or
# nothing.
InputTransform = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    return x


@dataclass
class Linear:
    """weight float32 [out, in], bias float32 [out] or None, and what is done to the input before the product.

    hadamard: block length of the Walsh-Hadamard transform that `transform` begins with; 0: none.
    """

    weight: Tensor
    bias: Tensor | None = None
    transform: InputTransform = identity
    hadamard: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass
class Norm:
    """RMSNorm (bias None and kind "rms") or LayerNorm over the last dimension."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float
    kind: str

    def __call__(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)
        scaled = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps)
        return scaled if self.weight is None else scaled.mul_(self.weight)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu_gated": F.silu,
    "relu": F.relu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_erf": F.gelu,
    "gelu_tanh_gated": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_erf_gated": F.gelu,
}


@dataclass
class Block:
    """linears: by role (see agq.models.parts.Linear). attention_norm and mlp_norm stand before attention and
    feed-forward (after the additions where the spec says so), attention_post and mlp_post after them. index: of the
    block; qkv_rows: which rows of a fused projection are q's, k's and v's, int64.

    `keys_values` is applied to keys (after RoPE)
    and values, shape [batch, kv_heads, n, head_dim], `queries_keys` before that to queries and keys. `observe`, when
    set, is called with each layer's (q, k) before the scores. `heads`, when set, is applied to each of "q", "k", "v"
    before rotary positions. `scales`, when set: integer attention with powers of two, in place of both.
    `softmax`, when set, is applied to the probabilities, with keys and values as they are.
    `capture`, when set, takes in "q*", "k*" and "v*" as the scores see them."""

    spec: ModelSpec
    linears: dict[str, Linear]
    attention_norm: Norm | None
    mlp_norm: Norm | None
    keys_values: InputTransform = identity
    queries_keys: InputTransform = identity
    observe: Callable[[Tensor, Tensor], None] | None = field(default=None, repr=False)
    heads: Callable[[str, Tensor], Tensor] | None = field(default=None, repr=False)
    capture: dict[str, Tensor] | None = field(default=None, repr=False)
    scales: AttentionScales | None = field(default=None, repr=False)
    softmax: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    attention_post: Norm | None = None
    mlp_post: Norm | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    index: int = 0
    qkv_rows: tuple[Tensor, ...] = field(default=(), repr=False)

    def attention_input(self, h: Tensor) -> Tensor:
        return h if self.spec.norm_after or self.attention_norm is None else self.attention_norm(h)

    def context(self, x: Tensor, positions: Positions, shares: list[Tensor] | None = None) -> Tensor:
        """x [batch, n, hidden] -> the heads' outputs, [batch, n, heads * head_dim]. shares: takes in each query's
        attention to the first token, [batch, heads, n]."""
        spec = self.spec
        batch, n, _ = x.shape
        positions = positions.of_layer(spec, self.index)
        scoring = self.scoring(positions)
        q, k, v = self._queries_keys_values(x)
        if self.heads is not None:
            q, k, v = self.heads("q", q), self.heads("k", k), self.heads("v", v)
        if positions.cos is not None and positions.sin is not None:
            q, k = rotate(q, positions.cos, positions.sin), rotate(k, positions.cos, positions.sin)
        if self.observe is not None:
            self.observe(q, k)
        if self.capture is not None:
            self.capture.update({"q*": q, "k*": k, "v*": v})
        if self.scales is not None:
            out = attend_log2(q, k, v, self.scales, scoring, shares)
        elif self.softmax is not None:
            out = attend_through(q, k, v, scoring, self.softmax, shares)
        else:
            q, k = self.queries_keys(q), self.queries_keys(k)
            k, v = self.keys_values(k), self.keys_values(v)
            if shares is not None:
                shares.append(share_of_first(q, k, scoring))
            out = attend(q, k, v, scoring)
        return out.transpose(1, 2).reshape(batch, n, -1)

    def scoring(self, positions: Positions) -> Scoring:
        """How this block's scores come about at these positions."""
        spec = self.spec
        window = spec.layer_window(self.index)
        return Scoring(spec.attention_scale, positions.slopes, positions.places, window, spec.attention_softcap)

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v before positions, with their norms: [batch, heads or kv_heads, n, head_dim]."""
        if "qkv" in self.linears:
            fused = self.linears["qkv"]
            y = fused(fused.transform(x))
            q, k, v = (y.index_select(-1, rows) for rows in self.qkv_rows)
        else:
            roles = [self.linears[role] for role in ("q", "k", "v")]
            read = roles[0].transform(x)
            q, k, v = (linear(read) for linear in roles)
        whole = self.spec.qk_norm == "whole"
        if whole:
            q, k = self._normed(q, k)
        q, k, v = (t.view(*t.shape[:2], -1, self.spec.head_dim).transpose(1, 2) for t in (q, k, v))
        if not whole:
            q, k = self._normed(q, k)
        return q, k, v

    def _normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q if self.q_norm is None else self.q_norm(q), k if self.k_norm is None else self.k_norm(k)

    def after_attention(self, h: Tensor, x: Tensor, c: Tensor) -> Tensor:
        linear = self.linears["o"]
        return self._added(linear(linear.transform(c)), h, x, self.attention_post, self.attention_norm)

    def _added(self, y: Tensor, h: Tensor, x: Tensor, post: Norm | None, norm: Norm | None) -> Tensor:
        """The hidden states with what attention or feed-forward gives. h: before it, x: what it read."""
        if post is not None:
            y = post(y)
        if self.spec.residual_scale != 1.0:
            y = y * self.spec.residual_scale
        out = y.add_(x if self.spec.residual_from_norm else h)
        return norm(out) if self.spec.norm_after and norm is not None else out

    def mlp_input(self, h: Tensor, a: Tensor) -> Tensor:
        """What gate and up read. h: hidden states before attention, a: after it."""
        a = h if self.spec.parallel else a
        return a if self.spec.norm_after or self.mlp_norm is None else self.mlp_norm(a)

    def mlp_hidden(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.spec.activation]
        first = self.linears[self.groups()[2]]
        read = first.transform(x)
        if "gate_up" in self.linears:
            gate, up = first(read).chunk(2, dim=-1)
            return activation(gate).mul_(up)
        if "gate" in self.linears:
            return activation(first(read)).mul_(self.linears["up"](read))
        return activation(first(read))

    def after_mlp(self, a: Tensor, x: Tensor, u: Tensor) -> Tensor:
        linear = self.linears["down"]
        return self._added(linear(linear.transform(u)), a, x, self.mlp_post, self.mlp_norm)

    def __call__(self, h: Tensor, positions: Positions) -> Tensor:
        """h float32 [batch, n, hidden] -> [batch, n, hidden]."""
        x = self.attention_input(h)
        a = self.after_attention(h, x, self.context(x, positions))
        x = self.mlp_input(h, a)
        return self.after_mlp(a, x, self.mlp_hidden(x))

    def inputs(self, h: Tensor, positions: Positions) -> tuple[dict[str, Tensor], Tensor]:
        """What each group of linears reads, by its first role (before `transform`), and the block's output."""
        x = self.attention_input(h)
        context = self.context(x, positions)
        a = self.after_attention(h, x, context)
        read = self.mlp_input(h, a)
        hidden = self.mlp_hidden(read)
        return dict(zip(self.groups(), (x, context, read, hidden), strict=True)), self.after_mlp(a, read, hidden)

    def groups(self) -> tuple[str, str, str, str]:
        """The first role of each group of linears that read one input, in the order of computation."""
        linears = self.linears
        first = next(role for role in ("gate_up", "gate", "up") if role in linears)
        return "qkv" if "qkv" in linears else "q", "o", first, "down"
