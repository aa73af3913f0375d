"""The weight solvers that a recipe's `method` may name, as data: one row a solver.

The row says what a solver needs, so that a plan can be checked and its memory estimated without torch. The code of
method NAME is `agq/quantization/solvers/NAME.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """What a weight solver needs.

    Attributes:
        words: what it is, as part of a sentence that lists all of them.
        calibrated: it reads the layers' inputs on calibration text, as a Hessian (the mean of x x^T).
        float_model: the unquantized model's inputs are computed beside the quantized model's.
        working_bytes: columns of the widest linear -> bytes that solving it takes, the Hessian itself apart.
        options: those of a recipe's section `gptq` that change its result.
    """

    words: str
    calibrated: bool = True
    float_model: bool = False
    working_bytes: Callable[[int], int] = lambda columns: 0
    options: tuple[str, ...] = ()


# GPTQ's float64 work: the damped Hessian, its Cholesky factor, the inverse, and that one's factor.
_FACTORS = 4 * 8

_GPTQ = ("damping", "block_size", "act_order", "mse", "true_sequential", "quantized_activations")

METHODS: dict[str, Method] = {
    "gptq": Method(
        "GPTQ (default)",
        working_bytes=lambda columns: _FACTORS * columns**2,
        options=_GPTQ,
    ),
    "gptaq": Method(
        "GPTAQ, which corrects the drift of earlier layers too",
        float_model=True,
        # The float32 mean of (x~ - x) x^T, and the correction that is made of it.
        working_bytes=lambda columns: (_FACTORS + 2 * 4) * columns**2,
        options=(*_GPTQ, "alpha"),
    ),
    "rtn": Method("round to nearest, which needs no calibration", calibrated=False, options=("mse",)),
}
# The method that needs nothing: it rounds what another one finds unsolvable.
FALLBACK = "rtn"


def methods_in_words() -> str:
    """The methods as one sentence, for help texts."""
    *first, last = (row.words for row in METHODS.values())
    return f"{', '.join(first)}, or {last}."
