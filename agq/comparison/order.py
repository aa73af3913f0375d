"""The order of schemes that is known from larger models, and whether it holds among the models compared.

Kurtic et al. 2024, "Give Me BF16 or Give Me Death?" (arXiv 2411.02355): W8A8 loses next to nothing, W4A16 is close
behind. W4A4, which that paper leaves out, is further behind (QuaRot, Ashkboos et al. 2024; SpinQuant, Liu et al. 2024).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Scheme -> what is expected of it, the best first.
EXPECTED = {"W8A8": "near lossless", "W4A16": "close", "W4A4": "behind"}


@dataclass(frozen=True)
class Order:
    """Schemes of EXPECTED among the models, the best first, by KL divergence.

    Attributes:
        schemes, kl: of each model whose scheme is known, in the expected order; nats.
        holds: every model of a scheme is closer to the original than every one of the schemes after it.
    """

    schemes: Sequence[str]
    kl: Sequence[float]
    holds: bool

    def sentence(self) -> str:
        """For people."""
        wanted = ", ".join(f"{name} {words}" for name, words in EXPECTED.items())
        found = ", ".join(f"{name} {kl:.2g}" for name, kl in zip(self.schemes, self.kl, strict=True))
        verdict = "holds" if self.holds else "does not hold"
        return f"The order known from the literature ({wanted}) {verdict} here: KL divergence {found}."


def find_order(models: Sequence[tuple[str, float]]) -> Order | None:
    """The order of models (scheme, KL divergence in nats); None where fewer than two schemes of EXPECTED are there.

    A model counts by the scheme that most of its linears have.
    """
    places = list(EXPECTED)
    known = sorted((places.index(name), kl) for text, kl in models if (name := main_scheme(text)) in EXPECTED)
    if len({place for place, _ in known}) < 2:
        return None
    pairs = [(one, two) for one in known for two in known if one[0] < two[0]]
    holds = all(one[1] < two[1] for one, two in pairs)
    return Order([places[place] for place, _ in known], [kl for _, kl in known], holds)


def main_scheme(text: str) -> str:
    """Bits of the scheme that stands first: "W4A8" of "W4A8_ASYM (30), W8A8 (6)", "BF16" of "BF16 (3), F32 (1)"."""
    found = re.match(r"W\d+A\d+", text)
    return found[0] if found else text.partition(" ")[0]
