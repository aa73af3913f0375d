"""`agq.quantize`: from a model folder to a quantized one. Plans first (every check, no work), then walks and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agq import __version__
from agq.calibration.file import StatisticsFile, check_model, open_statistics
from agq.calibration.windows import calibration_windows, fit_seq_len
from agq.checkpoint import Checkpoint, open_checkpoint
from agq.checkpoint.compressed_tensors import PACKED
from agq.errors import AgqError, UsageError
from agq.files import check_absent_or_empty, ensure_free_space
from agq.hub import find_model
from agq.quantization.checks import Needs, available_memory, check_memory, check_schemes, estimate
from agq.quantization.encode import TORCH_DTYPES, decode, encode
from agq.quantization.options import adjust_recipe
from agq.quantization.state import WorkFolder
from agq.quantization.walk import LayerReport, Progress, QuantizedLinear, walk
from agq.quantization.writer import Written, choose_format, module_schemes, write_folder
from agq.recipe import Override, Recipe, Scheme
from agq.reference.decoder import Parameters


@dataclass(frozen=True)
class Plan:
    """A run that passed every check. output: the folder to write; work: where finished blocks wait meanwhile; fitted:
    the windows' length was cut to the model's context."""

    model: str
    checkpoint: Checkpoint
    recipe: Recipe
    schemes: dict[str, Scheme]
    format: str
    statistics: StatisticsFile | None
    output: Path
    needs: Needs
    device: torch.device
    force: bool
    fitted: bool

    @property
    def work(self) -> Path:
        return self.output.parent / f".{self.output.name}.agq-work"

    @property
    def notes(self) -> list[str]:
        """What the user should know of the result, in plain sentences."""
        notes = []
        schemes = set(self.schemes.values())
        asymmetric = any(scheme.weights.bits == 4 and not scheme.weights.symmetric for scheme in schemes)
        if asymmetric and self.format != PACKED:
            notes.append(
                "asymmetric weights are stored as one byte a code, the form that transformers loads; "
                "`--ct-format pack` packs them"
            )
        elif asymmetric:
            notes.append(
                "asymmetric weights: transformers loads this folder only with "
                "`quantization_config=CompressedTensorsConfig(dequantize=True)`"
            )
        if (
            any(scheme.weights.bits == 4 and scheme.activations.bits == 8 for scheme in schemes)
            and self.format == PACKED
        ):
            notes.append("W4A8 packed: vLLM on Arm CPUs wants `--ct-format int` (one byte a weight)")
        if any(scheme.activations.bits == 4 and scheme.activations.group_size > 0 for scheme in schemes):
            notes.append("4-bit activations in groups: transformers computes them, vLLM has no kernel for them")
        if self.fitted:
            notes.append(f"calibration windows are {self.recipe.calibration.seq_len} tokens long, the model's context")
        return notes


@dataclass(frozen=True)
class QuantizeReport:
    """path: the folder written. bits_per_weight: of the quantized linears, scales included. total_bytes: of the weight
    files. layers: one report a linear, in the order of computation. fallbacks: linears that GPTQ could not do and RTN
    did. resumed: blocks taken from an interrupted run."""

    path: Path
    bits_per_weight: float
    total_bytes: int
    layers: list[dict[str, Any]]
    fallbacks: int
    resumed: int


def default_output(model: str, recipe: Recipe) -> Path:
    """`<model>-W4A8` in the current folder."""
    return Path(f"{Path(model).name.partition('@')[0]}-{recipe.scheme.name}")


def plan(
    model: str,
    output: str | Path | None = None,
    *,
    recipe: Recipe | None = None,
    calibration: str | Path | None = None,
    ct_format: str | None = None,
    force: bool = False,
    device: str | None = None,
    check_space: bool = True,
    **options: Any,
) -> Plan:
    """Checks everything that can be checked before any work; see `quantize` for the arguments.

    Raises AgqError or UsageError.
    """
    folder, named = find_model(str(model))
    given = {key for key, value in options.items() if value is not None}
    recipe = adjust_recipe(recipe or named or Recipe(), **options)
    texts = given & {"data", "samples", "seq_len", "seed"}
    if calibration is not None and texts:
        raise UsageError(
            f"`--calibration` brings its own windows; `--{sorted(texts)[0].replace('_', '-')}` does not go with it"
        )
    if recipe.method == "rtn":
        if texts:
            raise UsageError(
                "`--method rtn` reads no calibration text",
                hint="leave the options about data away, or use `--method gptq`",
            )
        if calibration is not None and not recipe.gptq.mse:
            raise UsageError("`--method rtn` uses calibration statistics only for the clip search", hint="add `--mse`")
    checkpoint = open_checkpoint(folder)
    if checkpoint.quantization is not None:
        raise AgqError(f"`{folder}` is quantized already", hint="start from the unquantized model")
    check_schemes(checkpoint.parts, recipe)
    schemes = module_schemes(checkpoint.parts, recipe)
    if not schemes:
        raise AgqError(
            "the recipe leaves every linear of the decoder blocks in floating point",
            hint="check `ignore` and overrides",
        )
    _check_overrides(checkpoint, recipe)
    format = choose_format(schemes, ct_format)
    statistics = None
    fitted = False
    if calibration is not None:
        statistics = open_statistics(calibration)
        check_model(statistics, checkpoint.fingerprint(), model)
        samples, seq_len = statistics.tokens.shape
        spec = replace(
            recipe.calibration,
            data=str(statistics.calibration["source"]),
            samples=samples,
            seq_len=seq_len,
            seed=int(statistics.calibration["seed"]),
        )
        recipe = replace(recipe, calibration=spec)
    elif recipe.method == "gptq":
        spec = fit_seq_len(recipe.calibration, checkpoint, explicit="seq_len" in given)
        fitted = spec.seq_len != recipe.calibration.seq_len
        recipe = replace(recipe, calibration=spec)
    target = Path(output) if output is not None else default_output(str(model), recipe)
    if not force:
        check_absent_or_empty(target)
    elif target.exists() and not (target / "config.json").exists() and any(target.iterdir()):
        raise AgqError(f"`{target}` is not a model folder: it is not replaced", hint="choose another output path")
    if target.resolve() == Path(folder).resolve():
        raise AgqError("output and model are the same folder")
    if not target.parent.is_dir():
        raise AgqError(f"`{target.parent}` is not a folder", hint="create it first")
    windows = (recipe.calibration.samples, recipe.calibration.seq_len) if recipe.method == "gptq" else None
    needs = estimate(checkpoint.parts, schemes, recipe.method, windows, checkpoint.weight_bytes())
    if check_space:
        check_memory(needs, available_memory())
        ensure_free_space(target, needs.output)
    place = torch.device(device) if device is not None else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = Path(model).name if Path(model).exists() else str(model)
    recipe = replace(recipe, model=name)
    return Plan(str(model), checkpoint, recipe, schemes, format, statistics, target, needs, place, force, fitted)


def _check_overrides(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """An override that matches nothing is a mistyped one."""
    modules = [linear.module for linear in checkpoint.parts.block_linears()]
    for override in recipe.overrides:
        if not any(override.matches(module) for module in modules):
            raise AgqError(
                f"override `{override.pattern}` matches no linear of the decoder blocks",
                hint=f"names look like `{modules[0]}`",
            )


class _FileTensors:
    """Allocates the hidden states: on the device if they take less than a quarter of its free memory, else in memory,
    or in files of the work folder where memory is short."""

    def __init__(self, folder: Path, in_memory: bool, device: torch.device) -> None:
        self.folder = folder
        self.in_memory = in_memory
        self.device = device
        self.count = 0

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        if self.device.type == "cuda" and 4 * int(np.prod(shape)) < torch.cuda.mem_get_info(self.device)[0] // 4:
            return torch.empty(shape, device=self.device)
        if self.in_memory:
            return torch.empty(shape)
        self.count += 1
        path = self.folder / f"hidden-{self.count}.tmp"
        ensure_free_space(path, 4 * int(np.prod(shape)))
        return torch.from_numpy(np.memmap(path, dtype=np.float32, mode="w+", shape=shape))

    def remove(self) -> None:
        for path in self.folder.glob("hidden-*.tmp"):
            path.unlink(missing_ok=True)


def execute(plan: Plan, resume: bool = True, progress: Progress | None = None) -> QuantizeReport:
    """Runs a plan. An interrupted run is continued unless `resume` is False.

    Raises AgqError, among others when an interrupted run of other settings left its work folder.
    """
    progress = progress or Progress()
    checkpoint, recipe = plan.checkpoint, plan.recipe
    windows, record = None, None
    if recipe.method == "gptq":
        tokens, record = calibration_tokens(plan)
        windows = torch.from_numpy(tokens)
    elif plan.statistics is not None:
        record = dict(plan.statistics.calibration)
    keyed = recipe.to_dict()
    del keyed["model"]
    key = {
        "agq": __version__,
        "model": checkpoint.fingerprint(),
        "recipe": keyed,
        "format": plan.format,
        "device": plan.device.type,
        "calibration": record,
    }
    work = WorkFolder.open(plan.work, key, resume)
    resumed = len(work.finished())
    parameters = Parameters(checkpoint, device=plan.device)

    def stored_dtype(module: str) -> str:
        return checkpoint.dtype(f"{module}.weight")

    def load(index: int) -> dict[str, Tensor] | None:
        if index not in work.finished():
            return None
        tensors, _ = work.read(index)
        linears = checkpoint.parts.block(index).linears
        return {
            role: decode(linear.module, tensors, plan.schemes[linear.module], linear.in_features)
            for role, linear in linears.items()
            if linear.module in plan.schemes
        }

    def save(index: int, linears: dict[str, QuantizedLinear], reports: list[LayerReport]) -> None:
        names = checkpoint.parts.block(index).linears
        tensors = {}
        for role, linear in linears.items():
            module = names[role].module
            tensors.update(encode(module, linear, plan.format, stored_dtype(module)))
        work.write(index, tensors, [report.to_dict() for report in reports])

    make = _FileTensors(work.path, check_memory(plan.needs, available_memory()), plan.device)
    try:
        walk(
            parameters,
            recipe,
            windows,
            lambda module: TORCH_DTYPES[stored_dtype(module)],
            load,
            save,
            progress,
            _importance(plan),
            make,
        )
    finally:
        make.remove()
    layers = [report for index in work.finished() for report in work.read(index)[1]]
    fallbacks = sum(bool(report["fallback"]) for report in layers)
    document = {
        "version": __version__,
        "model_fingerprint": checkpoint.fingerprint(),
        "recipe": recipe.to_dict(),
        "scheme": recipe.scheme.to_dict(),
        "calibration": record,
        "report": {"layers": layers, "fallbacks": fallbacks},
    }
    written: Written = write_folder(
        plan.output, checkpoint, recipe, plan.schemes, plan.format, work, document, plan.force
    )
    open_checkpoint(written.path)  # the reader's checks: names, shapes, config
    work.remove()
    return QuantizeReport(written.path, written.bits_per_weight, written.total_bytes, layers, fallbacks, resumed)


def calibration_tokens(plan: Plan) -> tuple[np.ndarray, dict[str, Any]]:
    """Token windows int64 [windows, n] of a plan, and what agq.json says of them."""
    spec = plan.recipe.calibration
    if plan.statistics is not None:
        return plan.statistics.tokens, dict(plan.statistics.calibration)
    return calibration_windows(spec, plan.checkpoint, plan.recipe.scheme)


def _importance(plan: Plan) -> dict[str, Tensor] | None:
    """Mean squares of the input channels of every linear, from the statistics file."""
    if plan.statistics is None:
        return None
    result = {}
    for block in plan.checkpoint.parts.blocks():
        for roles in block.groups:
            values = torch.from_numpy(plan.statistics.second_moment(block.linears[roles[0]].module)).to(plan.device)
            result.update({block.linears[role].module: values for role in roles})
    return result


def quantize(
    model: str | Path,
    output: str | Path | None = None,
    *,
    recipe: Recipe | None = None,
    scheme: str | None = None,
    method: str | None = None,
    calibration: str | Path | None = None,
    overrides: Sequence[str | Override] | None = None,
    ct_format: str | None = None,
    force: bool = False,
    resume: bool = True,
    device: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> QuantizeReport:
    """Quantizes a model and writes a compressed-tensors folder.

    Args:
        model: a recipe's name ("llama-7b"), a local folder or a hub id.
        output: the folder to write, by default `<model>-<scheme>` in the current one.
        recipe: what to start from; by default the recipe that `model` names, else the defaults (W4A8, GPTQ).
        scheme: "W4A8", "W4A4", "W8A8", "W4A16", ... method: "gptq" or "rtn". overrides: "PATTERN=SCHEME".
        calibration: statistics file of `calibrate`, whose windows GPTQ uses (and whose mean squares weigh RTN's clip
        search). ct_format: "pack" or "int"; by default packed, int for 8-bit weights.
        force: replace a model folder that stands at `output`. resume: continue an interrupted run of the same settings.
        device: "cpu", "cuda"; by default CUDA where there is one.
        options: see agq.quantization.options.adjust_recipe.

    Raises:
        AgqError: bad input; UsageError: options that contradict each other.
    """
    return execute(
        plan(
            str(model),
            output,
            recipe=recipe,
            calibration=calibration,
            ct_format=ct_format,
            force=force,
            device=device,
            scheme=scheme,
            method=method,
            overrides=overrides,
            **options,
        ),
        resume,
        progress,
    )
