"""Integer products of TRIP-quantized activations and 4-bit weights, as the engine computes them: exact integer
references.

y_o = s * sum_c (q_c - zp) 2^alpha_c w_co, where w_co are integer weights (code - zero point). The powers of two go into
the weights (realization A) or into one accumulator per exponent (realization B); both give the same integers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fold_weights(weights: Tensor, alpha: Tensor) -> Tensor:
    """Realization A: integer weights [out, in] shifted left by alpha [in]. Raises ValueError where int8 cannot hold
    them."""
    folded = weights.long() << alpha.long()
    if int(folded.abs().max()) > 127:
        raise ValueError("weights times 2^alpha do not fit int8")
    return folded


def product_folded(codes: Tensor, zero: int, weights: Tensor, alpha: Tensor) -> Tensor:
    """Realization A: codes [n, in], weights [out, in] -> int64 [n, out], with the zero point taken off afterwards."""
    folded = fold_weights(weights, alpha)
    return codes.long() @ folded.t() - zero * folded.sum(dim=1)


def product_segments(codes: Tensor, zero: int, weights: Tensor, alpha: Tensor) -> Tensor:
    """Realization B: channels sorted by exponent, one accumulator per exponent, shifted and added: int64 [n, out]."""
    order = torch.argsort(alpha.long(), stable=True)
    codes, weights, alpha = codes.long()[:, order], weights.long()[:, order], alpha.long()[order]
    total = torch.zeros(codes.shape[0], weights.shape[0], dtype=torch.int64)
    for exponent in alpha.unique().tolist():
        part = alpha == exponent
        accumulator = codes[:, part] @ weights[:, part].t() - zero * weights[:, part].sum(dim=1)
        total += accumulator << exponent
    return total
