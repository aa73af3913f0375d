"""Statistics of the inputs of every linear, gathered in one pass over the unquantized model, and the file that holds
them.

The file is safetensors. For every group of linears that read the same input (`q_proj`, `k_proj`, `v_proj` read one),
named by its first module M:

    M.minimum, M.maximum, M.absmax       float32 [channels]
    M.second_moment                      float32 [channels], mean of x^2
    M.percentiles                        float32 [len(PERCENTILES), channels], percentiles of |x|
    M.token_absmax                       float32 [len(TOKEN_QUANTILES)], quantiles over tokens of max_channel |x|

and for every block `attention_to_first.<i>`, float32 [heads]: attention probability of the first token, mean over
queries. `tokens` int32 [windows, n] are the calibration windows themselves. The metadata holds the format, the version,
the calibration recipe, the model's fingerprint and the SHA-256 of the data.

Percentiles come from a histogram of |x| with 16 bins per octave, so they are exact to 3.2 % of their value (half a
bin); below 2^-20 they are 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agq.calibration.file import FORMAT, PERCENTILES, TOKEN_QUANTILES
from agq.checkpoint import Checkpoint
from agq.errors import AgqError
from agq.files import atomic_writer
from agq.reference.attention import Positions, Scoring, attention_to_first
from agq.reference.decoder import Embedding, Parameters
from agq.reference.stream import HiddenStates
from agq.reporting.progress import Progress
from agq.safetensors.shards import Entry, write_file

# Histogram of |x|: float32 exponent and the first 4 bits of the mantissa, from 2^-20 to 2^20.
_SHIFT = 23 - 4
_FIRST_BIN = (127 - 20) << 4
_BINS = (40 << 4) + 1


class InputStatistics:
    """Running statistics of one input, over tokens. channels: its width."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self.minimum = torch.full((channels,), float("inf"), device=device)
        self.maximum = torch.full((channels,), float("-inf"), device=device)
        self.square_sum = torch.zeros(channels, dtype=torch.float64, device=device)
        self.histogram = torch.zeros(channels, _BINS, dtype=torch.int64, device=device)
        self.token_absmax: list[Tensor] = []
        self.tokens = 0

    def add(self, x: Tensor) -> None:
        """x: float32 [..., channels]."""
        x = x.reshape(-1, x.shape[-1])
        low, high = torch.aminmax(x, dim=0)
        self.minimum = torch.minimum(self.minimum, low)
        self.maximum = torch.maximum(self.maximum, high)
        self.square_sum += x.square().sum(dim=0, dtype=torch.float64)
        magnitude = x.abs()
        self.token_absmax.append(magnitude.amax(dim=1))
        # The bits of a positive float grow with its value: their upper part is the bin. Bin 0 holds everything below
        # 2^-20.
        bins = ((magnitude.view(torch.int32) >> _SHIFT) - (_FIRST_BIN - 1)).clamp_(0, _BINS - 1)
        channels = x.shape[1]
        bins += torch.arange(channels, dtype=torch.int32, device=x.device) * _BINS
        counts = torch.bincount(bins.reshape(-1), minlength=channels * _BINS)
        self.histogram += counts.reshape(channels, _BINS)
        self.tokens += x.shape[0]

    def percentiles(self) -> Tensor:
        """Percentiles of |x|, float32 [len(PERCENTILES), channels]: the middle of the bin that holds them, never above
        the largest value seen."""
        cumulative = self.histogram.cumsum(dim=1)
        edges = torch.arange(_FIRST_BIN - 1, _FIRST_BIN + _BINS, dtype=torch.int32, device=cumulative.device) << _SHIFT
        edges = edges.view(torch.float32)
        middles = (edges[:-1] + edges[1:]) / 2
        middles[0] = 0.0
        rows = []
        for percentile in PERCENTILES:
            wanted = max(1.0, percentile / 100.0 * self.tokens)
            bins = (cumulative < wanted).sum(dim=1).clamp_(max=_BINS - 1)
            rows.append(torch.minimum(middles[bins], self.absmax()))
        return torch.stack(rows)

    def absmax(self) -> Tensor:
        return torch.maximum(-self.minimum, self.maximum).clamp(min=0)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The statistics under their names in the file."""
        quantiles = torch.quantile(
            torch.cat(self.token_absmax).cpu().double().sort().values[_thin(self.tokens)],
            torch.tensor(TOKEN_QUANTILES, dtype=torch.float64),
        )
        values = {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "absmax": self.absmax(),
            "second_moment": (self.square_sum / max(self.tokens, 1)).float(),
            "percentiles": self.percentiles(),
            "token_absmax": quantiles.float(),
        }
        return {f"{name}.{key}": value.float().cpu() for key, value in values.items()}


def _thin(count: int, most: int = 1 << 22) -> Tensor:
    """Evenly spaced indices into `count` sorted values, first and last included, no more than torch.quantile
    accepts."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()


