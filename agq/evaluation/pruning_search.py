"""Which layers should prune (the search of `agq calibrate`). On calibration text only; imports torch.

Candidates are all layers from a start to the last but one: pruning in the last layer saves nothing when text is
generated. For a sparsity (share of (token, layer) pairs that is not computed) pruning can start early and remove
little, or start late and remove much. For each of some starting layers the share beta that reaches the sparsity is
computed, and the loss of all tokens measured (`agq.evaluation.pruned`: removed tokens leave early, so that nothing is
gained by leaving hard tokens out).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agq.errors import AgqError, UsageError
from agq.evaluation.perplexity import Mean
from agq.evaluation.pruned import window_nll
from agq.evaluation.reference_scorer import ReferenceScorer
from agq.evaluation.scorers import default_rows
from agq.files import atomic_write_text
from agq.gguf.files import model_name
from agq.hub import find_model
from agq.recipe import Recipe
from agq.recipe.changes import RecipeChanges
from agq.recipe.pruning import PruningOptions
from agq.recipe.resolve import adjust_recipe
from agq.text.calibration import calibration_windows, fit_text

WINDOWS = 8  # of calibration text, where nobody says how many
_STARTS = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the depth


@dataclass(frozen=True)
class Candidate:
    """One choice of layers for one sparsity.

    Attributes:
        wanted: the sparsity asked for; sparsity: what whole tokens make of it.
        increase: nats per token that the loss of all tokens is above the unpruned model's; stderr: its standard error,
            from the paired differences.
        best: the least increase of its sparsity.
    """

    wanted: float
    options: PruningOptions
    sparsity: float
    increase: float
    stderr: float
    best: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**vars(self), "options": self.options.to_dict()}


@dataclass(frozen=True)
class SearchResult:
    """candidates: in the order of sparsities and layers; choice: the best for the first sparsity; path: the YAML
    written."""

    candidates: list[Candidate]
    choice: PruningOptions
    path: Path
    windows: int
    seq_len: int


def starting_layers(layers: int) -> list[int]:
    """First pruning layers that are tried, counted from 1."""
    return sorted({max(1, min(max(2, round(layers * share) + 1), layers - 1)) for share in _STARTS})


def candidates_for(
    sparsities: Sequence[float], tokens: int, layers: int, positions: str = "safe", scores: str = "fp"
) -> list[tuple[float, PruningOptions]]:
    """(sparsity asked for, options) of every start that reaches it. Raises AgqError where none does."""
    found = []
    last = max(layers - 1, 1)
    for sparsity in sparsities:
        if not 0 < sparsity < 1:
            raise UsageError(f"a sparsity of {sparsity:g} is not between 0 and 1")
        reached = [
            options
            for start in starting_layers(layers)
            if (
                options := PruningOptions(_range(start, last), 0, positions, scores).with_sparsity(
                    sparsity, tokens, layers
                )
            )
        ]
        if not reached:
            raise AgqError(f"no choice of layers reaches a sparsity of {sparsity:g}", hint="use a smaller one")
        found += [(sparsity, options) for options in reached]
    return found


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def search(
    scorer: ReferenceScorer,
    windows: np.ndarray,
    choices: Sequence[tuple[float, PruningOptions]],
    report: Callable[[int, int], None] | None = None,
) -> list[Candidate]:
    """Measures the choices on token windows int64 [windows, n]. report: called with (evaluations done, in all)."""
    rows, n = default_rows(scorer.vocab), windows.shape[1]
    differences = [Mean() for _ in choices]
    for index, tokens in enumerate(windows):
        plain = window_nll(scorer.logits(tokens, 0, n - 1, rows), tokens[1:])
        for number, (_, options) in enumerate(choices):
            _, logits = scorer.pruned_logits(tokens, 0, n - 1, rows, options)
            differences[number].add(window_nll(logits, tokens[1:]) - plain)
            if report is not None:
                report(index * len(choices) + number + 1, len(windows) * len(choices))
    least: dict[float, float] = {}
    for (wanted, _), mean in zip(choices, differences, strict=True):
        least[wanted] = min(least.get(wanted, np.inf), mean.mean)
    return [
        Candidate(
            wanted, options, options.sparsity(n, scorer.layers), mean.mean, mean.stderr, best=mean.mean == least[wanted]
        )
        for (wanted, options), mean in zip(choices, differences, strict=True)
    ]


def search_pruning(
    model: str | Path,
    output: str | Path | None = None,
    *,
    sparsities: Sequence[float] = (0.1,),
    positions: str = "safe",
    scores: str = "fp",
    changes: RecipeChanges | None = None,
    recipe: Recipe | None = None,
    force: bool = True,
    report: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Searches layers and ratio on calibration text and writes them as a recipe (YAML) that holds nothing else.

    Args:
        model: a recipe's name, a folder (quantized or not), a GGUF file or a hub id. output: by default
            `<model>-pruning.yaml`.
        sparsities: shares of (token, layer) pairs to be left out; the best choice for the first is written.
        changes: of the recipe's calibration section; by default 8 windows.
        force: replace an existing file. report: see `search`.

    Raises:
        AgqError: model or text unreadable, a sparsity that cannot be reached.
    """
    folder, named = find_model(str(model))
    changes = changes or RecipeChanges()
    recipe = adjust_recipe(recipe or named or Recipe(), changes.but(samples=changes.samples or WINDOWS))
    path = Path(output) if output is not None else Path(f"{model_name(str(model), folder)}-pruning.yaml")
    if path.is_dir():
        raise AgqError(f"`{path}` is a folder", hint="name a file, such as pruning.yaml")
    if path.exists() and not force:
        raise AgqError(f"`{path}` exists already", hint="choose another path, or pass `force: true`")
    if not path.parent.is_dir():
        raise AgqError(f"`{path.parent}` is not a folder", hint="create it first")
    scorer = ReferenceScorer(folder, device="cpu")
    try:
        checkpoint = scorer.checkpoint
        spec = fit_text(recipe.calibration, checkpoint, changes.given())
        choices = candidates_for(sparsities, spec.seq_len, checkpoint.spec.layers, positions, scores)
        tokens, record = calibration_windows(spec, checkpoint)
        candidates = search(scorer, tokens, choices, report)
    finally:
        scorer.close()
    choice = next(item for item in candidates if item.best and item.wanted == sparsities[0])
    atomic_write_text(path, _document(choice, record))
    return SearchResult(candidates, choice.options, path, *tokens.shape)


def _document(choice: Candidate, record: dict[str, Any]) -> str:
    import yaml

    head = (
        f"# agq calibrate, search of pruning: sparsity {choice.sparsity:.4f}, loss of all tokens "
        f"{choice.increase:+.4f} +- {choice.stderr:.4f} nats\n"
        f"# on {record['source']}, tokens {record['tokens_sha256']}\n"
    )
    return head + yaml.safe_dump({"pruning": choice.options.to_dict()}, sort_keys=False)
