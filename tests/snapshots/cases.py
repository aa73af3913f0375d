"""The table of snapshots. A line here, `python -m tests.snapshots --update NAME`, and a new file to read."""

from __future__ import annotations

from dataclasses import replace

from agq.cli.commands import COMMANDS
from tests.snapshots.case import Case

_HELP = [
    Case("help", "agq --help", terminal=True),
    Case("help-none", "agq"),
    Case("help-version", "agq --version"),
    *(Case(f"help-{name}", f"agq {name} --help", terminal=True) for name in COMMANDS),
]

# Wrong command lines: exit code 2.
_USAGE = [
    Case("usage-command-mistyped", "agq quantise llama-7b", terminal=True),
    Case("usage-option-mistyped", "agq pack llama-w4a8 --kvbits 8", terminal=True),
    Case("usage-option-mistyped-of-many", "agq quantize llama-7b --group-sise 64"),
    Case("usage-option-without-value", "agq info --color"),
    Case("usage-argument-missing", "agq info"),
    Case("usage-argument-too-many", "agq verify one two"),
    Case("usage-color", "agq env --color sometimes"),
    Case("usage-number-not-whole", "agq run model.agq.safetensors hello -n many"),
    Case("usage-number-too-large", "agq run model.agq.safetensors hello --speculate 65"),
    Case("usage-number-from-environment", "agq run model.agq.safetensors hello", env={"AGQ_MAX_TOKENS": "few"}),
    Case("usage-speculate-with-temperature", "agq run model.agq.safetensors hello --speculate 4 --temp 1"),
    Case("usage-system-with-no-chat", "agq run model.agq.safetensors hello --system 'be short' --no-chat"),
    Case("usage-echo-with-json", "agq run model.agq.safetensors hello --echo --json"),
    Case("usage-prompt-not-quoted", "agq run model.agq.safetensors hello world"),
    Case("usage-jsonl-with-prompt", "agq run model.agq.safetensors hello --jsonl prompts.jsonl"),
    Case("usage-skip-done-without-jsonl", "agq run model.agq.safetensors hello --skip-done out.jsonl"),
    Case("usage-prompt-twice", "agq run model.agq.safetensors hello -f words.txt"),
    Case("usage-prune-and-no-prune", "agq run model.agq.safetensors hello --prune 3-5:0.3 --no-prune"),
    Case("usage-prune-not-a-range", "agq run model.agq.safetensors hello --prune everything"),
    Case("usage-bench-output", "agq bench model.agq.safetensors -o xml"),
    Case("usage-bench-list", "agq bench model.agq.safetensors -p 8,x"),
    Case("usage-ppl-method", "agq eval-ppl model.agq.safetensors --method mine"),
    Case("usage-ppl-ratio-without-baseline", "agq eval-ppl model.agq.safetensors --max-ratio 1.1"),
    Case("usage-calibrate-sparsity", "agq calibrate llama-demo --sparsity 0.2"),
    Case("usage-quantize-no-model", "agq quantize"),
]

# Recipes: the command stops before it loads PyTorch. Exit code 1 or 2.
_QUANTIZE = "agq quantize llama-7b --print-config"
_RECIPES = [
    Case("recipe-print-config", f"{_QUANTIZE} --method gptq --scheme W4A8 -g 64 --seed 7"),
    Case("recipe-model-mistyped", "agq quantize lama-7b --print-config"),
    Case("recipe-model-path", "agq quantize ./lama-7b --print-config"),
    Case("recipe-preset", f"{_QUANTIZE} --preset w4a9"),
    Case("recipe-scheme", f"{_QUANTIZE} --scheme W3A8"),
    Case("recipe-scheme-and-bits", f"{_QUANTIZE} --scheme W4A8 --weight-bits 8"),
    Case("recipe-method", f"{_QUANTIZE} --method awq"),
    Case("recipe-group-size", f"{_QUANTIZE} -g 48"),
    Case("recipe-kv-bits", f"{_QUANTIZE} --kv-bits 16"),
    Case("recipe-act-group-without-act", f"{_QUANTIZE} --weight-bits 4 --act-bits 16 --act-group 128"),
    Case("recipe-act-clip", f"{_QUANTIZE} --act-clip sometimes"),
    Case("recipe-tune", f"{_QUANTIZE} --tune long"),
    Case("recipe-damping", f"{_QUANTIZE} --damp=-1"),
    Case("recipe-hadamard", f"{_QUANTIZE} --hadamard 48"),
    Case("recipe-sink-tokens", f"{_QUANTIZE} --scheme W4A8 --sink-tokens 4"),
    Case("recipe-override", f"{_QUANTIZE} --override down_proj"),
    Case("recipe-override-pattern", f"{_QUANTIZE} --override 're:(=W8A8'"),
    Case("recipe-positions-without-prune", f"{_QUANTIZE} --prune-positions safe"),
    Case("recipe-file-missing", "agq quantize --config absent.yaml --print-config"),
    *(
        Case(f"recipe-file-{name}", "agq quantize --config mine.yaml --print-config", texts={"mine.yaml": text})
        for name, text in {
            "key-unknown": "model: llama-7b\nmethod: gptq\ngroup_sise: 64\n",
            "section-key-unknown": "model: llama-7b\ngptq:\n  act_order: true\n  dampening: 0.1\n",
            "no-as-boolean": "model: llama-7b\ngptq:\n  mse: 'no'\n",
            "value-of-wrong-type": "model: llama-7b\ncalibration:\n  samples: many\n",
            "value-out-of-bounds": "model: llama-7b\ncalibration:\n  samples: 0\n",
            "method-unknown": "model: llama-7b\nmethod: awq\n",
            "not-yaml": "model: llama-7b\nmethod: [gptq\n",
            "key-twice": "model: llama-7b\nmethod: gptq\nmethod: rtn\n",
            "list": "- llama-7b\n",
        }.items()
    ),
]

