"""The plan of a quantization run: every check, and no work. `agq/quantization/execute.py` carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agq.calibration.file import StatisticsFile, check_model, open_statistics
from agq.checkpoint import Checkpoint
from agq.checkpoint.compressed_tensors import PACKED
from agq.errors import AgqError, UsageError
from agq.files import check_absent_or_empty, ensure_free_space
from agq.formats.activations import WIDE
from agq.formats.weights import BYTE_CODES
from agq.gguf.files import model_name
from agq.gguf.opening import open_source
from agq.hub import check_push, find_model
from agq.models import ModelParts
from agq.quantization.checks import (
    PROCESS_BYTES,
    Needs,
    block_tuning_bytes,
    check_memory,
    check_schemes,
    estimate,
    fit_groups,
    tuning_bytes,
    tuning_states,
)
from agq.quantization.peers import unserved
from agq.quantization.transforms.plan import TransformPlan, feasible
from agq.quantization.tuning.effort import BATCH, LEAST, Budget, budget
from agq.quantization.tuning.text import training_length
from agq.quantization.writer import choose_format, module_schemes, online_steps
from agq.recipe import CalibrationSpec, Recipe, Scheme, WeightScheme, no_sinks
from agq.recipe.changes import EFFORT_NAMES, RecipeChanges, RunOptions
from agq.recipe.declaration import section
from agq.recipe.effects import without_effect
from agq.recipe.methods import FALLBACK
from agq.recipe.resolve import effective_recipe, fit_hadamard
from agq.system.devices import PROCESSOR, device_name, free_bytes, kind_of
from agq.system.memory import available_memory
from agq.text.calibration import fit_text, has_random_tokens, mixture_of, settled

if TYPE_CHECKING:
    from agq.quantization.allocation.problem import Problem


@dataclass(frozen=True)
class Plan:
    """A run that passed every check. transforms: which transformations the model allows, before anything is measured;
    output: the folder to write; work: where finished blocks wait meanwhile; fitted: the windows' length was cut to the
    model's context; groups: what was fitted where the user names no group size; strict: see `refuse_taken_back`; idle:
    options that were given and have no effect, with the reason; budget: the run's time where the steps of tuning depend
    on it; left_out: tuning, for want of memory; push: the hub model that the folder becomes."""

    model: str
    checkpoint: Checkpoint
    recipe: Recipe
    schemes: dict[str, Scheme]
    transforms: TransformPlan
    format: str
    statistics: StatisticsFile | None
    output: Path
    needs: Needs
    device: str
    force: bool
    fitted: bool
    groups: str | None = None
    strict: bool = False
    idle: Mapping[str, str] = field(default_factory=dict)
    budget: Budget | None = None
    left_out: bool = False
    push: str | None = None
    problem: Problem | None = None

    @property
    def work(self) -> Path:
        return self.output.parent / f".{self.output.name}.agq-work"

    @property
    def unserved(self) -> list[str]:
        """Why vLLM does not serve the result, in sentences; none where it does."""
        return unserved(self.checkpoint.spec, set(self.schemes.values()), self.format)

    @property
    def notes(self) -> list[str]:
        """What the user should know of the result, in plain sentences."""
        notes = [self.groups] if self.groups else []
        notes += [f"`{name}:` has no effect: {why}" for name, why in self.idle.items()]
        if rounded := self.checkpoint.rounded:
            notes.append(
                f"the weights of `{self.checkpoint.path.name}` are quantized already ({rounded}): both errors add up, "
                "and the unquantized model gives a better result"
            )
        schemes = set(self.schemes.values())
        narrow = [scheme for scheme in schemes if scheme.weights.format.bits < BYTE_CODES.bits]
        asymmetric = any(not scheme.weights.symmetric for scheme in narrow)
        if asymmetric and self.format != PACKED:
            notes.append(
                "asymmetric weights are stored as one byte a code, the form that transformers loads; "
                "`ct_format: pack` packs them"
            )
        elif asymmetric:
            notes.append(
                "asymmetric weights: transformers loads this folder only with "
                "`quantization_config=CompressedTensorsConfig(dequantize=True)`"
            )
        if any(scheme.activations.format == WIDE for scheme in narrow) and self.format == PACKED:
            notes.append("W4A8 packed: vLLM on Arm CPUs wants `ct_format: int` (one byte a weight)")
        if any(scheme.weights.floats for scheme in schemes):
            notes.append(
                "weights of FP8: a processor without FP8 computes with their values in floats, and floats as inputs"
            )
        notes += self.unserved
        for step, reason in self.transforms.skipped.items():
            notes.append(f"transformation `{step}` is left out: {reason}")
        if online := online_steps(self.transforms):
            notes.append(f"computed at run time, by agq only: {'; '.join(online.values())}")
        if self.recipe.sink_tokens:
            notes.append(
                f"sink tokens: the first {self.recipe.sink_tokens} of a sequence have 8-bit activations; "
                "other software computes them with 4 bits"
            )
        if self.recipe.agile.active:
            notes.append(
                "static activations, calibrated after the weights: other software quantizes them per token instead"
            )
        if self.recipe.tune.blocks:
            notes.append("tuned block by block, not whole: that takes less memory")
        if self.left_out:
            notes.append("no tuning: there is too little memory for it, even block by block")
        if self.fitted:
            notes.append(f"calibration windows are {self.recipe.calibration.seq_len} tokens long, the model's context")
        if self.recipe.calibrated and self.statistics is None:
            if kinds := mixture_of(self.recipe.calibration, self.checkpoint):
                notes.append(f"calibration text is a mixture: {kinds}")
            coarse = narrow or any(scheme.activations.coarse for scheme in schemes)
            if has_random_tokens(self.recipe.calibration) and coarse:
                notes.append(
                    "random tokens are no text: 4 bits calibrated on them lose more than on text (arXiv 2411.02355)"
                )
        return notes


def default_output(model: str, recipe: Recipe) -> Path:
    """`<model>-W4A8` in the current folder."""
    return Path(f"{model_name(model, Path(model))}-{recipe.scheme.name}")


def plan(
    model: str,
    output: str | Path | None = None,
    changes: RecipeChanges | None = None,
    run: RunOptions | None = None,
    *,
    recipe: Recipe | None = None,
    force: bool = False,
    check_space: bool = True,
) -> Plan:
    """Checks everything that can be checked before any work.

    Args:
        model: a recipe's name, a local folder or a hub id. output: the folder to write, by default `<model>-<scheme>`.
        changes: of the recipe. run: how it is done. recipe: what to start from; None: the one that `model` names, else
            the defaults.
        force: a model folder may stand at `output`. check_space: memory and disk must be enough.

    Raises AgqError; UsageError: changes that are wrong or contradict each other.
    """
    changes, run = changes or RecipeChanges(), run or RunOptions()
    if run.push is not None:
        check_push(run.push)
        if not Path(model).exists() and run.push == str(model).partition("@")[0]:
            raise UsageError(
                f"`{run.push}` is the model itself: its files would be replaced", hint="push to another name"
            )
    folder, named = find_model(str(model))
    # A recipe file of the user's is done as it is; agq's own name a model, and the best way of quantizing it is the
    # preset's.
    automatic = recipe is None and not str(model).endswith((".yaml", ".yml"))
    chosen = automatic or changes.preset is not None
    recipe = effective_recipe(recipe or named, changes, automatic)
    _check_calibration_options(recipe, changes, run.calibration)
    checkpoint = open_source(folder, floats=True)
    if checkpoint.quantization is not None:
        raise AgqError(f"`{folder}` is quantized already", hint="start from the unquantized model")
    checkpoint.check_finite()
    recipe.pruning.check(checkpoint.spec.layers)
    said = recipe.scheme.weights
    recipe, groups = fit_groups(checkpoint.parts, recipe)
    check_schemes(checkpoint.parts, recipe)
    schemes = _module_schemes(checkpoint, recipe)
    if changes.hadamard is None and chosen:
        recipe = fit_hadamard(recipe, checkpoint.spec.ffn)
    transforms = feasible(checkpoint, recipe.transforms)
    if changes.shift is None and chosen:
        # Presets ask for shifts because they serve all families; that a LLaMA has none is no news to its user.
        transforms = replace(
            transforms, skipped={step: why for step, why in transforms.skipped.items() if step != "shift"}
        )
    problem = _problem(checkpoint, recipe, transforms, said)
    format = choose_format(schemes, run.ct_format)
    calibration, statistics = _calibration(model, checkpoint, recipe, changes, run.calibration)
    fitted = statistics is None and calibration.seq_len != recipe.calibration.seq_len
    recipe = replace(recipe, calibration=calibration)
    # Where weights are only rounded a graphics card is no faster than reading them.
    only = rounds_only(recipe, schemes, transforms, statistics)
    device = PROCESSOR if only and run.device is None else device_name(run.device)
    if changes.tune is not None and recipe.tune.steps:
        recipe = replace(recipe, tune=replace(recipe.tune, batch=BATCH[kind_of(device)]))
    recipe, found = _budget(recipe, run, device)
    target = Path(output) if output is not None else default_output(str(model), recipe)
    _check_target(target, Path(folder), force)
    recipe, needs = _needs(checkpoint, recipe, schemes, not transforms.empty, device, found)
    if problem is not None:
        needs = _with_measuring(needs, checkpoint.parts)
    left_out = found is not None and not recipe.tune.active
    if check_space:
        check_memory(needs, available_memory())
        ensure_free_space(target, needs.output)
    return Plan(
        model=str(model),
        checkpoint=checkpoint,
        recipe=replace(recipe, model=Path(model).name if Path(model).exists() else str(model)),
        schemes=schemes,
        transforms=transforms,
        format=format,
        statistics=statistics,
        output=target,
        needs=needs,
        device=device,
        force=force,
        fitted=fitted,
        groups=groups,
        strict=bool(run.strict),
        idle=without_effect(recipe, changes, checkpoint.spec, transforms.r1 is not None),
        budget=None if left_out else found,
        left_out=left_out,
        push=run.push,
        problem=problem,
    )


def _problem(checkpoint: Checkpoint, recipe: Recipe, transforms: TransformPlan, said: WeightScheme) -> Problem | None:
    """The choice of formats for a recipe's target; None without one. said: see Problem."""
    if not recipe.target.active:
        return None
    from agq.quantization.allocation.problem import Problem

    return Problem.of(checkpoint, recipe, transforms, said)


