"""What `compare_commits.py` runs: small models, and a case for each way of quantizing and packing."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

PROMPT = "The history of the steam engine begins with"
CALIBRATION = ("--data", "inputs/text/calibration.txt", "--samples", "4", "--seq-len", "64")
HELDOUT = ("--data", "inputs/text/heldout.txt", "--seq-len", "64", "--max-windows", "2")


@dataclass(frozen=True)
class Step:
    """One `agq` command, run on both sides in a working folder of their own.

    Attributes:
        what: the row's name. arguments: after `agq`. output: a file or folder that it writes, compared byte by byte.
        level: instruction-set level (AGQ_ISA); empty: the one that agq chooses. environment: further variables.
        words: the output is text for people, compared only on demand. code: the exit code that it must have.
    """

    what: str
    arguments: tuple[str, ...]
    output: str = ""
    level: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    words: bool = False
    code: int = 0


@dataclass(frozen=True)
class Case:
    """A model and a way through quantize and pack.

    Attributes:
        model: folder in `inputs`. quantize: arguments; None packs the model as it is. calibrated: text is read.
        pack, run: further arguments of those commands. quick: belongs to the subset of `--quick`.
    """

    name: str
    model: str
    quantize: tuple[str, ...] | None
    calibrated: bool = True
    pack: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    quick: bool = False

    def steps(self, levels: list[str], looks: bool = True) -> list[Step]:
        """The commands in their order.

        levels: instruction-set levels on which the packed file is run. looks: with info and verify.
        """
        folder, packed = f"inputs/{self.model}", f"{self.name}.agq.safetensors"
        steps = []
        if self.quantize is not None:
            text = CALIBRATION if self.calibrated else ()
            options = (*text, *self.quantize, "--threads", "1")
            quantize = ("quantize", folder, *options, "-o", self.name)
            steps.append(Step("plan (words)", (*quantize, "--dry-run"), words=True))
            steps.append(Step("quantized folder", (*quantize, "--json"), self.name))
            steps += _looks("folder", self.name) if looks else []
            steps.append(Step("perplexity of the folder", ("eval-ppl", self.name, *HELDOUT, "-t", "1", "--json")))
            folder = self.name
        steps.append(Step("packed file", ("pack", folder, *self.pack, "-o", packed, "--json"), packed))
        steps += _looks("packed file", packed) if looks else []
        for level in levels:
            more = {"level": level, "environment": self.environment}
            steps.append(Step(f"perplexity, {level}", ("eval-ppl", packed, *HELDOUT, "-t", "1", "--json"), **more))
            tokens = ("run", packed, PROMPT, "-n", "32", *self.run, "-t", "1", "--json")
            steps.append(Step(f"tokens, {level}", tokens, **more))
        return steps


def _looks(what: str, path: str) -> list[Step]:
    return [
        Step(f"info of the {what}", ("info", path, "--json")),
        Step(f"info of the {what} (words)", ("info", path), words=True),
        Step(f"verify the {what}", ("verify", path, "--json")),
    ]


def _plain(scheme: str, *more: str) -> tuple[str, ...]:
    """GPTQ alone."""
    return ("--scheme", scheme, "--preset", "gptq", *more)


CASES = (
    # The default of each scheme, and each preset.
    Case("w4a8", "llama", ("--tune", "8"), quick=True),
    Case("w4a4", "llama", ("--scheme", "W4A4", "--rot-steps", "4", "--tune", "4"), quick=True),
    Case("w4a4-online", "llama", ("--preset", "w4a4", "--rot-steps", "4", "--permute", "--tune", "0"), quick=True),
    Case("w4a4-mixed", "llama", ("--preset", "w4a4-mixed", "--rot-steps", "0", "--tune", "0")),
    Case("w4a8-asym", "llama", ("--scheme", "W4A8_ASYM", "-g", "32", "--tune", "4")),
    Case("w8a8", "llama", ("--scheme", "W8A8")),
    Case("w4a16", "llama", ("--scheme", "W4A16", "--tune", "0")),
    Case("w8a16", "llama", _plain("W8A16")),
    Case("plain", "llama", ("--preset", "plain", "--seed", "3")),
    Case("rtn", "llama", ("--preset", "rtn", "--mse"), calibrated=False, quick=True),
    Case("agile", "llama", ("--preset", "agile", "--tune", "0"), quick=True),
    Case("agile-a4", "llama", ("--preset", "agile-a4", "--tune", "0")),
    Case(
        "agile-packed-multiplier",
        "llama",
        ("--preset", "agile", "--tune", "0"),
        environment=(("AGQ_MULTIPLIER", "packed"),),
    ),
    # Each option of the solver, the formats and the transformations.
    Case("gptaq", "llama", _plain("W4A8", "--method", "gptaq", "--alpha", "0.5"), quick=True),
    Case(
        "solver",
        "llama",
        _plain("W4A8", "--no-mse", "--no-act-order", "--no-true-sequential", "--no-quantized-activations"),
    ),
    Case("damping", "llama", _plain("W4A8", "--damp", "0.1", "--block-size", "32", "-g", "64", "--ct-format", "int")),
    Case("per-channel", "llama", _plain("W4A4", "-g", "-1", "--act-group", "-1")),
    Case("groups", "llama", _plain("W4A4", "-g", "64", "--act-group", "32", "--act-sym", "--act-clip", "0.9")),
    Case("w8-asym", "llama", ("--weight-bits", "8", "--act-bits", "8", "--asym", "-g", "64", "--preset", "gptq")),
    Case("kv4", "llama", _plain("W4A8", "--kv-bits", "4", "--head-bits", "16")),
    Case("kv32", "llama", _plain("W4A8", "--kv-bits", "32", "--head-bits", "32")),
    Case("sinks", "llama", _plain("W4A4", "--sink-tokens", "4")),
    Case("pruned", "llama", _plain("W4A8", "--prune", "1-2:0.3"), quick=True),
    Case(
        "override",
        "llama",
        _plain("W4A4", "--override", "re:.*down_proj=W8A8", "--ignore", "re:.*[qkv]_proj"),
        quick=True,
    ),
    Case("seeds", "llama", ("--rot-seeds", "2", "--rot-seed", "5", "--no-scale", "--tune", "0")),
    # How it is run.
    Case(
        "sampled",
        "llama",
        ("--preset", "rtn"),
        False,
        run=("--temp", "0.8", "--top-p", "0.9", "--top-k", "40", "--seed", "1"),
    ),
    Case("speculated", "llama", ("--preset", "rtn"), False, run=("--speculate", "4", "--repeat-penalty", "1.1")),
    Case("pruned-run", "llama", ("--preset", "rtn"), False, run=("--prune", "1-2:0.4", "--prune-positions", "paper")),
    # Other shapes and families.
    Case("odd", "llama-odd", ("-g", "32", "--tune", "4")),
    Case(
        "odd-w4a4",
        "llama-odd",
        ("--scheme", "W4A4", "-g", "32", "--act-group", "32", "--rot-steps", "0", "--tune", "0"),
    ),
    Case("opt-w4a8", "opt", ("--tune", "4"), quick=True),
    Case("opt-w4a4", "opt", ("--preset", "w4a4", "--rot-steps", "4", "--tune", "0")),
    Case("opt-w8a8", "opt", ("--scheme", "W8A8")),
    Case("opt-agile", "opt", ("--preset", "agile", "--tune", "0")),
    Case("opt-projected", "opt-projected", ("--preset", "gptq", "-g", "32")),
    Case("bloom-w4a8", "bloom", ("--tune", "4"), quick=True),
    Case("bloom-w4a4", "bloom", ("--preset", "w4a4", "--rot-steps", "4", "--tune", "0")),
    Case("bloom-w8a8", "bloom", ("--scheme", "W8A8")),
    Case("bloom-agile", "bloom", ("--preset", "agile-a4", "--tune", "0")),
    # Unquantized.
    Case("packed-bf16", "llama", None, pack=("--weights", "bf16")),
    Case("packed-f16", "opt", None, pack=("--weights", "f16", "--kv-bits", "8")),
    Case("packed-f32", "bloom", None, pack=("--weights", "f32")),
    Case(
        "packed-int8", "llama", None, pack=("--weights", "int8", "--head-bits", "16", "--embed-bits", "32"), quick=True
    ),
    Case("packed-odd", "llama-odd", None, pack=("--weights", "int8", "--kv-bits", "4")),
    # The trained model of the repository.
    Case("demo-w4a8", "llama-demo", ("--tune", "8"), quick=True),
    Case("demo-w4a4", "llama-demo", ("--scheme", "W4A4", "--rot-steps", "4", "--tune", "4")),
    Case("demo-agile", "llama-demo", ("--preset", "agile", "--tune", "0")),
    Case("demo-bf16", "llama-demo", None, pack=("--weights", "bf16")),
)

# Trained models of a folder that AGQ_SHARED names, where it has them.
SHARED = (
    Case("shared-opt-w4a8", "opt-demo", ("--tune", "4")),
    Case("shared-opt-w4a4", "opt-demo", ("--scheme", "W4A4", "--rot-steps", "4", "--tune", "0")),
    Case("shared-bloom-w4a8", "bloom-demo", ("--tune", "4")),
    Case("shared-bloom-w4a4", "bloom-demo", ("--scheme", "W4A4", "--rot-steps", "4", "--tune", "0")),
)

# Model names that `agq quantize` knows; presets, each on its own scheme.
NAMES = (
    "llama-7b",
    "llama-2-13b",
    "llama-3.2-1b",
    "tinyllama-1.1b",
    "opt-125m",
    "opt-350m",
    "opt-13b",
    "bloom-560m",
    "bloom-7b1",
    "demo",
)
PRESETS = ("w4a8", "w4a4", "w4a4-mixed", "w4a4-offline", "w4a16", "w8a8", "gptq", "rtn", "plain", "agile", "agile-a4")


def recipe_steps() -> list[Step]:
    """Effective recipes, statistics of calibration, and exit codes of wrong use."""
    steps = [Step(f"recipe of {name}", ("quantize", name, "--print-config")) for name in NAMES]
    steps += [
        Step(f"preset {name}", ("quantize", "inputs/llama", "--preset", name, "--print-config")) for name in PRESETS
    ]
    statistics = "statistics.safetensors"
    steps += [
        Step("statistics", ("calibrate", "inputs/llama", *CALIBRATION, "-t", "1", "-o", statistics), statistics),
        Step(
            "quantized with them",
            ("quantize", "inputs/llama", "--calibration", statistics, "--tune", "2", "-t", "1", "-o", "S"),
            "S",
        ),
        Step("perplexity of the original", ("eval-ppl", "inputs/llama-demo", *HELDOUT, "-t", "1", "--json")),
        Step("no such file", ("run", "absent", "text"), code=1),
        Step("no such option", ("pack", "inputs/llama", "--absent"), code=2),
        Step("no such scheme", ("quantize", "inputs/llama", "--scheme", "W5A5"), code=2),
    ]
    return steps


def demo_steps() -> list[Step]:
    """The commands of `make demo`, without those that measure speed."""
    model, statistics = "inputs/llama-demo", "demo-statistics.safetensors"
    heldout = ("--data", "inputs/text/heldout.txt", "--seq-len", "1024", "-t", "1", "--json")
    text = ("--data", "inputs/text/calibration.txt", "--samples", "64", "--seq-len", "512", "-t", "1")
    steps = [Step("statistics", ("calibrate", model, *text, "-o", statistics), statistics)]
    for scheme in ("W4A8", "W4A4"):
        folder, packed = f"demo-{scheme}", f"demo-{scheme}.agq.safetensors"
        options = ("--scheme", scheme, "--calibration", statistics, "--tune", "60", "-t", "1")
        steps += [
            Step(f"{scheme} folder", ("quantize", model, *options, "-o", folder), folder),
            Step(f"{scheme} perplexity of the folder", ("eval-ppl", folder, *heldout)),
            Step(f"{scheme} packed file", ("pack", folder, "-o", packed, "--json"), packed),
            Step(f"{scheme} perplexity", ("eval-ppl", packed, *heldout)),
            Step(f"{scheme} tokens", ("run", packed, PROMPT, "-n", "80", "-t", "1", "--json")),
        ]
    return steps


def shared_models() -> Path | None:
    """The folder of further trained models, or None."""
    folder = os.environ.get("AGQ_SHARED")
    return Path(folder) / "models" if folder and (Path(folder) / "models").is_dir() else None


def make_inputs(inputs: Path, tree: Path) -> None:
    """Models and texts that both sides read: the repository's, and tiny random models with its tokenizer."""
    demo = tree / "demo" / "llama-demo"
    shutil.copytree(demo, inputs / "llama-demo")
    shutil.copytree(tree / "demo" / "text", inputs / "text")
    for case in SHARED:
        source = shared_models() and shared_models() / case.model
        if source and source.is_dir() and not (inputs / case.model).exists():
            shutil.copytree(source, inputs / case.model)
    import torch
    import transformers
    from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

    transformers.utils.logging.disable_progress_bar()
    small = {
        "vocab_size": 8192,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }
    llama = {**small, "intermediate_size": 256, "num_key_value_heads": 2}
    odd = {
        "hidden_size": 96,
        "intermediate_size": 352,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
    }
    models = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**llama)),
        "llama-odd": lambda: LlamaForCausalLM(LlamaConfig(**{**llama, **odd})),
        "opt": lambda: OPTForCausalLM(OPTConfig(**small, ffn_dim=256, word_embed_proj_dim=128)),
        "opt-projected": lambda: OPTForCausalLM(
            OPTConfig(**small, ffn_dim=256, word_embed_proj_dim=64, do_layer_norm_before=False)
        ),
        "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=8192, hidden_size=128, n_layer=2, n_head=4)),
    }
    for seed, (name, build) in enumerate(models.items()):
        torch.manual_seed(seed)
        model = build()
        # Larger than transformers' own start, so that logits are not nearly equal.
        for parameter in model.parameters():
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter) * 0.08)
        model.to(torch.bfloat16).save_pretrained(inputs / name)
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(demo / file, inputs / name / file)
