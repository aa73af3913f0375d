"""Choosing the next token from logits.

Order, as in transformers: repetition penalty, temperature, top-k, top-p, min-p, then one draw. Temperature 0 takes
the likeliest token (after the penalty) and ignores the other settings; of equal ones the lowest id.
"""

import os
from collections.abc import Sequence

import numpy as np

from agq.errors import UsageError


def repetition_penalty(logits: np.ndarray, seen: np.ndarray, penalty: float) -> np.ndarray:
    """Logits [vocab] with those of `seen` token ids divided by `penalty` where positive, multiplied where negative
    (CTRL, Keskar et al. 2019; transformers and llama.cpp alike)."""
    logits = logits.copy()
    values = logits[seen]
    logits[seen] = np.where(values < 0, values * penalty, values / penalty)
    return logits


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64, of logits [n]; -inf gives 0. Largest logit subtracted first, so nothing overflows."""
    values: np.ndarray = logits.astype(np.float64)
    values = np.exp(values - values.max())
    values /= values.sum()
    return values


def top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Ids of the `k` largest logits (and of those equal to the k-th, as transformers keeps them), ascending."""
    if k <= 0 or k >= logits.size:
        return np.arange(logits.size)
    smallest = np.partition(logits, logits.size - k)[logits.size - k]
    return np.flatnonzero(logits >= smallest)


def top_p(probabilities: np.ndarray, p: float) -> np.ndarray:
    """Mask of the smallest set of likeliest tokens whose probabilities reach `p` (Holtzman et al. 2020); never
    empty.
    """
    if p >= 1:
        return np.ones(probabilities.shape, bool)
    order = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = before < p
    kept[0] = True
    mask = np.zeros(probabilities.shape, bool)
    mask[order[kept]] = True
    return mask


def min_p(probabilities: np.ndarray, p: float) -> np.ndarray:
    """Mask of the tokens that are at least `p` times as likely as the likeliest (Nguyen et al. 2024); never empty."""
    kept: np.ndarray = probabilities >= p * probabilities.max()
    return kept


class Sampler:
    """Settings and the state of the random generator.

    Args:
        temperature: 0 for greedy. top_k: 0 off. top_p: 1 off. min_p: 0 off. repetition_penalty: 1 off.
        seed: None draws one, to be read in `.seed`.

    Raises:
        UsageError: a value out of range.
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
    ):
        for name, value, low, high in (
            ("temperature", temperature, 0, 1e3),
            ("top-k", top_k, 0, 1 << 31),
            ("top-p", top_p, 0, 1),
            ("min-p", min_p, 0, 1),
            ("repetition penalty", repetition_penalty, 1e-3, 1e3),
            ("seed", 0 if seed is None else seed, 0, (1 << 64) - 1),
        ):
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}, not between {low:g} and {high:g}")
        self.temperature, self.top_k, self.top_p, self.min_p = temperature, top_k, top_p, min_p
        self.repetition_penalty = repetition_penalty
        self.seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
        self._random = np.random.Generator(np.random.PCG64(self.seed)) if temperature > 0 else None

    def with_seed(self, seed: int) -> "Sampler":
        """The same settings with another seed, at the beginning of its random numbers."""
        return Sampler(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty, seed)

    @property
    def greedy(self) -> bool:
        """No randomness."""
        return self._random is None

    def distribution(self, logits: np.ndarray, seen: np.ndarray | Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """(ids, probabilities float64) that a draw chooses from; `seen`: ids of the text so far, for the penalty.

        Args:
            logits: float32 [vocab].
        """
        if self.repetition_penalty != 1 and len(seen):
            logits = repetition_penalty(logits, np.unique(np.asarray(seen, np.int64)), self.repetition_penalty)
        if self._random is None:
            return np.array([int(logits.argmax())]), np.ones(1)
        # The largest is made 0 first: divided by a tiny temperature the others become -inf, never NaN.
        scaled = (logits.astype(np.float64) - float(logits.max())) / self.temperature
        ids = top_k(scaled, self.top_k)
        probabilities = softmax(scaled[ids])
        if self.top_p < 1:
            kept = top_p(probabilities, self.top_p)
            ids, probabilities = ids[kept], probabilities[kept] / probabilities[kept].sum()
        if self.min_p > 0:
            kept = min_p(probabilities, self.min_p)
            ids, probabilities = ids[kept], probabilities[kept] / probabilities[kept].sum()
        return ids, probabilities

    def __call__(self, logits: np.ndarray, seen: np.ndarray | Sequence[int] = ()) -> int:
        """The next token's id."""
        ids, probabilities = self.distribution(logits, seen)
        if self._random is None or ids.size == 1:
            return int(ids[0])
        point = self._random.random()
        index = int(np.searchsorted(np.cumsum(probabilities), point, side="right"))
        return int(ids[min(index, ids.size - 1)])