def _with_measuring(needs: Needs, parts: ModelParts) -> Needs:
    """The needs of a run that measures what formats lose, before anything else but the transformations. Its output may
    have 8 bits throughout."""
    from agq.quantization.allocation.problem import state_bytes, working_bytes

    weights = sum(linear.in_features * linear.out_features for linear in parts.block_linears())
    return Needs(
        max(needs.working, PROCESS_BYTES + working_bytes(parts)),
        max(needs.hidden, state_bytes(parts)),
        needs.output + weights,
    )


def _budget(recipe: Recipe, run: RunOptions, device: str) -> tuple[Recipe, Budget | None]:
    """The recipe with the batch of its tuning, and the run's time where the number of steps depends on it. UsageError:
    a time that changes nothing."""
    if not recipe.tune.auto:
        if given := [f"`{name}:`" for name in ("effort", "time") if getattr(run, name) not in (None, EFFORT_NAMES[0])]:
            raise UsageError(
                f"{given[0]} says how long tuning takes, but there is none, or its steps are given",
                hint="leave it out",
            )
        return recipe, None
    found = budget(run.effort, run.time, kind_of(device), recipe.calibration.samples)
    if found.most < LEAST:
        return replace(recipe, tune=replace(recipe.tune, steps=0, auto=False)), None
    batch = recipe.tune.batch if recipe.tune.batch > 1 else BATCH[kind_of(device)]
    return replace(recipe, tune=replace(recipe.tune, batch=batch)), found


