"""What `agq quantize` says: the plan before, progress, and the result."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from agq.cli.options import in_flags
from agq.reporting import console
from agq.reporting.progress_bar import progress

if TYPE_CHECKING:
    from agq.quantization.plan import Plan
    from agq.quantization.report import QuantizeReport


def show_plan(plan: Plan, seconds: float | None = None) -> None:
    """What would be done: schemes of the linears on stdout. seconds: that it takes; None: not known."""
    from agq.reporting.output import human_size, print_pairs, print_table
    from agq.system.devices import kind_of
    from agq.system.memory import available_memory

    chosen = set(plan.problem.modules) if plan.problem is not None else set()
    weights: dict[tuple[str, str], list[int]] = {}
    for linear in plan.checkpoint.parts.block_linears():
        scheme = plan.schemes.get(linear.module)
        words = scheme.describe() if scheme else "floating point, as in the source"
        key = (linear.role, "chosen by measuring" if linear.module in chosen else words)
        weights.setdefault(key, []).append(linear.out_features * linear.in_features)
    print_table(
        ("linears", "number", "weights", "scheme"),
        [(role, len(sizes), sum(sizes), text) for (role, text), sizes in weights.items()],
        right=(1, 2),
        least=("weights", "number"),
    )
    calibration = plan.recipe.calibration
    source = f"{calibration.data}, {calibration.samples} x {calibration.seq_len} tokens, seed {calibration.seed}"
    if calibration.detached:
        source += ", every second window with detached punctuation"
    memory = plan.needs.working + plan.needs.hidden
    print_pairs(
        {
            "model": plan.model,
            "method": plan.recipe.method,
            "formats": _formats_text(plan),
            "transformations": _transforms_text(plan),
            "tuning": _tuning_text(plan),
            "calibration": source if plan.recipe.calibrated else None,
            "output": plan.output,
            "format": plan.format,
            "device": kind_of(plan.device),
            "memory": f"about {human_size(memory)} (available: {human_size(available_memory())})",
            "disk": f"about {human_size(plan.needs.output)}",
            "time": f"roughly {console.clock(seconds)}, by the speed of one product" if seconds else None,
        }
    )
    for note in plan.notes:
        console.say(f"note: {in_flags(note)}")


def plan_object(plan: Plan, seconds: float) -> dict[str, Any]:
    """The plan as JSON."""
    from agq.system.devices import kind_of
    from agq.system.memory import available_memory

    return {
        "model": plan.model,
        "output": str(plan.output),
        "recipe": plan.recipe.to_dict(),
        "chosen_for": plan.problem.describe() if plan.problem is not None else None,
        "format": plan.format,
        "device": kind_of(plan.device),
        "memory_bytes": plan.needs.working + plan.needs.hidden,
        "memory_available_bytes": available_memory(),
        "disk_bytes": plan.needs.output,
        "seconds": round(seconds),
        "notes": [in_flags(note) for note in plan.notes],
    }


def _formats_text(plan: Plan) -> str | None:
    """What formats are chosen for; None: the schemes are those of the table."""
    if plan.problem is None:
        return None
    return f"{plan.problem.describe()}; {plan.problem.bounds()} are possible"


def _tuning_text(plan: Plan) -> str | None:
    """What tuning will do; None: nothing."""
    tune = plan.recipe.tune
    if not tune.active:
        return None
    way = ", block by block" if tune.blocks else ""
    if plan.budget is None or not tune.auto:
        return f"{tune.steps} steps{way}"
    return f"up to {plan.budget.most} steps, as many as end the run in about {console.clock(plan.budget.seconds)}{way}"


def _transforms_text(plan: Plan) -> str | None:
    """The transformations that will be done, by their options' names; None: none."""
    from agq.quantization.transforms.plan import shifted_places

    options, allowed = plan.recipe.transforms, plan.transforms
    steps = [
        name
        for name, done in (
            ("scale", options.scale),
            ("scale-norms", options.scale_norms and "scale_norms" not in allowed.skipped and allowed.r1 is None),
            ("shift", options.shift and bool(shifted_places(plan.checkpoint.spec))),
            ("r1", allowed.r1 is not None),
            ("r2", allowed.r2 is not None),
            (
                f"rotations learned in {options.learn} steps",
                options.learn > 0 and (allowed.r1 is not None or allowed.r2 is not None),
            ),
            ("permute", options.permute),
            (f"hadamard {allowed.hadamard}", allowed.hadamard > 0),
            ("bake-embed-norm", allowed.bake_embed_norm),
            ("finer", options.finer),
        )
        if done
    ]
    if not steps and allowed.fold:
        steps = ["fold"]
    return ", ".join(steps) or None