_SWEEP = """\
models:
  - {name: demo, path: ./llama-short, seq_len: 64}
texts:
  - {name: words, data: ./words.txt, windows: 1}
divergence_windows: 1
reference_windows: 0
prefill: 8
decode: 2
threads: 1
rows:
  - {name: bf16}
  - {name: rounded, options: {method: rtn, scheme: W4A8, preset: rtn}}
"""
_SWEEPS = [
    Case(
        "sweep-dry-run",
        "agq sweep mine.yaml --dry-run",
        texts={"mine.yaml": _SWEEP},
        files=("llama-short", "words.txt"),
    ),
    Case("sweep-file-missing", "agq sweep absent.yaml"),
    Case("sweep-row-unknown", "agq sweep mine.yaml --dry-run --row best", texts={"mine.yaml": _SWEEP}),
    Case("sweep-output-is-a-file", "agq sweep mine.yaml -o mine.yaml", texts={"mine.yaml": _SWEEP}),
    *(
        Case(f"sweep-{name}", "agq sweep mine.yaml --dry-run", texts={"mine.yaml": text})
        for name, text in {
            "key-unknown": _SWEEP.replace("windows: 1", "window: 1"),
            "no-as-boolean": _SWEEP.replace("{name: bf16}", "{name: bf16, ablation: 'no'}"),
            "option-unknown": _SWEEP.replace("scheme: W4A8", "schema: W4A8"),
            "option-of-wrong-type": _SWEEP.replace("method: rtn", "group_size: wide"),
            "without-rows": _SWEEP.partition("rows:")[0],
            "not-yaml": _SWEEP + "]\n",
        }.items()
    ),
]

# Plans: machines that are not here, so that nothing is measured.
_PLANS = [
    Case("plan-machines", "agq recommend --list-machines", terminal=True),
    Case("plan-machine", "agq recommend llama-7b --machine pi5 --use rag", terminal=True),
    Case("plan-card", "agq recommend llama-7b --machine h100 --users 16"),
    Case("plan-machine-mistyped", "agq recommend llama-7b --machine pi55"),
    Case("plan-use-mistyped", "agq recommend llama-7b --use chats"),
    Case("plan-nothing-known", "agq recommend llama-7b --machine pi5 --max-ratio 1.02"),
    Case("plan-nothing-fits", "agq recommend llama-7b --machine pi4-2gb"),
    Case("plan-fit", "agq fit llama-7b --memory 100G", terminal=True),
    Case("plan-fit-not", "agq fit llama-7b --memory 1G"),
    Case("plan-fit-size", "agq fit llama-7b --memory plenty"),
]

