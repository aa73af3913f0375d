"""Every hint that names a command or an option is followed once: what it says is typed, and works."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agq.cli.options import in_flags
from tests.checkpoint.folders import config, write_folder
from tests.cli.conftest import TEMPLATE
from tests.cli.hints import hints, matches, steps
from tests.runtime.runtime_support import byte_level, sentencepiece_like
from tests.support import REPOSITORY


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
]

# Hints that another test follows, or none: which, or why.
ELSEWHERE = {
    "/exit or Ctrl-D leaves": "tests/cli/test_conversation.py",
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
    "the file is newer than the package: `pip install -U gguf`, or take a file of another type": "the registry's own",
    "raise the limit with `ulimit -n`": "a shell's own command",
    "run again with AGQ_DEBUG=1 for the traceback, and report it": "only a mistake of agq prints it",
    "`samples:` and `seq_len:` are at least 1": "for callers of the library: the command line has these limits",
    "close other programs, or use `method: {}`, which needs less": "needs a machine with little memory",
    "run `make kernels` in the source tree, or reinstall agq": "needs an agq without its kernels",
    "run `git lfs pull` there": "needs the network",
    "check the name; a private model needs HF_TOKEN": "needs the network",
    "accept it at https://huggingface.co/{} and set HF_TOKEN, or pass a local folder": "needs the network",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, texts and recipes, for commands that are typed in their folder."""
    import agq

    folder = tmp_path_factory.mktemp("hints")
    sizes = {"vocab_size": 300, "max_position_embeddings": 64}
    llama = sentencepiece_like()
    for name, changes in {
        "model": {},
        "chat": {},
        "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
    }.items():
        write_folder(folder / name, config("llama", **sizes, **changes))
        llama.save(str(folder / name / "tokenizer.json"))
    (folder / "chat" / "chat_template.jinja").write_text(TEMPLATE)
    write_folder(folder / "opt", config("opt", vocab_size=300))
    byte_level().save(str(folder / "opt" / "tokenizer.json"))
    write_folder(folder / "nobos", config("llama", **sizes, bos_token_id=None))
    byte_level().save(str(folder / "nobos" / "tokenizer.json"))
    for name in ("model", "chat", "dynamic", "opt", "nobos"):
        agq.pack(folder / name, folder / f"{'m' if name == 'model' else name}.agq.safetensors", weights="int8")
    data = (folder / "m.agq.safetensors").read_bytes()
    (folder / "copy.agq.safetensors").write_bytes(data)
    (folder / "flipped.agq.safetensors").write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    place = data.index(b"agq.abi") + len("agq.abi") + 3
    (folder / "damaged.agq.safetensors").write_bytes(data[:place] + b"x" + data[place + 1 :])
    (folder / "text.txt").write_text("hello b. " * 200)
    (folder / "more.txt").write_text("b hello. " * 200)
    (folder / "short.txt").write_text("hello b")
    (folder / "latin.txt").write_bytes(b"caf\xe9 hello")
    (folder / "rows.jsonl").write_text(json.dumps({"text": 5, "body": "hello b. " * 200}) + "\n")
    (folder / "recipe.yaml").write_text("model: model\nmethod: rtn\n")
    (folder / "sweep.yaml").write_text(
        "models: [{name: m, path: model}]\ntexts: [{name: t, data: text.txt}]\n"
        "rows: [{name: rtn, options: {method: rtn}}]\n"
    )
    for name, state in (("damaged", "{"), ("changed", '{"agq": "0"}')):
        (folder / f".{name}.agq-work").mkdir()
        (folder / f".{name}.agq-work" / "state.json").write_text(state)
    (folder / "full").mkdir()
    (folder / "full" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def typed(world: Path, call, monkeypatch: pytest.MonkeyPatch):
    """`typed(arguments, env=...)` in the folder of `world`."""
    monkeypatch.chdir(world)
    return call


def printed(err: str) -> str:
    """The hint in what a command said; an empty text for none."""
    return next((line[6:] for line in err.splitlines() if line.startswith("hint: ")), "")


def follow(one: Row, typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types what prints a hint, and then what the hint says, each command and option of it."""
    arguments = shlex.split(one.typed)
    for command in one.before:
        assert typed(*shlex.split(command)).code == 0, command
    if one.missing:
        monkeypatch.setitem(sys.modules, one.missing, None)
    hint = in_flags(one.hint)
    if one.shown:
        result = typed(*arguments, env=one.env, stdin=one.stdin)
        assert result.code in (1, 2), result
        hint = printed(result.err)
        assert matches(in_flags(one.hint), hint), result.err
    found = [
        (line, {name: value for name, value in one.env.items() if name not in hint})
        for line in steps(hint, arguments, one.values)
        if line
    ]
    if set(one.env) & set(hint.replace(":", "").split()):
        assert not found  # the variable itself: another value
        values = {"AGQ_CACHE_DIR": "cache", "AGQ_ISA": "scalar"}
        found = [(arguments, {name: values[name] for name in one.env})]
    assert found, hint
    for line, env in found:
        after = typed(*line, *one.more, env=env)
        assert after.code == (line[0] in one.fails), (line, after.err)
        for word in hint.split("pip install ")[1:]:
            name = word.split(";")[0].split(",")[0]
            assert importlib.metadata.version(name) and one.missing.replace("_", "-") == name


@pytest.mark.parametrize("one", QUICK, ids=lambda one: one.typed)
def test_quick(one: Row, typed, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(one, typed, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("one", SLOW, ids=lambda one: one.typed)
def test_slow(one: Row, typed, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(one, typed, monkeypatch)


def test_every_hint_is_followed() -> None:
    """A new hint that names a command or an option comes with a row here."""
    rows = {one.hint for one in (*QUICK, *SLOW)}
    assert hints() == rows | set(ELSEWHERE), (hints() - rows - set(ELSEWHERE), (rows | set(ELSEWHERE)) - hints())
    for where in ELSEWHERE.values():
        if where.startswith("tests/"):
            assert (REPOSITORY / where).is_file(), where
        elif where.startswith("test_"):
            assert where in globals(), where


def test_two_ways_to_say_the_bits(typed) -> None:
    begun = ("quantize", "model", "--print-config")
    assert "use either `--scheme` or" in typed(*begun, "--scheme", "W4A8", "--act-bits", 4).err
    assert typed(*begun, "--scheme", "W4A8").code == 0
    assert typed(*begun, "--weight-bits", 4, "--act-bits", 4).code == 0


def test_a_recipe_gets_its_model(typed, world: Path) -> None:
    path = world / "nomodel.yaml"
    path.write_text("method: rtn\n")
    assert "`model: FOLDER or HUB-ID`" in typed("pack", path, "-o", "named.agq.safetensors").err
    path.write_text("method: rtn\nmodel: model\n")
    assert typed("pack", path, "-o", "named.agq.safetensors").code == 0


def test_keys_of_a_recipe(typed, world: Path) -> None:
    begun = ("quantize", "model", "--print-config", "--preset", "agile")
    assert "`agile.softmax_bits: 0`" in typed(*begun, "--kv-bits", 32).err
    assert "`agile.observer: percentile`" in typed(*begun, "--act-clip", 0.9).err
    recipe = typed(*begun).out
    for key, value in (("softmax_bits", "0"), ("observer", "percentile")):
        lines = [f"  {key}: {value}" if line.strip().startswith(f"{key}:") else line for line in recipe.splitlines()]
        (world / "agile.yaml").write_text("\n".join(lines))
        more = ("--kv-bits", 32) if key == "softmax_bits" else ()
        result = typed("quantize", "--config", "agile.yaml", "--print-config", *more)
        assert result.code == 0 and f"{key}: {value}" in result.out, result.err


@pytest.mark.skipif(shutil.which("iconv") is None, reason="no iconv")
def test_converted_texts(typed, world: Path) -> None:
    command = ("eval-ppl", "m.agq.safetensors", "--seq-len", 4, "--data")
    assert printed(typed(*command, "latin.txt").err) == "convert it: iconv -f LATIN1 -t UTF-8"
    assert "iconv" in printed(typed("run", "m.agq.safetensors", "-f", "latin.txt").err)
    assert os.system(f"iconv -f LATIN1 -t UTF-8 {world}/latin.txt >{world}/utf8.txt") == 0
    assert typed(*command, "utf8.txt").code == typed("run", "m.agq.safetensors", "-n", 1, "-f", "utf8.txt").code == 0


@pytest.mark.slow
def test_an_encoding_that_shows_the_text(agq_cli, world: Path) -> None:
    command = ("run", "m.agq.safetensors", "你", "--echo", "-n", 1)
    result = agq_cli(*command, cwd=world, env={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 1 and "set PYTHONIOENCODING=utf-8" in result.stderr
    assert agq_cli(*command, cwd=world, env={"PYTHONIOENCODING": "utf-8"}).returncode == 0


@pytest.mark.slow
def test_static_activations_that_are_not_packed(typed, world: Path) -> None:
    small = ("--data", "text.txt", "--samples", 2, "--seq-len", 16)
    recipe = typed("quantize", "model", "--print-config", "--preset", "agile", *small).out
    for mode in ("code-compat", "trip"):
        lines = [f"  mode: {mode}" if line.strip().startswith("mode:") else line for line in recipe.splitlines()]
        (world / "static.yaml").write_text("\n".join(lines))
        made = typed("quantize", "--config", "static.yaml", "-o", f"static-{mode}")
        assert made.code == 0, made.err
        packed = typed("pack", f"static-{mode}", "-o", f"{mode}.agq.safetensors")
        assert (packed.code == 0) == (mode == "trip"), packed.err
        if mode != "trip":
            assert "quantize with `agile.mode: trip`" in packed.err
            assert typed("eval-ppl", f"static-{mode}", "--data", "text.txt", "--seq-len", 16).code == 0


@pytest.mark.slow
def test_conversions(typed, world: Path) -> None:
    """A folder with a pickle of PyTorch, made to one that agq reads by the lines of both hints."""
    import torch
    import transformers

    folder = world / "pickled"
    model = transformers.AutoModelForCausalLM.from_pretrained(world / "model")
    shutil.copytree(world / "model", folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    hint = printed(typed("pack", folder, "-o", "p.agq.safetensors").err)
    line = hint.split("`")[1].replace("NEW_FOLDER", f"{str(world / 'new')!r}").replace("FOLDER", f"{str(folder)!r}")
    exec(f"from transformers import AutoModelForCausalLM; {line}")
    shutil.copy(folder / "tokenizer.json", world / "new")
    assert typed("pack", "new", "-o", "p.agq.safetensors").code == 0
    hint = printed(typed("pack", folder / "pytorch_model.bin", "-o", "p.agq.safetensors").err)
    line = hint.split('python -c "')[1].rstrip('"').replace("'FOLDER'", f"{str(folder)!r}")
    exec(line.replace("'model'", f"{str(world / 'newer')!r}"))
    assert typed("pack", "newer", "-o", "p2.agq.safetensors").code == 0
