"""Perplexities that tell what costs accuracy: of the original, of its quantized weights alone, of all that is
quantized."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agq.evaluation import Evaluation, evaluate_perplexity

# Called with (what is measured, windows done, windows in all).
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Losses:
    """Perplexities on the same windows. weights: with quantized weights and everything else in floats; original,
    weights: None where they cannot be measured."""

    whole: Evaluation
    original: Evaluation | None = None
    weights: Evaluation | None = None

    @property
    def ratio(self) -> float | None:
        """Perplexity over the original's."""
        return None if self.original is None else self.whole.ppl / self.original.ppl

    @property
    def share_of_weights(self) -> float | None:
        """Share of the logarithm of `ratio` that quantized weights cause alone. None where it says nothing: something
        was not measured, or the model is no worse than the original, or one part makes up for the other."""
        if self.original is None or self.weights is None:
            return None
        total = math.log(self.whole.ppl / self.original.ppl)
        part = math.log(self.weights.ppl / self.original.ppl)
        return part / total if total > 0 and 0 <= part <= total else None


def measure(
    model: Path,
    folder: bool,
    original: Path | None,
    data: str,
    seq_len: int,
    windows: int,
    threads: int | None,
    report: Report,
) -> Losses:
    """Perplexities of a quantized folder or a packed file. folder: of the first two, `model` is a folder, whose
    weights can be looked at alone. Arguments else as of evaluate_perplexity; AgqError as there."""

    def of(path: Path, what: str, fake_quant: bool = True) -> Evaluation:
        return evaluate_perplexity(
            path,
            data,
            seq_len,
            max_windows=windows,
            threads=threads,
            fake_quant=fake_quant,
            floats=True,
            report=lambda done, total, ppl: report(what, done, total),
        )

    whole = of(model, "perplexity")
    return Losses(
        whole,
        of(original, "perplexity of the original") if original is not None else None,
        of(model, "perplexity of the weights alone", fake_quant=False) if folder else None,
    )