def run_plan(plan: Plan, resume: bool, threads: int | None) -> QuantizeReport:
    """Runs a plan with its progress on stderr."""
    from agq.quantization.execute import execute
    from agq.quantization.report import LayerReport
    from agq.reporting.progress import Progress

    console.say(f"quantizing `{plan.model}` with {plan.recipe.method.upper()}: {plan.recipe.scheme.describe()}")
    for note in plan.notes:
        console.say(f"note: {in_flags(note)}")
    if (formats := _formats_text(plan)) is not None:
        console.say(f"formats: {formats}")
    if (tuning := _tuning_text(plan)) is not None and plan.budget is not None:
        console.say(f"tuning: {tuning}; other times by {in_flags('`effort:`')} or {in_flags('`time:`')}")
    with progress("read", unit="blocks") as bar:

        class Shown(Progress):
            def stage(self, name: str, steps: int | None, unit: str = "steps") -> None:
                bar.begin(name, steps, unit)

            def advance(self, text: str) -> None:
                bar.advance(note=text)
                if text:
                    console.detail(text)

            def step(self, text: str) -> None:
                bar.update(note=text)
                console.detail(text)

            def start(self, blocks: int) -> None:
                bar.begin("quantize", blocks, "blocks")

            def layer(self, index: int, report: LayerReport) -> None:
                loss = "" if report.relative != report.relative else f" relative error {report.relative:.5f}"
                bar.update(note=f"{report.module}{loss}")
                console.detail(f"{report.module}: {report.scheme} by {report.method}{loss}")

            def block(self, index: int, seconds: float, resumed: bool) -> None:
                if resumed:  # took no time: of no use for the pace
                    bar.begin("quantize", (bar.total or 1) - 1, "blocks")
                    bar.update(note=f"block {index} taken over")
                else:
                    bar.advance(note=f"block {index} {console.clock(seconds)}")

            def note(self, text: str) -> None:
                console.warning(in_flags(text))

            def decided(self, lines: list[str]) -> None:
                for line in lines:
                    console.say(line)

        try:
            return execute(plan, resume, Shown(), threads)
        except KeyboardInterrupt:
            console.say(f"finished blocks are kept in `{plan.work}`: the same command continues there")
            raise


def show_report(plan: Plan, report: QuantizeReport, json_output: bool) -> None:
    """What was made, on stderr; json_output: all of it as JSON on stdout."""
    from agq.models.folding import fold_roles
    from agq.reporting.output import human_size, print_json

    if report.resumed:
        console.say(f"{report.resumed} of {plan.checkpoint.spec.layers} blocks came from the interrupted run")
    if report.fallbacks:
        console.warning(
            f"{report.fallbacks} of {len(report.layers)} linears were rounded to nearest: "
            f"{plan.recipe.method.upper()} could not factorize their inputs"
        )
    for format in sorted(set(report.transforms.formats.values())):
        names = [name.split(".") for name, found in report.transforms.formats.items() if found == format]
        inputs = fold_roles((place, int(block)) for block, place in names)
        console.say(f"4-bit inputs in {format} instead: {inputs}")
    if tuned := report.tuned:
        values = ("not finite" if value is None else f"{value:.4f}" for value in (tuned["before"], tuned["after"]))
        change = f"divergence from the original's predictions {' -> '.join(values)}"
        console.say(
            f"tuned in {tuned['stopped'] or tuned['steps']} steps{' a block' if tuned['blocks'] else ''}: {change}"
            + ("; ended there, held-out text got worse" if tuned["stopped"] else "")
            + ("" if tuned["kept"] else ", so the solver's weights are kept")
        )
    size = human_size(report.total_bytes)
    if (bits := report.activation_bits) is not None and bits.coarse:
        console.say(f"activation bits: {bits.describe()}")
    console.say(f"{plan.recipe.scheme.name}: {report.bits_per_weight:.3f} bits per weight, {size} in `{report.path}`")
    console.say(f"next: agq pack {shlex.quote(str(report.path))}")
    if json_output:
        print_json(
            {
                "output": str(report.path),
                "scheme": plan.recipe.scheme.name,
                "method": plan.recipe.method,
                "bits_per_weight": report.bits_per_weight,
                "activation_bits": bits.mean if bits is not None else None,
                "bytes": report.total_bytes,
                "format": plan.format,
                "fallbacks": report.fallbacks,
                "resumed_blocks": report.resumed,
                "transforms": None if report.transforms.empty else report.transforms.to_dict(),
                "model_sha256": plan.checkpoint.fingerprint(),
                "tune": report.tuned,
                "allocation": report.allocation,
                "layers": report.layers,
            }
        )
