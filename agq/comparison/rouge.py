"""ROUGE (Lin 2004) by the package `rouge-score`, which is optional."""

from __future__ import annotations

from agq.errors import AgqError

MISSING = "ROUGE needs the package rouge-score"
INSTALL = "pip install rouge-score"


class Rouge:
    """F measures of ROUGE-1 and ROUGE-L, without stemming.

    Raises:
        AgqError: the package is not installed.
    """

    def __init__(self) -> None:
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError:
            raise AgqError(MISSING, hint=INSTALL) from None
        self._scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)

    def score(self, original: str, other: str) -> tuple[float, float]:
        """(ROUGE-1, ROUGE-L) of two texts, 0 to 1. Equal texts have 1, also where they hold no word that ROUGE
        knows: it reads letters a to z and digits only."""
        if original == other:
            return 1.0, 1.0
        found = self._scorer.score(original, other)
        return float(found["rouge1"].fmeasure), float(found["rougeL"].fmeasure)
