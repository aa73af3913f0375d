"""The table of subcommands, and the texts of `agq --help` and `agq --version`, which are printed without importing any
of them."""

from __future__ import annotations

import sys

from agq.reporting import console
from agq.version import __version__

# name -> (module, one line of help). The order is that of the pipeline.
COMMANDS: dict[str, tuple[str, str]] = {
    "calibrate": ("agq.cli.calibrate", "Collect activation statistics of a model on calibration text."),
    "quantize": ("agq.cli.quantize", "Quantize a model's weights and write a compressed-tensors folder."),
    "pack": ("agq.cli.pack", "Pack a folder into one file in the layout of the kernels."),
    "run": ("agq.cli.run", "Generate text with a packed model."),
    "eval-ppl": ("agq.cli.eval_ppl", "Measure perplexity of a folder or a packed file."),
    "compare": ("agq.cli.compare", "Compare other forms of a model with the original."),
    "info": ("agq.cli.info", "Show what a model or packed file is and how it is computed."),
    "report": ("agq.cli.report", "Write a page that shows where a quantized model's accuracy went."),
    "verify": ("agq.cli.verify", "Check a folder or packed file for damage and inconsistencies."),
    "sweep": ("agq.cli.sweep", "Compare methods on models as one table."),
    "recommend": ("agq.cli.recommend", "Say which scheme to take, for a machine and a use."),
    "fit": ("agq.cli.fit", "Say whether a model fits into memory, and how."),
    "bench": ("agq.cli.bench", "Measure speed on this machine."),
    "cache": ("agq.cli.cache", "List and clear what `run` has packed."),
    "env": ("agq.cli.env", "Show versions, processor and kernels, for bug reports."),
}

HELP = "Quantize language models to INT4 and run them on CPUs."

_GLOBAL_HELP = (
    ("-v, --verbose", "More on stderr; -vv still more.  [AGQ_VERBOSE]"),
    ("-q, --quiet", "Only warnings and errors; -qq only errors.  [AGQ_QUIET]"),
    ("--color", "auto, always or never; NO_COLOR counts too.  [AGQ_COLOR]"),
    ("--no-progress", "No progress on stderr.  [AGQ_NO_PROGRESS]"),
    ("--version", "Versions of agq and of the kernels, then exit."),
    ("-h, --help", "This text; `agq COMMAND --help` for a command's options."),
)


def help_text() -> str:
    """`agq --help`: from the table above, without importing any command."""

    def heading(text: str) -> str:
        return console.paint(text, "bold", stream=sys.stdout)

    lines = [f"{heading('Usage:')} agq [OPTIONS] COMMAND [ARGS]...", "", HELP, "", heading("Commands:")]
    lines += [f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()]
    lines += ["", heading("Options, before or after the command:")]
    lines += [f"  {names:<18}{text}" for names, text in _GLOBAL_HELP]
    lines += [
        "",
        "MODEL is a packed or GGUF file, a model folder, a recipe's name (`llama-7b`) or",
        "a Hugging Face hub id.",
        "Every option has an environment variable, shown in the command's help.",
        "AGQ_DEBUG=1 shows tracebacks, AGQ_ISA names the instruction set to use,",
        "AGQ_CACHE_DIR the folder for packed files.",
        "`agq help COMMAND` is `agq COMMAND --help`. `agq --install-completion` makes the",
        "shell's Tab key complete commands, options, schemes, presets and methods.",
    ]
    return "\n".join(lines)


def version_text() -> str:
    """agq's version, the kernels that would be used, and the versions of what quantization needs (without importing
    it).
    """
    from importlib import metadata

    lines = [f"agq {__version__}", f"kernels: {_kernels()}", f"python: {sys.version.split()[0]}"]
    for package in ("numpy", "torch", "transformers", "compressed-tensors"):
        try:
            lines.append(f"{package}: {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package}: not installed")
    return "\n".join(lines)


def _kernels() -> str:
    from agq.errors import AgqError

    try:
        from agq.native.library import load_library

        return str(load_library().isa)
    except AgqError as error:
        return f"none ({error.message})"
