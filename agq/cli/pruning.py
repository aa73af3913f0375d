"""Token pruning on the command line: the same options for every command that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agq.errors import UsageError

if TYPE_CHECKING:
    from agq.recipe.pruning import PruningOptions

_PANEL = "Token pruning"
Prune = Annotated[
    str | None,
    typer.Option(
        "--prune",
        metavar="LAYERS:BETA",
        rich_help_panel=_PANEL,
        show_default=False,
        help="Remove the share BETA of the prompt's tokens in these layers (counted from 1) together: `13-32:0.2`.",
    ),
]
Positions = Annotated[
    str | None,
    typer.Option(
        "--prune-positions",
        metavar="safe|paper",
        rich_help_panel=_PANEL,
        show_default=False,
        help="What is left keeps its positions (safe, default), or is numbered anew in each layer.",
    ),
]
Scores = Annotated[
    str | None,
    typer.Option(
        "--prune-scores",
        metavar="fp|code-compat",
        rich_help_panel=_PANEL,
        show_default=False,
        help="Importance from the softmax as computed (fp, default), or after the 4-bit log2 quantizer.",
    ),
]


def pruning_options(prune: str | None, positions: str | None, scores: str | None) -> PruningOptions | None:
    """What the options ask for; None: no `--prune`. Raises AgqError, UsageError."""
    from agq.recipe.pruning import PruningOptions

    if prune is None:
        if positions is not None or scores is not None:
            raise UsageError(f"{'--prune-positions' if positions else '--prune-scores'} needs --prune")
        return None
    given = {"positions": positions, "scores": scores}
    return PruningOptions.parse(prune, **{name: value for name, value in given.items() if value is not None})
