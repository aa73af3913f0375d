"""Causal self-attention in float32 that never holds the score matrix of a long prompt: RoPE, ALiBi, sliding windows,
soft caps and grouped queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from agq.models import ModelSpec, RopeSpec

# Queries that are scored at once where a bias has to be added to the scores.
_QUERY_CHUNK = 256


@dataclass(frozen=True)
class Positions:
    """What attention needs to know about n consecutive positions starting at 0.

    cos, sin: float32 [n, channels / 2] (RoPE) or None; local: those of layers with a RoPE of their own; slopes: float32
    [heads] (ALiBi) or None; places: float32 [n], where the tokens stand, for ALiBi and sliding windows where some are
    left out.
    """

    cos: Tensor | None = None
    sin: Tensor | None = None
    slopes: Tensor | None = None
    places: Tensor | None = None
    local: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, spec: ModelSpec, n: int, device: torch.device | str = "cpu") -> Positions:
        if spec.rope is not None:
            cos, sin = _turns(spec, spec.rope, n, device)
            local = None if spec.rope_local is None else _turns(spec, spec.rope_local, n, device)
            return cls(cos=cos, sin=sin, local=local)
        if spec.position == "alibi":
            return cls(slopes=torch.tensor(spec.alibi_slopes(), dtype=torch.float32, device=device))
        return cls()

    def of_layer(self, spec: ModelSpec, layer: int) -> Positions:
        """What a layer of the model takes of them."""
        rope = spec.layer_rope(layer)
        if rope is None:
            return replace(self, cos=None, sin=None)
        if self.local is not None and rope is spec.rope_local:
            return replace(self, cos=self.local[0], sin=self.local[1])
        return self

    def of_tokens(self, index: Tensor, renumber: bool) -> Positions:
        """Of some of the tokens (int64, ascending): at their own positions, or numbered anew from 0."""
        if self.cos is not None and self.sin is not None:
            device = self.cos.device
            chosen = slice(index.numel()) if renumber else index.to(device)
            local = None if self.local is None else (self.local[0][chosen], self.local[1][chosen])
            places = None if renumber else index.to(device, torch.float32)
            return Positions(cos=self.cos[chosen], sin=self.sin[chosen], places=places, local=local)
        if self.slopes is not None and not renumber:
            return Positions(slopes=self.slopes, places=index.to(self.slopes.device, torch.float32))
        return self


def _turns(spec: ModelSpec, rope: RopeSpec, n: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """cos and sin of n positions, float32 [n, frequencies]."""
    inverse, scaling = spec.inv_freq(rope, n)
    frequencies = torch.as_tensor(inverse, dtype=torch.float32, device=device)
    angles = torch.arange(n, dtype=torch.float32, device=device)[:, None] * frequencies
    return angles.cos() * scaling, angles.sin() * scaling


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on x [..., n, head_dim], halves rotated against each other (the layout of LLaMA checkpoints in
    transformers). Channels beyond twice as many as cos and sin have stay as they are."""
    turned = 2 * cos.shape[-1]
    first, second = x[..., :turned].chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, x[..., turned:]), dim=-1)


@dataclass(frozen=True)
class Scoring:
    """How a layer's scores come about, q . k aside.

    scale: of q . k; slopes, places: see Positions, places None for 0, 1, ...; window: positions that a query sees,
    itself included, 0 for all; cap: c of c tanh(score / c), 0 for none.
    """

    scale: float
    slopes: Tensor | None = None
    places: Tensor | None = None
    window: int = 0
    cap: float = 0.0

    def causal(self, n: int) -> bool:
        """n tokens see all that is before them, by q . k alone."""
        narrow = self.window and (self.places is not None or n > self.window)
        return self.slopes is None and not narrow and not self.cap

    def hidden(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Keys that queries start..stop do not see: bool [stop - start, stop]."""
        distance = self.distance(start, stop, device)
        unseen = distance > 0
        return unseen | (distance <= -self.window) if self.window else unseen

    def distance(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Key's position less the query's: float32 [stop - start, stop]."""
        places = self.places
        if places is None:
            places = torch.arange(stop, dtype=torch.float32, device=device)
        return places[None, :stop] - places[start:stop, None]

    def bias(self, start: int, stop: int, device: torch.device) -> Tensor:
        """What is added to the scores of queries start..stop, -inf where a key is not seen: float32 [heads or 1,
        stop - start, stop]."""
        if self.slopes is None:
            bias = torch.zeros(1, stop - start, stop, device=device)
        else:
            bias = self.slopes[:, None, None] * self.distance(start, stop, device)
        return bias.masked_fill_(self.hidden(start, stop, device), float("-inf"))

    def scores(self, q: Tensor, k: Tensor, start: int, stop: int) -> Tensor:
        """Scores of queries start..stop, float32 [batch, heads, stop - start, stop]. q, k: [batch, heads, n,
        head_dim]."""
        scores = (q[:, :, start:stop] @ k[:, :, :stop].transpose(-1, -2)) * self.scale
        if self.cap:
            scores = torch.tanh(scores / self.cap) * self.cap
        if self.slopes is not None:
            return scores.add_(self.bias(start, stop, q.device))
        return scores.masked_fill_(self.hidden(start, stop, q.device), float("-inf"))


def attend(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
    """Causal attention: q [batch, heads, n, head_dim], k and v [batch, kv_heads, n, head_dim] -> [batch, heads, n,
    head_dim]."""
    grouped, n = q.shape[1] != k.shape[1], q.shape[2]
    if scoring.causal(n):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scoring.scale, enable_gqa=grouped)
    if scoring.cap:
        return attend_through(q, k, v, scoring, lambda p: p)
    out = torch.empty_like(q)
    for start in range(0, n, _QUERY_CHUNK):
        stop = min(start + _QUERY_CHUNK, n)
        out[:, :, start:stop] = F.scaled_dot_product_attention(
            q[:, :, start:stop],
            k[:, :, :stop],
            v[:, :, :stop],
            attn_mask=scoring.bias(start, stop, q.device),
            scale=scoring.scale,
            enable_gqa=grouped,
        )
    return out


def attend_through(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scoring: Scoring,
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
        probabilities = change(torch.softmax(scoring.scores(q, k, start, stop), dim=-1))
        first.append(probabilities[..., 0])
        out[:, :, start:stop] = probabilities @ v[:, :, :stop]
    if shares is not None:
        shares.append(torch.cat(first, dim=-1))
    return out


def share_of_first(q: Tensor, k: Tensor, scoring: Scoring) -> Tensor:
    """Attention probability of the first token in each query's row: float32 [batch, heads, n]. Arguments as of
    `attend`."""
    _, heads, n, _ = q.shape
    k = k.repeat_interleave(heads // k.shape[1], dim=1)
    parts = []
    for start in range(0, n, _QUERY_CHUNK):
        scores = scoring.scores(q, k, start, min(start + _QUERY_CHUNK, n))
        parts.append(torch.exp(scores[..., 0] - torch.logsumexp(scores, dim=-1)))
    return torch.cat(parts, dim=-1)


def attention_to_first(q: Tensor, k: Tensor, scoring: Scoring) -> Tensor:
    """Attention probability of the first position, summed over queries and batch: float64 [heads]. Shapes as in
    `attend`."""
    return share_of_first(q, k, scoring).double().sum(dim=(0, 2)).cpu()
