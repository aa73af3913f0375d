"""Every hint that names a command or an option is followed once: what it says is typed, and works."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from agq.cli.options import in_flags
from tests.checkpoint.folders import config, write_folder
from tests.cli.hint_rows import ELSEWHERE, QUICK, SLOW, Row
from tests.cli.hints import hints, matches, steps
from tests.conftest import TEMPLATE
from tests.runtime.runtime_support import byte_level, sentencepiece_like
from tests.support import REPOSITORY


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
    (folder / "away.yaml").write_text("model: gone\nmethod: rtn\n")
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
