"""Causal self-attention in float32 that never holds the score matrix of a long prompt: RoPE, ALiBi and grouped
queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from agq.models.spec import ModelSpec

# Queries that are scored at once where a bias has to be added to the scores.
_QUERY_CHUNK = 256


@dataclass(frozen=True)
class Positions:
    """What attention needs to know about n consecutive positions starting at 0.

    cos, sin: float32 [n, head_dim / 2] (RoPE) or None; slopes: float32 [heads] (ALiBi) or None; places: float32 [n],
    where the tokens stand, for ALiBi where some are left out.
    """

    cos: Tensor | None = None
    sin: Tensor | None = None
    slopes: Tensor | None = None
    places: Tensor | None = None

    @classmethod
    def of(cls, spec: ModelSpec, n: int, device: torch.device | str = "cpu") -> Positions:
        if spec.rope is not None:
            inverse, scaling = spec.rope.inv_freq(spec.head_dim, n)
            inverse = torch.as_tensor(inverse, dtype=torch.float32, device=device)
            angles = torch.arange(n, dtype=torch.float32, device=device)[:, None] * inverse
            return cls(cos=angles.cos() * scaling, sin=angles.sin() * scaling)
        if spec.position == "alibi":
            return cls(slopes=torch.tensor(spec.alibi_slopes(), dtype=torch.float32, device=device))
        return cls()

    def of_tokens(self, index: Tensor, renumber: bool) -> Positions:
        """Of some of the tokens (int64, ascending): at their own positions, or numbered anew from 0."""
        if self.cos is not None and self.sin is not None:
            chosen = slice(index.numel()) if renumber else index.to(self.cos.device)
            return Positions(cos=self.cos[chosen], sin=self.sin[chosen])
        if self.slopes is not None and not renumber:
            return Positions(slopes=self.slopes, places=index.to(self.slopes.device, torch.float32))
        return self


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on x [..., n, head_dim], halves rotated against each other (the layout of LLaMA checkpoints in
    transformers)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, slopes: Tensor | None, places: Tensor | None = None
) -> Tensor:
    """Causal attention: q [batch, heads, n, head_dim], k and v [batch, kv_heads, n, head_dim] -> [batch, heads, n,
    head_dim]. places: float32 [n], positions for ALiBi; default 0, 1, ..."""
    grouped = q.shape[1] != k.shape[1]
    if slopes is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
    n = q.shape[2]
    out = torch.empty_like(q)
    for start in range(0, n, _QUERY_CHUNK):
        stop = min(start + _QUERY_CHUNK, n)
        bias = _alibi_bias(slopes, start, stop, places)
        out[:, :, start:stop] = F.scaled_dot_product_attention(
            q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop], attn_mask=bias, scale=scale, enable_gqa=grouped
        )
    return out


def attend_through(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    slopes: Tensor | None,
    places: Tensor | None,
    change: Callable[[Tensor], Tensor],
    shares: list[Tensor] | None = None,
) -> Tensor:
    """As `attend`, with `change` applied to the probabilities before they weigh the values. shares: takes in each
    query's changed probability of the first token, [batch, heads, n]."""
    _, heads, n, _ = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    out, first = torch.empty(q.shape, device=q.device), []
    for start in range(0, n, _QUERY_CHUNK):
        stop = min(start + _QUERY_CHUNK, n)
        scores = (q[:, :, start:stop] @ k[:, :, :stop].transpose(-1, -2)) * scale
        if slopes is not None:
            scores += _alibi_bias(slopes, start, stop, places)
        else:
            future = torch.ones(stop - start, stop, dtype=torch.bool, device=q.device).triu_(start + 1)
            scores.masked_fill_(future, float("-inf"))
        probabilities = change(torch.softmax(scores, dim=-1))
        first.append(probabilities[..., 0])
        out[:, :, start:stop] = probabilities @ v[:, :, :stop]
    if shares is not None:
        shares.append(torch.cat(first, dim=-1))
    return out


def _alibi_bias(slopes: Tensor, start: int, stop: int, places: Tensor | None = None) -> Tensor:
    """slope * (key - query), -inf above the diagonal: float32 [heads, stop - start, stop]."""
    if places is None:
        places = torch.arange(stop, dtype=torch.float32, device=slopes.device)
    distance = places[None, :stop] - places[start:stop, None]
    bias = slopes[:, None, None] * distance
    return bias.masked_fill_(distance > 0, float("-inf"))


def share_of_first(q: Tensor, k: Tensor, scale: float, slopes: Tensor | None, places: Tensor | None = None) -> Tensor:
    """Attention probability of the first token in each query's row: float32 [batch, heads, n]. Arguments as of
    `attend`."""
    _, heads, n, _ = q.shape
    k = k.repeat_interleave(heads // k.shape[1], dim=1)
    parts = []
    for start in range(0, n, _QUERY_CHUNK):
        stop = min(start + _QUERY_CHUNK, n)
        scores = (q[:, :, start:stop] @ k[:, :, :stop].transpose(-1, -2)) * scale
        if slopes is not None:
            scores += _alibi_bias(slopes, start, stop, places)
        else:
            future = torch.ones(stop - start, stop, dtype=torch.bool, device=q.device).triu_(start + 1)
            scores.masked_fill_(future, float("-inf"))
        parts.append(torch.exp(scores[..., 0] - torch.logsumexp(scores, dim=-1)))
    return torch.cat(parts, dim=-1)


def attention_to_first(q: Tensor, k: Tensor, scale: float, slopes: Tensor | None) -> Tensor:
    """Attention probability of the first position, summed over queries and batch: float64 [heads]. Shapes as in
    `attend`."""
    return share_of_first(q, k, scale, slopes).double().sum(dim=(0, 2)).cpu()
