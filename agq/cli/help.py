"""What the help of a command shows beside its options: which of them come first, and examples. Tests read every example
as the command line does, and runs it on a small model named FOLDER."""

from __future__ import annotations

from typing import Any

# The options that most calls need, at most five a command, by their longest names.
COMMON = {
    "calibrate": ("--data", "--samples", "--seq-len", "--output"),
    "quantize": ("--scheme", "--method", "--preset", "--data", "--output"),
    "pack": ("--weights", "--output", "--force"),
    "run": ("--chat", "--max-tokens", "--temp", "--system", "--threads"),
    "eval-ppl": ("--data", "--seq-len", "--baseline", "--max-windows", "--max-ratio"),
    "compare": ("--prompts", "--limit", "--max-tokens", "--data", "--html"),
    "info": (),
    "report": ("--original", "--data", "--output", "--png"),
    "verify": (),
    "sweep": ("--output", "--row", "--model", "--dry-run"),
    "recommend": ("--use", "--machine", "--memory", "--users", "--max-ratio"),
    "fit": ("--memory", "--machine", "--context"),
    "bench": ("--prefill", "--decode", "--threads", "--output"),
    "cache": (),
    "env": (),
}
EXAMPLES = {
    "calibrate": (
        "agq calibrate FOLDER --data text.txt -o statistics.safetensors",
        "agq calibrate FOLDER --data text.txt --samples 16 --seq-len 512",
        "agq calibrate FOLDER --data text.txt --search-pruning --sparsity 0.2",
    ),
    "quantize": (
        "agq quantize FOLDER --data text.txt",
        "agq quantize FOLDER --data text.txt --samples 16 --seq-len 512 --tune 0",
        "agq quantize FOLDER --method rtn --scheme W4A8 -o FOLDER-rtn",
    ),
    "pack": (
        "agq pack FOLDER-W4A8",
        "agq pack FOLDER --weights int4 -o model.agq.safetensors",
        "agq pack FOLDER-W4A8 --kv-bits 4 --force",
    ),
    "run": (
        "agq run model.agq.safetensors",
        'agq run model.agq.safetensors "Once upon a time" -n 100',
        "agq run FOLDER --jsonl prompts.jsonl",
    ),
    "eval-ppl": (
        "agq eval-ppl model.agq.safetensors --data text.txt",
        "agq eval-ppl FOLDER --data text.txt --seq-len 512 --max-windows 8",
        "agq eval-ppl model.agq.safetensors --data text.txt --baseline FOLDER --max-ratio 1.1",
    ),
    "compare": (
        "agq compare FOLDER FOLDER-W4A8",
        "agq compare FOLDER model.agq.safetensors --limit 8 --html page.html",
        "agq compare FOLDER FOLDER-W4A8 model.agq.safetensors --data text.txt --no-floor",
    ),
    "info": ("agq info model.agq.safetensors", "agq info FOLDER", "agq info FOLDER --json"),
    "report": (
        "agq report FOLDER-W4A8 --original FOLDER --data text.txt",
        "agq report FOLDER-W4A8 --data text.txt --max-windows 4 -o page.html --png pictures",
        "agq report model.agq.safetensors --original FOLDER --data text.txt",
    ),
    "verify": ("agq verify model.agq.safetensors", "agq verify FOLDER", "agq verify FOLDER --json"),
    "sweep": (
        "agq sweep configs/sweeps/demo.yaml",
        "agq sweep configs/sweeps/demo.yaml --row W4A8 -o results",
        "agq sweep configs/sweeps/demo.yaml --dry-run",
    ),
    "recommend": (
        "agq recommend FOLDER --use chat",
        "agq recommend llama-7b --machine pi5 --use rag --memory 6G",
        "agq recommend FOLDER --artifact model.agq.safetensors --max-ratio 1.05",
    ),
    "fit": ("agq fit FOLDER --memory 100M", "agq fit llama-7b --machine pi5", "agq fit llama-7b -m 8G --json"),
    "bench": (
        "agq bench model.agq.safetensors",
        "agq bench model.agq.safetensors -p 512 -n 64 -t 1,2,4",
        "agq bench model.agq.safetensors --output json --no-startup",
    ),
    "cache": ("agq cache", "agq cache --clear", "agq cache --json"),
    "env": ("agq env", "agq env --json", "agq env -v"),
}
FIRST, OTHERS = "Common options", "Other options"


def arrange(command: Any, panels: bool) -> None:
    """Puts the common options of a command first, under their own heading, and its examples below. panels: the help is
    drawn with headings."""
    common = COMMON.get(command.name, ())
    places = {}
    for parameter in command.params:
        if parameter.param_type_name != "option" or not common:
            continue
        name = next((name for name in common if name in parameter.opts), None)
        if name is not None:
            places[parameter.name] = common.index(name)
            parameter.rich_help_panel = FIRST
        elif getattr(parameter, "rich_help_panel", None) is None and parameter.name != "help":
            parameter.rich_help_panel = OTHERS
    command.params.sort(
        key=lambda item: -1 if item.param_type_name == "argument" else places.get(item.name, len(common))
    )
    examples = EXAMPLES.get(command.name, ())
    gap = "\n\n" if panels else "\n"
    command.epilog = (
        gap.join(["Examples:", *examples])
        if panels
        else "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
    )