def rounds_only(
    recipe: Recipe, schemes: Mapping[str, Scheme], transforms: TransformPlan, statistics: StatisticsFile | None
) -> bool:
    """Whether a run rounds weights to integers and does nothing else: no text, no statistics, no products."""
    integers = all(scheme.weights.format.integer for scheme in schemes.values())
    nothing_else = not recipe.calibrated and transforms.empty and statistics is None
    return integers and nothing_else and recipe.method == FALLBACK


def _check_calibration_options(recipe: Recipe, changes: RecipeChanges, statistics: str | Path | None) -> None:
    """Options about calibration text that contradict a statistics file, or a method that reads none (UsageError)."""
    given = changes.given()
    texts = sorted(option.name for option in section(changes.options(), "calibration") if option.name in given)
    if statistics is not None and texts:
        raise UsageError(f"`calibration:` brings its own windows; `{texts[0]}:` does not go with it")
    if recipe.calibrated:
        return
    if texts:
        raise UsageError(
            "`method: rtn` reads no calibration text",
            hint="leave the options about data away, or use `method: gptq`",
        )
    if statistics is not None and not recipe.gptq.mse:
        raise UsageError("`method: rtn` uses calibration statistics only for the clip search", hint="add `mse: true`")


def _module_schemes(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, Scheme]:
    """Module name -> scheme of every linear that is quantized. AgqError: there is none, sink tokens change nothing, an
    override matches nothing."""
    schemes = module_schemes(checkpoint.parts, recipe)
    if not schemes:
        raise AgqError(
            "the recipe leaves every linear of the decoder blocks in floating point",
            hint="check `ignore` and overrides",
        )
    if recipe.sink_tokens and not any(scheme.activations.coarse for scheme in schemes.values()):
        raise no_sinks(recipe.sink_tokens)
    _check_overrides(checkpoint, recipe)
    return schemes


