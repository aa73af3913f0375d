"""Integer attention with powers of two as probabilities: what docs/arithmetic.md, "Integer attention", says, in torch.

Integers are held in float32 and float products of them are exact: |q . k| <= 127^2 head_dim, and sums of value codes
times 2^(15-k) stay below 2^23 because a row of such probabilities adds up to less than sqrt 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agq.checkpoint.attention_scales import AttentionScales
from agq.reference.attention import Scoring

_QUERY_CHUNK = 256
LOG2_E = 1.44269504  # as the kernels have it, in float32
BITS = 15  # fraction bits of a probability


def attend_log2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scales: AttentionScales,
    scoring: Scoring,
    shares: list[Tensor] | None = None,
) -> Tensor:
    """Causal attention on static int8 q, k and v; arguments and result as of `agq.reference.attention.attend`.

    shares: takes in each query's probability of the first token, before it becomes a power of two, [batch, heads, n].
    """
    _, heads, n, width = q.shape
    group = heads // k.shape[1]
    device = q.device
    q_scale, k_scale = (torch.from_numpy(values).to(device) for values in (scales.q_scale, scales.k_scale))
    q = _symmetric(q, q_scale)
    k = _symmetric(k, k_scale).repeat_interleave(group, dim=1)
    powers = torch.from_numpy(1 << scales.v_exponent.astype("int64")).to(device, torch.float32)
    powers = powers.view(k_scale.numel(), 1, width)
    step = torch.tensor(scales.v_scale, dtype=torch.float32, device=device)
    inverse = (1 / step) / powers
    v = (torch.round(v * inverse) + scales.v_zero).clamp_(0, 255).sub_(128).repeat_interleave(group, dim=1)
    # Scores to base 2, in float32 step by step as the kernels.
    factor = q_scale * k_scale.repeat_interleave(group) * torch.tensor(scoring.scale) * torch.tensor(LOG2_E)
    out, first = torch.empty(q.shape, device=device), []
    for start in range(0, n, _QUERY_CHUNK):
        stop = min(start + _QUERY_CHUNK, n)
        x = (q[:, :, start:stop] @ k[:, :, :stop].transpose(-1, -2)).mul_(factor[:, None, None])
        if scoring.cap:
            cap = scoring.cap * LOG2_E
            x = torch.tanh(x / cap).mul_(cap)
        if scoring.slopes is not None:
            x += (scoring.slopes * LOG2_E)[:, None, None] * scoring.distance(start, stop, device)
        x.masked_fill_(scoring.hidden(start, stop, device), float("-inf"))
        top = x.amax(dim=-1, keepdim=True)
        total = top + torch.log2(torch.exp2(x - top).sum(dim=-1, keepdim=True))
        if shares is not None:
            first.append(torch.exp2(x[..., 0] - total[..., 0]))
        exponent = torch.round(total - x).clamp_(min=0)
        weight = torch.where(exponent <= BITS, torch.exp2(BITS - exponent), torch.zeros_like(exponent))
        weight = weight.round_()  # torch's powers of two are not exact everywhere
        accumulated = weight @ v[:, :, :stop] + (128 - scales.v_zero) * weight.sum(dim=-1, keepdim=True)
        out[:, :, start:stop] = accumulated * (step * powers * 2.0**-BITS).repeat_interleave(group, dim=0)
    if shares is not None:
        shares.append(torch.cat(first, dim=-1))
    return out


def _symmetric(x: Tensor, scale: Tensor) -> Tensor:
    """Codes of x [batch, heads, n, head_dim] in steps of scale [heads]."""
    return torch.round(x * (1 / scale)[:, None, None]).clamp_(-127, 127)
