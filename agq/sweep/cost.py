"""What the entries of a sweep are expected to cost: an entry that is tuned takes a hundred times one that is rounded,
and the time left must know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agq.checkpoint import Checkpoint
from agq.quantization.rehearsal import operations_of, seconds, with_steps
from agq.quantization.tuning.effort import BATCH, budget
from agq.recipe import Recipe
from agq.recipe.resolve import adjust_recipe, effective_recipe
from agq.sweep.definition import ModelEntry, Row, Sweep, TextEntry
from agq.sweep.forecast import REST, SOLVE, TRANSFORM, TUNE
from agq.system.devices import device_name, kind_of

_BYTES = 4  # of a token of English text
_TOKENS = 300_000  # of a named data set's test split
_TUNED = 1.6  # tuning over its steps alone: the original's predictions, and judging now and then
_RUNS = 4  # of the speed test: one to warm up, three that count


def expected_seconds(sweep: Sweep, model: ModelEntry, row: Row, checkpoint: Checkpoint) -> dict[str, float]:
    """Seconds that the parts of an entry will take, a rough figure. checkpoint: of the model's folder."""
    parts, spec = checkpoint.parts, checkpoint.spec
    run = row.options.run
    device = kind_of(device_name(run.device))
    weights = sum(linear.in_features * linear.out_features for linear in parts.block_linears())
    work = 2.0 * _scored(sweep, model, row) * (weights + spec.vocab * spec.embed_dim)
    found = {REST: seconds(work, device)}
    if not row.options:
        return found
    recipe = _recipe(sweep, model, row)
    if recipe.tune.auto:
        time = budget(run.effort, run.time, device, recipe.calibration.samples)
        recipe = replace(recipe, tune=replace(recipe.tune, batch=BATCH[device]))
        recipe = with_steps(checkpoint, recipe, recipe.transforms.any, time, device)
    untuned = replace(recipe, tune=replace(recipe.tune, steps=0))
    solved = operations_of(checkpoint, untuned, False)
    operations = {
        TRANSFORM: operations_of(checkpoint, untuned, True) - solved if recipe.transforms.any else 0.0,
        SOLVE: solved,
        TUNE: _TUNED * (operations_of(checkpoint, recipe, False) - solved),
    }
    return found | {part: seconds(each, device) - seconds(0.0, device) for part, each in operations.items()}


def _recipe(sweep: Sweep, model: ModelEntry, row: Row) -> Recipe:
    changes = row.options.changes.but(preset=row.options.changes.preset or "auto")
    return effective_recipe(adjust_recipe(Recipe(), sweep.calibration.but(seq_len=model.seq_len)), changes)


def _scored(sweep: Sweep, model: ModelEntry, row: Row) -> float:
    """Tokens that an entry's forms compute."""
    tokens = sum(_tokens(text, model.seq_len) for text in sweep.texts)
    if not row.prune:
        # The packed file and the torch reference; the packed file and the unquantized one.
        tokens += 2 * sweep.reference_windows * model.seq_len * len(sweep.texts)
        tokens += 2 * sweep.divergence_windows * model.seq_len * bool(row.options)
        tokens += _RUNS * (sweep.prefill + sweep.decode) * model.speed
    return tokens


def _tokens(text: TextEntry, seq_len: int) -> float:
    path = Path(text.data)
    most = path.stat().st_size / _BYTES if path.is_file() else _TOKENS
    return most if text.windows is None else min(most, text.windows * seq_len)