def gather(
    parameters: Parameters,
    windows: Tensor,
    progress: Progress,
    make: Callable[[tuple[int, ...]], Tensor] = lambda shape: torch.empty(shape),
) -> dict[str, Tensor]:
    """Statistics of all blocks of an unquantized model on token windows int64 [windows, n], by name in the file. Raises
    AgqError where activations are not finite."""
    spec, parts = parameters.spec, parameters.checkpoint.parts
    result: dict[str, Tensor] = {}
    progress.start(spec.layers)
    with torch.inference_mode():
        hidden = HiddenStates(windows, Embedding(parameters), parameters.device, make)
        positions = Positions.of(spec, windows.shape[1], parameters.device)
        for index in range(spec.layers):
            block_parts, block = parts.block(index), parameters.block(index)
            collected = {
                roles[0]: InputStatistics(block.linears[roles[0]].weight.shape[1], parameters.device)
                for roles in block_parts.groups
            }
            first = torch.zeros(spec.heads, dtype=torch.float64)

            scoring = block.scoring(positions)

            def observe(q: Tensor, k: Tensor, first: Tensor = first, scoring: Scoring = scoring) -> None:
                first.add_(attention_to_first(q, k, scoring))

            block.observe = observe
            for part in hidden.parts():
                h = hidden.get(part)
                inputs, h = block.inputs(h, positions)
                for role, x in inputs.items():
                    collected[role].add(x)
                hidden.set(part, h)
            for role, statistics in collected.items():
                module = block_parts.linears[role].module
                if not torch.isfinite(statistics.square_sum).all():
                    raise AgqError(
                        f"the inputs of `{module}` are not finite on the calibration text",
                        hint="the model is damaged, or its activations are too large for float32",
                    )
                result.update(statistics.tensors(module))
            result[f"attention_to_first.{index}"] = (first / windows.numel()).float()
            progress.block(index, 0.0, False)
    return result


@dataclass(frozen=True)
class CalibrationResult:
    """path: the file written; windows, tokens: how much text; attention: mean attention to the first token by block."""

    path: Path
    windows: int
    tokens: int
    attention: list[float]


def _entry(name: str, array: np.ndarray) -> Entry:
    return Entry(name, "I32" if name == "tokens" else "F32", array.shape, lambda: array)


def save(
    path: Path, checkpoint: Checkpoint, statistics: dict[str, Tensor], tokens: np.ndarray, record: dict[str, object]
) -> None:
    """Writes the statistics file. record: JSON about the calibration recipe and data (metadata)."""
    arrays = {name: value.numpy() for name, value in statistics.items()}
    arrays["tokens"] = tokens.astype(np.int32)
    entries = [_entry(name, array) for name, array in sorted(arrays.items())]
    metadata = {
        "format": FORMAT,
        "model_fingerprint": checkpoint.fingerprint(),
        **{
            key: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for key, value in record.items()
        },
    }
    with atomic_writer(path) as file:
        write_file(file, entries, metadata)
