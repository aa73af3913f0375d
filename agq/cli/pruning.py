"""Token pruning on the command line: the same options for every command that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agq.cli.options import annotated
from agq.recipe.changes import RecipeChanges

if TYPE_CHECKING:
    from agq.recipe.pruning import PruningOptions

Prune = annotated("pruning")
Positions = annotated("prune_positions")
Scores = annotated("prune_scores")


def pruning_options(prune: str | None, positions: str | None, scores: str | None) -> PruningOptions | None:
    """What the options ask for; None: nothing. Raises AgqError, UsageError."""
    from agq.recipe.resolve import pruning_asked_for

    return pruning_asked_for(RecipeChanges(pruning=prune, prune_positions=positions, prune_scores=scores))
