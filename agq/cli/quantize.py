"""`agq quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agq.cli import pruning
from agq.errors import UsageError
from agq.recipe.methods import METHODS, methods_in_words

_CALIBRATION = "Calibration"
_METHOD = "Method"
_TRANSFORMS = "Transformations"
_RUN = "Output and run"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("quantize")(quantize)


def _option(*names: str, panel: str | None = None, env: str | None = None, help: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, envvar=env, show_default=False, help=help, **more)


def quantize(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", show_default=False, help="Recipe name (`llama-7b`), local folder or hub id."),
    ] = None,
    scheme: Annotated[
        str | None,
        _option("--scheme", help="W4A8 (default), W4A4, W8A8, W4A16, W8A16; W4A8_ASYM for asymmetric weights."),
    ] = None,
    weight_bits: Annotated[int | None, _option("--weight-bits", help="4 or 8, instead of --scheme.")] = None,
    act_bits: Annotated[int | None, _option("--act-bits", help="4, 8 or 16, instead of --scheme.")] = None,
    group_size: Annotated[
        int | None,
        _option(
            "--group-size",
            "-g",
            help="Columns per weight scale; -1: one per output channel. Default 128 for 4 bits, -1 for 8.",
        ),
    ] = None,
    asym: Annotated[
        bool | None, _option("--asym/--sym", help="Asymmetric or symmetric weights. Default symmetric.")
    ] = None,
    act_group: Annotated[
        int | None,
        _option("--act-group", help="Channels per activation scale; -1: per token. Default 128 for 4 bits, -1 for 8."),
    ] = None,
    act_asym: Annotated[
        bool | None,
        _option("--act-asym/--act-sym", help="Asymmetric or symmetric 4-bit activations. Default asymmetric."),
    ] = None,
    override: Annotated[
        list[str] | None,
        _option(
            "--override",
            env="AGQ_OVERRIDES",
            metavar="PATTERN=SCHEME",
            help="Another scheme for some linears: 're:.*down_proj=W4A8'. May be repeated.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        _option("--ignore", metavar="PATTERN", help="Linears that stay in floating point. May be repeated."),
    ] = None,
    preset: Annotated[
        str | None,
        _option(
            "--preset",
            env="AGQ_PRESET",
            metavar="NAME",
            help="A whole way of quantizing: w4a8, w4a4, w4a4-mixed, w4a16, w8a8, gptq, rtn, plain. Default: the one of "
            "the scheme.",
        ),
    ] = None,
    act_clip: Annotated[
        str | None,
        _option(
            "--act-clip",
            metavar="X|search",
            help="Share of the range that 4-bit activations cover; `search` chooses it for each input.",
        ),
    ] = None,
    sink_tokens: Annotated[
        int | None,
        _option(
            "--sink-tokens",
            min=0,
            metavar="N",
            help="First tokens of a sequence (attention sinks) that keep 8-bit activations where the others have 4: 0 (default) to 64.",
        ),
    ] = None,
    kv_bits: Annotated[int | None, _option("--kv-bits", help="KV cache at run time: 4, 8 (default) or 32.")] = None,
    head_bits: Annotated[
        int | None, _option("--head-bits", help="Output head at run time: 8 (default), 16 or 32.")
    ] = None,
    method: Annotated[
        str | None,
        _option(
            "--method",
            panel=_METHOD,
            env="AGQ_QUANTIZE_METHOD",
            metavar="|".join(METHODS),
            help=methods_in_words(),
        ),
    ] = None,
    mse: Annotated[
        bool | None, _option("--mse/--no-mse", panel=_METHOD, help="Search the clip of each weight scale.")
    ] = None,
    act_order: Annotated[
        bool | None,
        _option(
            "--act-order/--no-act-order",
            panel=_METHOD,
            help="GPTQ visits channels by falling energy; groups stay in place. Default on.",
        ),
    ] = None,
    true_sequential: Annotated[
        bool | None,
        _option(
            "--true-sequential/--no-true-sequential",
            panel=_METHOD,
            help="Each linear is calibrated on the quantized ones before it. Default on.",
        ),
    ] = None,
    quantized_activations: Annotated[
        bool | None,
        _option(
            "--quantized-activations/--no-quantized-activations",
            panel=_METHOD,
            help="Calibrate with the activation quantizers on. Default on.",
        ),
    ] = None,
    damp: Annotated[
        float | None,
        _option("--damp", panel=_METHOD, help="GPTQ: share of the mean diagonal added to the Hessian. Default 0.01."),
    ] = None,
    block_size: Annotated[
        int | None, _option("--block-size", panel=_METHOD, help="GPTQ: columns between two lazy updates. Default 128.")
    ] = None,
    transforms: Annotated[
        bool | None,
        _option(
            "--transforms/--no-transforms", panel=_TRANSFORMS, help="None at all. Default: as preset and recipe say."
        ),
    ] = None,
    rotate: Annotated[
        bool | None,
        _option("--rotate/--no-rotate", panel=_TRANSFORMS, help="Both rotations, --r1 and --r2, norms folded."),
    ] = None,
    r1: Annotated[
        bool | None,
        _option("--r1/--no-r1", panel=_TRANSFORMS, help="Rotate the residual stream. Costs nothing at run time."),
    ] = None,
    r2: Annotated[
        bool | None,
        _option("--r2/--no-r2", panel=_TRANSFORMS, help="Rotate the values of each head. Costs nothing at run time."),
    ] = None,
    rot_seed: Annotated[
        int | None, _option("--rot-seed", panel=_TRANSFORMS, min=0, help="Of the rotations. Default 0.")
    ] = None,
    rot_seeds: Annotated[
        int | None,
        _option("--rot-seeds", panel=_TRANSFORMS, min=1, help="Seeds to try; the best on calibration text is taken."),
    ] = None,
    scale: Annotated[
        bool | None,
        _option(
            "--scale/--no-scale",
            panel=_TRANSFORMS,
            help="Scale attention values and feed-forward channels by powers of two. Costs nothing at run time.",
        ),
    ] = None,
    scale_norms: Annotated[
        bool | None,
        _option(
            "--scale-norms/--no-scale-norms",
            panel=_TRANSFORMS,
            help="The same for what the norms put out, where the residual stream is not rotated.",
        ),
    ] = None,
    shift: Annotated[
        bool | None,
        _option(
            "--shift/--no-shift",
            panel=_TRANSFORMS,
            help="Take the mean from channels, through biases (OPT, BLOOM). Costs nothing at run time.",
        ),
    ] = None,
    rot_steps: Annotated[
        int | None,
        _option(
            "--rot-steps",
            panel=_TRANSFORMS,
            min=0,
            help="Steps of learning the rotations on calibration text; 0: none.",
        ),
    ] = None,
    finer: Annotated[
        bool | None,
        _option(
            "--finer/--no-finer",
            panel=_TRANSFORMS,
            help="4-bit inputs that lose too much in groups of 32, or with 8 bits.",
        ),
    ] = None,
    hadamard: Annotated[
        int | None,
        _option(
            "--hadamard",
            panel=_TRANSFORMS,
            min=0,
            metavar="N",
            help="Blocks of a transform of the feed-forward's hidden layer at run time, such as 128; 0: none.",
        ),
    ] = None,
    permute: Annotated[
        bool | None,
        _option(
            "--permute/--no-permute",
            panel=_TRANSFORMS,
            help="Deal the feed-forward's channels over the blocks of --hadamard by size; without it sort them.",
        ),
    ] = None,
    bake_embed_norm: Annotated[
        bool | None,
        _option(
            "--bake-embed-norm/--no-bake-embed-norm",
            panel=_TRANSFORMS,
            help="BLOOM: the embedding norm becomes part of the table, which --r1 needs. Only agq runs the result.",
        ),
    ] = None,
    prune: pruning.Prune = None,
    prune_positions: pruning.Positions = None,
    prune_scores: pruning.Scores = None,
    tune: Annotated[
        str | None,
        _option(
            "--tune",
            panel=_METHOD,
            metavar="STEPS|auto",
            help="Steps, each on one window of calibration text, that train scales and rounding towards the original model's "
            "predictions after the solver. Holds the whole model in memory. 0: none; `auto`, with most presets: up to 512, "
            "none for large models.",
        ),
    ] = None,
    alpha: Annotated[
        float | None, _option("--alpha", panel=_METHOD, help="GPTAQ: weight of its second term. Default 0.25.")
    ] = None,
    calibration: Annotated[
        Path | None,
        _option(
            "--calibration",
            panel=_CALIBRATION,
            metavar="FILE",
            help="Statistics file of `agq calibrate`: its windows are used.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        _option(
            "--data",
            panel=_CALIBRATION,
            env="AGQ_CALIBRATION_DATA",
            metavar="wikitext2|c4|FILE",
            help="Calibration text, or several, separated by commas. Default wikitext2.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        _option("--samples", panel=_CALIBRATION, env="AGQ_CALIBRATION_SAMPLES", min=1, help="Windows. Default 128."),
    ] = None,
    seq_len: Annotated[
        int | None,
        _option(
            "--seq-len",
            panel=_CALIBRATION,
            env="AGQ_CALIBRATION_SEQ_LEN",
            min=1,
            help="Tokens per window. Default 2048, at most the model's context.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        _option("--seed", panel=_CALIBRATION, env="AGQ_CALIBRATION_SEED", help="Of the choice of windows. Default 0."),
    ] = None,
    detached: Annotated[
        bool | None,
        _option(
            "--detached/--no-detached",
            panel=_CALIBRATION,
            env="AGQ_CALIBRATION_DETACHED",
            help="Every second window with detached punctuation, as WikiText has it. Default as the preset says.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        _option("--config", panel=_RUN, metavar="FILE", help="Recipe (YAML); options on the command line win."),
    ] = None,
    output: Annotated[
        Path | None,
        _option("--output", "-o", panel=_RUN, metavar="DIR", help="Default `<model>-<scheme>` in the current folder."),
    ] = None,
    ct_format: Annotated[
        str | None,
        _option(
            "--ct-format",
            panel=_RUN,
            metavar="pack|int",
            help="compressed-tensors form. Default pack; int for 8-bit and asymmetric weights.",
        ),
    ] = None,
    force: Annotated[
        bool, _option("--force", panel=_RUN, help="Replace a model folder that stands at the output path.")
    ] = False,
    resume: Annotated[
        bool,
        _option(
            "--resume/--no-resume", panel=_RUN, help="Continue an interrupted run of the same settings. Default on."
        ),
    ] = True,
    device: Annotated[
        str | None, _option("--device", panel=_RUN, metavar="cpu|cuda", help="Default cuda where there is one.")
    ] = None,
    threads: Annotated[
        int | None, _option("--threads", "-t", panel=_RUN, min=1, help="Default: the cores that this process may use.")
    ] = None,
    strict: Annotated[
        bool, _option("--strict", panel=_RUN, help="Exit code 1 when GPTQ had to fall back to rounding for a linear.")
    ] = False,
    dry_run: Annotated[
        bool, _option("--dry-run", panel=_RUN, help="Check, print what would be done, and stop.")
    ] = False,
    print_config: Annotated[
        bool, _option("--print-config", panel=_RUN, help="Print the effective recipe as YAML and stop.")
    ] = False,
    json_output: Annotated[
        bool, _option("--json", panel=_RUN, help="Print one object about the result on stdout.")
    ] = False,
) -> None:
    """Quantize a model's weights and write a compressed-tensors folder."""
    from dataclasses import replace

    from agq.recipe import load_recipe, resolve_model

    recipe = load_recipe(str(config)) if config is not None else None
    pruned = pruning.pruning_options(prune, prune_positions, prune_scores)
    model = model or (recipe.model if recipe is not None else None)
    if not model:
        raise UsageError(
            "no MODEL given",
            hint="`agq quantize llama-7b`, `agq quantize FOLDER`, or a recipe with `model:` by `--config`",
        )
    from agq.system.torch_threads import set_threads

    set_threads(threads)
    from agq.cli.quantize_output import run_plan, show_plan, show_report
    from agq.quantization.plan import plan as make_plan
    from agq.recipe.resolve import effective_recipe

    options = {
        "scheme": scheme,
        "weight_bits": weight_bits,
        "act_bits": act_bits,
        "group_size": group_size,
        "asym": asym,
        "act_group": act_group,
        "act_symmetric": None if act_asym is None else not act_asym,
        "method": method,
        "data": data,
        "samples": samples,
        "seq_len": seq_len,
        "seed": seed,
        "detached": detached,
        "overrides": override,
        "ignore": ignore,
        "mse": mse,
        "act_order": act_order,
        "true_sequential": true_sequential,
        "damping": damp,
        "block_size": block_size,
        "quantized_activations": quantized_activations,
        "kv_bits": kv_bits,
        "head_bits": head_bits,
        "preset": preset,
        "act_clip": act_clip,
        "sink_tokens": sink_tokens,
        "alpha": alpha,
        "tune": tune,
        "pruning": pruned,
        "transforms": transforms,
        "rotate": rotate,
        "r1": r1,
        "r2": r2,
        "rot_seed": rot_seed,
        "rot_seeds": rot_seeds,
        "scale": scale,
        "scale_norms": scale_norms,
        "shift": shift,
        "rot_steps": rot_steps,
        "finer": finer,
        "hadamard": hadamard,
        "permute": permute,
        "bake_embed_norm": bake_embed_norm,
    }
    if print_config:
        automatic = recipe is None and not model.endswith((".yaml", ".yml"))
        if recipe is None:
            _, recipe = resolve_model(model)
        effective = effective_recipe(recipe, automatic=automatic, **options)
        print(replace(effective, model=effective.model or model).to_yaml(), end="")
        return
    plan = make_plan(
        model,
        output,
        recipe=recipe,
        calibration=calibration,
        ct_format=ct_format,
        force=force or dry_run,
        device=device,
        check_space=not dry_run,
        **options,
    )
    if dry_run:
        show_plan(plan)
        return
    report = run_plan(plan, resume)
    show_report(plan, report, json_output)
    if strict and report.fallbacks:
        raise typer.Exit(1)