# Files that are absent, damaged, or of another kind.
_FILES = [
    *(
        Case(f"file-{name}-missing", f"agq {line}")
        for name, line in {
            "info": "info absent.agq.safetensors",
            "run": "run absent.agq.safetensors hello",
            "pack": "pack ./absent",
            "ppl": "eval-ppl absent.agq.safetensors",
        }.items()
    ),
    *(
        Case(f"file-info-{name}", f"agq info {path}", files=(path,))
        for name, path in {
            "text": "words.txt",
            "empty-folder": "empty",
            "cut": "cut.agq.safetensors",
            "start": "start.agq.safetensors",
            "empty-file": "empty.agq.safetensors",
            "header-beyond": "beyond.agq.safetensors",
            "header-long": "long.agq.safetensors",
            "newer": "newer.agq.safetensors",
            "foreign": "foreign.safetensors",
            "no-weights": "no-weights",
            "other-family": "other-family",
            "odd-heads": "odd-heads",
        }.items()
    ),
    Case("file-verify-cut-folder", "agq verify cut", files=("cut",)),
    Case("file-verify-flipped", "agq verify flipped.agq.safetensors", files=("flipped.agq.safetensors",)),
    Case("file-run-cut", "agq run cut.agq.safetensors hello", files=("cut.agq.safetensors",)),
    Case("file-pack-artifact", "agq pack model.agq.safetensors -o again", files=("model.agq.safetensors",)),
    Case("file-pack-no-tokenizer", "agq pack no-tokenizer", files=("no-tokenizer",)),
]

# What a whole model refuses.
_MODEL = ("model.agq.safetensors",)
_RUN = "agq run model.agq.safetensors"
_PROMPTS = '{"prompt": "t3 t4 t5"}\n{"prompt": "t6", "id": "six"}\n{"text": "t7"}\n'
_PPL = "agq eval-ppl model.agq.safetensors --data words.txt"
_REFUSALS = [
    Case("run-prompt-empty", _RUN, files=_MODEL),
    Case("run-prompt-file-missing", f"{_RUN} -f absent.txt", files=_MODEL),
    Case("run-prompt-not-utf8", f"{_RUN} -f latin1.txt", files=(*_MODEL, "latin1.txt")),
    Case("run-prompt-too-long", f"{_RUN} -f words.txt", files=(*_MODEL, "words.txt")),
    Case("run-context-full", f"{_RUN} 't3 t4 t5' -n 8 -c 8", files=_MODEL),
    Case("run-context-beyond-model", "agq run agile.agq.safetensors t3 -c 65", files=("agile.agq.safetensors",)),
    Case("run-context-beyond-int32", f"{_RUN} t3 -c 4000000000", files=_MODEL),
    Case("run-options-without-effect", f"{_RUN} t3 -n 2 --temp 0 --top-k 5 --seed 1", files=_MODEL),
    Case("run-system-without-template", f"{_RUN} t3 --system 'be short'", files=_MODEL),
    Case("run-jsonl", f"{_RUN} --jsonl prompts.jsonl -n 4 --echo", files=_MODEL, texts={"prompts.jsonl": _PROMPTS}),
    Case("run-no-chat-template", f"{_RUN} t3 --chat", files=_MODEL),
    Case("run-kv-bits", f"{_RUN} t3 --kv-bits 16", files=_MODEL),
    Case("run-prune-too-deep", f"{_RUN} t3 --prune 3-5:0.3", files=_MODEL),
    Case("run-isa", f"{_RUN} t3", files=_MODEL, env={"AGQ_ISA": "mmx"}),
    Case("bench-context", "agq bench agile.agq.safetensors -p 65 -n 2", files=("agile.agq.safetensors",)),
    Case("pack-exists", "agq pack llama-w4a8 -o model.agq.safetensors", files=("llama-w4a8", *_MODEL)),
    Case("pack-no-folder", "agq pack llama-w4a8 -o absent/model.agq.safetensors", files=("llama-w4a8",)),
    Case("pack-read-only", "agq pack llama-w4a8", files=("llama-w4a8",), read_only=True),
    Case("pack-weights-of-quantized", "agq pack llama-w4a8 --weights int8", files=("llama-w4a8",)),
    Case("pack-kv-bits", "agq pack llama-w4a8 --kv-bits 16", files=("llama-w4a8",)),
    Case("ppl-gate-ppl", f"{_PPL} --seq-len 32 --max-ppl 10", files=(*_MODEL, "words.txt")),
    Case(
        "ppl-gate-ratio",
        f"{_PPL} --seq-len 32 --max-windows 1 --baseline model.agq.safetensors --max-ratio 0.5",
        files=(*_MODEL, "words.txt"),
    ),
    Case("ppl-text-short", f"{_PPL} --seq-len 64", files=_MODEL, texts={"words.txt": "t3 t4 t5"}),
    Case("ppl-text-missing", f"{_PPL}", files=_MODEL),
    Case("ppl-text-not-utf8", "agq eval-ppl model.agq.safetensors --data latin1.txt", files=(*_MODEL, "latin1.txt")),
    Case("ppl-jsonl-field", "agq eval-ppl model.agq.safetensors --data words.jsonl", files=_MODEL,
         texts={"words.jsonl": '{"body": "t3 t4"}\n'}),
    Case("ppl-windows-beyond-model", "agq eval-ppl agile.agq.safetensors --data words.txt --seq-len 128",
         files=("agile.agq.safetensors", "words.txt")),
    Case("ppl-stride-without-method", f"{_PPL} --stride 8", files=(*_MODEL, "words.txt")),
    Case("ppl-device-of-artifact", f"{_PPL} --device cuda", files=(*_MODEL, "words.txt")),
]  # fmt: skip

