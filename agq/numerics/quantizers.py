"""Quantizers as pure tensor functions: round-to-nearest weight grids, and the activation and KV-cache quantizers of
docs/arithmetic.md in float32 ("fake quantization": the values an integer kernel would see, as floats).

Conventions, those of compressed-tensors: codes are signed (4 bits: -8..7, 8 bits: -127..127 symmetric, -128..127
asymmetric), `w^ = (code - zero) * scale`, and symmetric means zero = 0. Scales are rounded to the number format they
will be stored in *before* any code is computed, so that what is optimised is what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agq.formats.activations import FLOAT, QUANTIZED
from agq.formats.cache import four_bit_group
from agq.formats.clips import NORM, SHARES
from agq.formats.weights import code_format
from agq.native.clip_search import STEP, Grids, clip_search, library

# Ranges of activations below it count as 0 (docs/arithmetic.md): their inverses need not be finite.
LEAST_RANGE = 2.0**-120
# Elements per chunk of the element-wise passes: about 1 MB of float32, so that a chunk stays in a core's cache.
_CHUNK = 1 << 18
# Elements that torch does not divide between threads (at::internal::GRAIN_SIZE).
_SERIAL = 1 << 15
# Groups per call of the library's clip search: 1 MB of scales.
_SEARCHED = 1 << 12


@dataclass(frozen=True)
class Grid:
    """Where the representable values of a weight matrix lie.

    scale, zero: float32 [rows, groups], zero holding integers (0 when symmetric); group_size: columns per group
    (the number of columns when there is one group per row).
    """

    scale: Tensor
    zero: Tensor
    bits: int
    symmetric: bool
    group_size: int

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest code."""
        return code_format(self.bits).limits(self.symmetric)

    def columns(self, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scale and zero of every column, [columns, rows] contiguous; `order` [columns] permutes the columns."""
        groups = self.scale.shape[1]
        index = torch.arange(groups * self.group_size, device=self.scale.device)
        index = (index if order is None else order) // self.group_size
        return self.scale.t()[index].contiguous(), self.zero.t()[index].contiguous()


def round_scale(scale: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """`scale` (float32) rounded to a bf16 value that `dtype` (the format it is stored in) holds exactly.

    Values that become zero are replaced by 1: their group has only code 0, and a division by the scale stays harmless.
    """
    rounded = scale.to(torch.bfloat16).float()
    if dtype == torch.float16:
        # bf16 has the shorter mantissa but the wider exponent: small scales are subnormal in fp16.
        rounded = rounded.clamp(max=65280.0).half().to(torch.bfloat16).float()
    smallest, largest = torch.aminmax(rounded)
    if smallest > 0 and largest < float("inf"):
        return rounded
    return torch.where((rounded > 0) & torch.isfinite(rounded), rounded, torch.ones_like(rounded))


def _grid_of_range(low: Tensor, high: Tensor, bits: int, symmetric: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scale and zero (same shape as low and high) that cover [low, high], which contains 0."""
    smallest, largest = code_format(bits).limits(symmetric)
    if symmetric:
        scale = _symmetric_scale(_amax(low, high), bits, dtype)
        return scale, torch.zeros_like(scale)
    scale = round_scale((high - low) / (largest - smallest), dtype)
    zero = (smallest - torch.round(low / scale)).clamp(smallest, largest)
    return scale, zero


def _amax(low: Tensor, high: Tensor) -> Tensor:
    return torch.maximum(-low, high)


def _symmetric_scale(amax: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Scale of codes without zero point that cover [-amax, amax]."""
    smallest, largest = code_format(bits).limits(True)
    # 4 bits have one code more on the negative side. Half of it is given to the range (amax / 7.5, the largest positive
    # value is clipped by half a step), the convention of compressed-tensors; measured better than amax / 7. With 8 bits
    # this is amax / 127.
    return round_scale(amax / ((largest - smallest) / 2), dtype)


def weight_grid(
    weight: Tensor,
    bits: int,
    symmetric: bool,
    group_size: int,
    mse: bool = False,
    importance: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Grid:
    """The grid of a weight matrix: one scale (and zero) per row and group of columns.

    weight: float32 [rows, columns]; group_size: columns per group, -1 for one group per row; dtype: the format that
    scales are stored in. Without `mse` the grid spans each group's range. With `mse` the range is shrunk by the factor
    of a search (agq/formats/clips.py) that makes sum_j importance_j * |w_j - Q(w_j)|^2.4 smallest;
    importance: [columns], default 1, usually the mean square of the input channel. Ties go to the larger range.
    Raises ValueError when group_size does not divide the columns.
    """
    rows, columns = weight.shape
    size = columns if group_size in (-1, 0) else group_size
    if columns % size:
        raise ValueError(f"group size {size} does not divide {columns} columns")
    grouped = weight.reshape(rows, columns // size, size)
    low = grouped.amin(dim=-1).clamp(max=0)
    high = grouped.amax(dim=-1).clamp(min=0)
    if not mse:
        scale, zero = _grid_of_range(low, high, bits, symmetric, dtype)
        return Grid(scale, zero, bits, symmetric, size)
    grouped = grouped.reshape(-1, size).contiguous()
    weights_of_error = None if importance is None else importance.reshape(-1, size).float().contiguous()
    flat = _best_clip(grouped, low.reshape(-1), high.reshape(-1), bits, symmetric, weights_of_error, dtype)
    return Grid(flat[0].reshape(low.shape), flat[1].reshape(low.shape), bits, symmetric, size)


def _best_clip(
    grouped: Tensor,
    low: Tensor,
    high: Tensor,
    bits: int,
    symmetric: bool,
    importance: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Best of the shrunken ranges for each group: the C library's choice where no other range comes near it, else that
    of `_clip_search`.

    grouped: [groups, size]; low, high: [groups]; importance: [n, size], of group g row g % n.
    """
    groups, size = grouped.shape
    found = library() if grouped.device.type == "cpu" and size % STEP == 0 else None
    scale, zero = torch.empty_like(low), torch.empty_like(low)
    doubtful = torch.ones(groups, dtype=torch.bool, device=grouped.device)
    shares = torch.tensor(SHARES)
    period = 1 if importance is None else importance.shape[0]
    step = max(1, _SEARCHED // period) * period  # each part begins with the first row of importance
    for start in range(0, groups, step):
        if found is None:
            break
        part = slice(start, start + step)
        if symmetric:
            scales, zeros = _symmetric_scale(_amax(low[part], high[part])[:, None] * shares, bits, dtype), None
        else:
            scales, zeros = _grid_of_range(low[part, None] * shares, high[part, None] * shares, bits, False, dtype)
        grids = Grids(
            grouped[part].numpy(),
            scales.numpy(),
            code_format(bits).limits(symmetric),
            None if zeros is None else zeros.numpy(),
            None if importance is None else importance.numpy(),
        )
        best, sure = clip_search(found, grids, torch.get_num_threads())
        chosen = torch.from_numpy(best).long().unsqueeze(1)
        scale[part] = scales.gather(1, chosen).squeeze(1)
        zero[part] = 0 if zeros is None else zeros.gather(1, chosen).squeeze(1)
        doubtful[part] = torch.from_numpy(~sure)
    left = torch.nonzero(doubtful).squeeze(1)
    for index in left.split(max(1, _CHUNK // size)) if left.numel() else ():
        rows = None if importance is None else importance[index % period]
        scale[index], zero[index] = _clip_search(grouped[index], low[index], high[index], bits, symmetric, rows, dtype)
    return scale, zero


def _clip_search(
    grouped: Tensor,
    low: Tensor,
    high: Tensor,
    bits: int,
    symmetric: bool,
    importance: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The definition of the search. grouped, importance: [groups, size], low and high: [groups]."""
    smallest, largest = code_format(bits).limits(symmetric)
    best = torch.full_like(low, float("inf"))
    # The whole range where no error is finite: weights near float32's largest.
    best_scale, best_zero = _grid_of_range(low, high, bits, symmetric, dtype)
    at_once = _shares_at_once(grouped)
    rows = grouped.repeat_interleave(at_once, dim=0) if at_once > 1 else grouped
    buffer = torch.empty_like(rows)
    for shares in torch.tensor(SHARES, device=grouped.device).split(at_once):
        scale, zero = _grid_of_range(low[:, None] * shares, high[:, None] * shares, bits, symmetric, dtype)
        scale2, zero2 = scale.reshape(-1, 1), zero.reshape(-1, 1)
        if len(rows) != len(scale2):  # the last shares
            rows = grouped.repeat_interleave(len(shares), dim=0)
            buffer = torch.empty_like(rows)
        torch.div(rows, scale2, out=buffer)
        buffer.round_().add_(zero2).clamp_(smallest, largest).sub_(zero2).mul_(scale2).sub_(rows).abs_().pow_(NORM)
        if importance is not None:
            buffer.view(len(grouped), len(shares), -1).mul_(importance[:, None])
        error = buffer.sum(dim=-1).view(len(grouped), len(shares))
        error, first = torch.where(error.isnan(), float("inf"), error).min(dim=1, keepdim=True)
        better = error.squeeze(1) < best
        best = torch.where(better, error.squeeze(1), best)
        best_scale = torch.where(better, scale.gather(1, first).squeeze(1), best_scale)
        best_zero = torch.where(better, zero.gather(1, first).squeeze(1), best_zero)
    return best_scale, best_zero


def _shares_at_once(grouped: Tensor) -> int:
    """How many ranges of the groups [groups, size] are tried in one pass: as many as torch computes in one thread, so
    that a few groups do not take as long as many. Each element and each row's sum are computed as in a pass of one
    range, on every processor: rows are whole vectors, and a pass is not divided between threads within one.
    """
    size = grouped.shape[1]
    if grouped.device.type != "cpu" or size % STEP:
        return 1
    return min(len(SHARES), max(1, _SERIAL // grouped.numel()))


def quantize_weight(weight: Tensor, grid: Grid) -> Tensor:
    """Round to nearest (half to even): codes int8 [rows, columns] of float32 weight [rows, columns]."""
    rows, columns = weight.shape
    grouped = weight.reshape(rows, -1, grid.group_size)
    codes = torch.round(grouped / grid.scale.unsqueeze(-1)).add_(grid.zero.unsqueeze(-1)).clamp_(*grid.limits)
    return codes.reshape(rows, columns).to(torch.int8)


def dequantize_weight(codes: Tensor, grid: Grid) -> Tensor:
    """float32 [rows, columns] = (codes - zero) * scale."""
    rows, columns = codes.shape
    grouped = codes.reshape(rows, -1, grid.group_size).float()
    return (grouped - grid.zero.unsqueeze(-1)).mul_(grid.scale.unsqueeze(-1)).reshape(rows, columns)


def fake_quantize(x: Tensor, bits: int, symmetric: bool, group_size: int = -1, clip: float = 1.0) -> Tensor:
    """Activations as an integer kernel sees them (docs/arithmetic.md, "Activations"): code * scale, in float32.

    x: float32 [..., channels]; group_size: channels per scale, -1 for one scale per token; clip: share of the range
    that the codes cover. bits 4 or 8; 16 returns x itself.
    Raises ValueError for other widths, or when group_size does not divide the channels.
    """
    if bits == FLOAT.bits:
        return x
    if bits not in QUANTIZED or not (symmetric or QUANTIZED[bits].asymmetric):
        raise ValueError(f"activations of {bits} bits, {'symmetric' if symmetric else 'asymmetric'}, are not defined")
    channels = x.shape[-1]
    size = channels if group_size in (-1, 0) else group_size
    if channels % size:
        raise ValueError(f"activation group size {size} does not divide {channels} channels")
    rows = x.reshape(-1, size)
    out = torch.empty_like(rows)
    step = max(1, _CHUNK // size) if x.device.type == "cpu" else rows.shape[0]
    quantizer = _fake_symmetric if symmetric else _fake_asymmetric
    for start in range(0, rows.shape[0], step):
        quantizer(rows[start : start + step], out[start : start + step], bits, clip)
    return out.reshape(x.shape)


def _fake_symmetric(x: Tensor, out: Tensor, bits: int, clip: float) -> None:
    """Rows of x [n, size] to code * scale in out, with qmax = 127 or 7."""
    qmax = float((1 << (bits - 1)) - 1)
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    amax = torch.maximum(low.neg_(), high)
    if clip != 1.0:
        amax.mul_(clip)
    scale = amax / qmax
    inverse = torch.where(amax >= LEAST_RANGE, qmax / amax, 0.0)
    torch.mul(x, inverse, out=out)
    out.round_().clamp_(-qmax, qmax).mul_(scale)


def _fake_asymmetric(x: Tensor, out: Tensor, bits: int, clip: float) -> None:
    """Rows of x [n, size] to (q - zero) * scale in out, q in 0..2^bits-1."""
    qmax = float((1 << bits) - 1)
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    low.clamp_(max=0)
    high.clamp_(min=0)
    if clip != 1.0:
        low.mul_(clip)
        high.mul_(clip)
    span = high - low
    scale = span / qmax
    inverse = torch.where(span >= LEAST_RANGE, qmax / span, 0.0)
    zero = torch.round(-low * inverse)
    torch.mul(x, inverse, out=out)
    out.round_().add_(zero).clamp_(0, qmax).sub_(zero).mul_(scale)


def fake_quantize_kv(x: Tensor) -> Tensor:
    """8-bit KV cache: x float32 [..., head_dim] per token and head, symmetric (docs/arithmetic.md, "KV cache")."""
    return fake_quantize(x, 8, True, -1)


def fake_quantize_kv4(x: Tensor) -> Tensor:
    """4-bit KV cache: x float32 [..., head_dim] per token, head and group of `four_bit_group` channels, asymmetric."""
    return fake_quantize(x, 4, False, four_bit_group(x.shape[-1]))