def _calibration(
    model: str, checkpoint: Checkpoint, recipe: Recipe, changes: RecipeChanges, path: str | Path | None
) -> tuple[CalibrationSpec, StatisticsFile | None]:
    """The windows of the run, cut to the model's context, and the statistics file at `path`, which brings its own."""
    if path is None:
        if not recipe.calibrated:
            return settled(recipe.calibration), None
        return fit_text(recipe.calibration, checkpoint, changes.given()), None
    statistics = open_statistics(path)
    check_model(statistics, checkpoint.fingerprint(), model)
    samples, seq_len = statistics.tokens.shape
    spec = replace(
        recipe.calibration,
        data=str(statistics.calibration["source"]),
        samples=samples,
        seq_len=seq_len,
        seed=int(statistics.calibration["seed"]),
        detached=bool(statistics.calibration.get("detached")),
    )
    return spec, statistics


def _check_target(target: Path, folder: Path, force: bool) -> None:
    """AgqError unless the run may write `target`. folder: the model's."""
    if not force:
        check_absent_or_empty(target)
    elif target.exists() and not (target / "config.json").exists() and any(target.iterdir()):
        raise AgqError(f"`{target}` is not a model folder: it is not replaced", hint="choose another output path")
    if target.resolve() == folder.resolve():
        raise AgqError("output and model are the same folder")
    if not target.parent.is_dir():
        raise AgqError(f"`{target.parent}` is not a folder", hint="create it first")


def _needs(
    checkpoint: Checkpoint,
    recipe: Recipe,
    schemes: dict[str, Scheme],
    transformed: bool,
    device: str,
    found: Budget | None,
) -> tuple[Recipe, Needs]:
    """Bytes that the run takes, tuning included. The recipe tunes block by block where the whole model does not fit
    into the device's memory, and not at all where a block does not and its steps are not given."""
    windows = (recipe.calibration.samples, recipe.calibration.seq_len) if recipe.calibrated else None
    needs = estimate(checkpoint.parts, schemes, recipe.method, windows, checkpoint.weight_bytes(), transformed)
    if not recipe.tune.active:
        return recipe, needs
    parts, length = checkpoint.parts, training_length(checkpoint.spec, recipe.calibration.seq_len)
    tune = replace(recipe.tune, steps=found.most) if found is not None else recipe.tune
    taken = PROCESS_BYTES + tuning_bytes(parts, tune, length)
    if tune.blocks or taken > _free(device):
        tune, recipe = replace(tune, blocks=True), replace(recipe, tune=replace(recipe.tune, blocks=True))
        taken = PROCESS_BYTES + block_tuning_bytes(parts, tune, length)
        if found is not None and taken > _free(device):
            return replace(recipe, tune=replace(recipe.tune, steps=0, auto=False, blocks=False)), needs
    # What the solver took is free again.
    working = max(needs.working, taken if kind_of(device) == PROCESSOR else 0)
    return recipe, replace(
        needs, working=working, hidden=max(needs.hidden, tuning_states(parts, tune, recipe.calibration))
    )


def _free(device: str) -> int:
    return available_memory() if kind_of(device) == PROCESSOR else free_bytes(device)


def _check_overrides(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """An override that matches nothing is a mistyped one."""
    modules = [linear.module for linear in checkpoint.parts.block_linears()]
    for override in recipe.overrides:
        if not any(override.matches(module) for module in modules):
            raise AgqError(
                f"override `{override.pattern}` matches no linear of the decoder blocks",
                hint=f"names look like `{modules[0]}`",
            )