# What a whole model shows.
_SHOWN = [
    *(
        Case(f"info-{name}", f"agq info {path}", files=(path,), terminal=name in ("artifact", "folder"))
        for name, path in {
            "artifact": "model.agq.safetensors",
            "artifact-sinks": "sinks.agq.safetensors",
            "artifact-agile": "agile.agq.safetensors",
            "artifact-abi2": "old.agq.safetensors",
            "folder": "llama-w4a8",
            "folder-asymmetric": "bloom-w4a8-asym",
            "folder-unquantized": "llama-demo",
        }.items()
    ),
    Case("info-every-layer", "agq info model.agq.safetensors -v", files=_MODEL),
    Case("info-json", "agq info model.agq.safetensors --json", files=_MODEL),
    Case("verify-artifact", "agq verify model.agq.safetensors -v", files=_MODEL),
    Case("verify-folder", "agq verify llama-w4a8 -v", files=("llama-w4a8",)),
    Case("verify-json", "agq verify flipped.agq.safetensors --json", files=("flipped.agq.safetensors",)),
    Case("pack-folder", "agq pack llama-w4a8", files=("llama-w4a8",)),
    Case("run-text", f"{_RUN} 't3 t4 t5' -n 6 --echo", files=_MODEL),
    Case("run-stdin", f"{_RUN} -n 4", files=_MODEL, stdin="t3 t4 t5\n"),
    Case("run-verbose", f"{_RUN} 't3 t4 t5' -n 6 -v -t 1", files=_MODEL),
    Case("run-until-context-full", f"{_RUN} 't3 t4 t5' -c 8", files=_MODEL),
    Case("ppl-table", f"{_PPL} --seq-len 32", files=(*_MODEL, "words.txt")),
    Case("ppl-table-pruned", f"{_PPL} --seq-len 32 --prune 1-2:0.3", files=(*_MODEL, "words.txt")),
    Case("bench-table", "agq bench model.agq.safetensors -p 8 -n 2 -r 1 -t 1 --no-warmup", files=_MODEL),
    Case("env", "agq env"),
]

# With PyTorch: seconds each.
_TORCH = [
    Case("torch-dry-run", "agq quantize llama-demo --dry-run --method rtn", files=("llama-demo",)),
    Case("torch-dry-run-no-text", "agq quantize llama-demo --dry-run --data absent.txt", files=("llama-demo",)),
    Case("torch-quantize", "agq quantize llama-short --method rtn --tune 0 -o made", files=("llama-short",)),
    Case("torch-group-size-does-not-fit", "agq quantize llama-demo -g 512", files=("llama-demo",)),
    Case("torch-override-matches-nothing", "agq quantize llama-demo --override 're:.*dense=W8A8'",
         files=("llama-demo",)),
    Case("torch-quantized-already", "agq quantize llama-w4a8", files=("llama-w4a8",)),
    Case("torch-output-exists", "agq quantize llama-demo -o llama-w4a8", files=("llama-demo", "llama-w4a8")),
    Case("torch-output-folder-absent", "agq quantize llama-demo -o absent/made", files=("llama-demo",)),
    Case("torch-device", "agq quantize llama-demo --device tpu", files=("llama-demo",)),
    Case("torch-text-short", "agq quantize llama-short --data words.txt -o made", files=("llama-short", "words.txt")),
    Case("torch-ppl-folder", "agq eval-ppl llama-w4a8 --data words.txt --seq-len 32 --max-windows 1",
         files=("llama-w4a8", "words.txt")),
    Case("torch-sweep", "agq sweep mine.yaml --no-plot", texts={"mine.yaml": _SWEEP},
         files=("llama-short", "words.txt")),
]  # fmt: skip

# `make check` runs helps and wrong command lines, which take a tenth of a second each; `make test` runs all.
_MORE = (*_RECIPES, *_SWEEPS, *_PLANS, *_FILES, *_REFUSALS, *_SHOWN, *_TORCH)
CASES = [*_HELP, *_USAGE, *(replace(case, slow=True) for case in _MORE)]
