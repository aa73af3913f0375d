"""One decoder block in torch float32, cut into the stages between which a weight solver can stop.

The stages of a block, for hidden states h [batch, n, hidden]:

    x = attention_input(h)      what q, k, v read
    c = context(x, positions)   what o reads
    h = after_attention(h, x, c)
    x = mlp_input(h)            what gate and up (fc1) read
    u = mlp_hidden(x)           what down (fc2) reads
    h = after_mlp(h, x, u)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from agq.checkpoint.attention_scales import AttentionScales
from agq.models.spec import ModelSpec
from agq.reference.attention import Positions, attend, attend_through, rotate, share_of_first
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
}


@dataclass
class Block:
    """linears: by role (q, k, v or BLOOM's fused qkv; o; gate, up; down). `keys_values` is applied to keys (after RoPE)
    and values, shape [batch, kv_heads, n, head_dim], `queries_keys` before that to queries and keys. `observe`, when
    set, is called with each layer's (q, k) before the scores. `heads`, when set, is applied to each of "q", "k", "v"
    before rotary positions. `scales`, when set: integer attention with powers of two, in place of both.
    `softmax`, when set, is applied to the probabilities, with keys and values as they are.
    `capture`, when set, takes in "q*", "k*" and "v*" as the scores see them."""

    spec: ModelSpec
    linears: dict[str, Linear]
    attention_norm: Norm
    mlp_norm: Norm
    keys_values: InputTransform = identity
    queries_keys: InputTransform = identity
    observe: Callable[[Tensor, Tensor], None] | None = field(default=None, repr=False)
    heads: Callable[[str, Tensor], Tensor] | None = field(default=None, repr=False)
    capture: dict[str, Tensor] | None = field(default=None, repr=False)
    scales: AttentionScales | None = field(default=None, repr=False)
    softmax: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def attention_input(self, h: Tensor) -> Tensor:
        return h if self.spec.norm_after else self.attention_norm(h)

    def context(self, x: Tensor, positions: Positions, shares: list[Tensor] | None = None) -> Tensor:
        """x [batch, n, hidden] -> the heads' outputs, [batch, n, heads * head_dim]. shares: takes in each query's
        attention to the first token, [batch, heads, n]."""
        spec = self.spec
        batch, n, _ = x.shape
        if "qkv" in self.linears:
            fused = self.linears["qkv"]
            # BLOOM: the rows of one head's q, k and v stand together.
            q, k, v = fused(fused.transform(x)).view(batch, n, spec.heads, 3, spec.head_dim).permute(3, 0, 2, 1, 4)
        else:
            roles = [self.linears[role] for role in ("q", "k", "v")]
            read = roles[0].transform(x)
            q, k, v = (linear(read).view(batch, n, -1, spec.head_dim).transpose(1, 2) for linear in roles)
        if self.heads is not None:
            q, k, v = self.heads("q", q), self.heads("k", k), self.heads("v", v)
        if positions.cos is not None:
            q, k = (rotate(t, positions.cos, positions.sin) for t in (q, k))
        if self.observe is not None:
            self.observe(q, k)
        if self.capture is not None:
            self.capture.update({"q*": q, "k*": k, "v*": v})
        if self.scales is not None:
            out = attend_log2(q, k, v, self.scales, spec.attention_scale, positions.slopes, positions.places, shares)
            return out.transpose(1, 2).reshape(batch, n, -1)
        if self.softmax is not None:
            out = attend_through(
                q, k, v, spec.attention_scale, positions.slopes, positions.places, self.softmax, shares
            )
            return out.transpose(1, 2).reshape(batch, n, -1)
        q, k = self.queries_keys(q), self.queries_keys(k)
        k, v = self.keys_values(k), self.keys_values(v)
        if shares is not None:
            shares.append(share_of_first(q, k, spec.attention_scale, positions.slopes, positions.places))
        out = attend(q, k, v, spec.attention_scale, positions.slopes, positions.places)
        return out.transpose(1, 2).reshape(batch, n, -1)

    def after_attention(self, h: Tensor, x: Tensor, c: Tensor) -> Tensor:
        linear = self.linears["o"]
        out = linear(linear.transform(c)).add_(x if self.spec.residual_from_norm else h)
        return self.attention_norm(out) if self.spec.norm_after else out

    def mlp_input(self, h: Tensor) -> Tensor:
        return h if self.spec.norm_after else self.mlp_norm(h)

    def mlp_hidden(self, x: Tensor) -> Tensor:
        up = self.linears["up"]
        read = up.transform(x)
        activation = ACTIVATIONS[self.spec.activation]
        if "gate" in self.linears:
            return activation(self.linears["gate"](read)).mul_(up(read))
        return activation(up(read))

    def after_mlp(self, h: Tensor, x: Tensor, u: Tensor) -> Tensor:
        linear = self.linears["down"]
        out = linear(linear.transform(u)).add_(x if self.spec.residual_from_norm else h)
        return self.mlp_norm(out) if self.spec.norm_after else out

    def __call__(self, h: Tensor, positions: Positions) -> Tensor:
        """h float32 [batch, n, hidden] -> [batch, n, hidden]."""
        x = self.attention_input(h)
        h = self.after_attention(h, x, self.context(x, positions))
        x = self.mlp_input(h)
        return self.after_mlp(h, x, self.mlp_hidden(x))

    def inputs(self, h: Tensor, positions: Positions) -> tuple[dict[str, Tensor], Tensor]:
        """What each group of linears reads, by its first role (before `transform`), and the block's output."""
        x = self.attention_input(h)
        context = self.context(x, positions)
        h = self.after_attention(h, x, context)
        read = self.mlp_input(h)
        hidden = self.mlp_hidden(read)
        return dict(zip(self.groups(), (x, context, read, hidden), strict=True)), self.after_mlp(h, read, hidden)

    def groups(self) -> tuple[str, str, str, str]:
        """The first role of each group of linears that read one input, in the order of computation."""
        linears = self.linears
        return "qkv" if "qkv" in linears else "q", "o", "gate" if "gate" in linears else "up", "down"
