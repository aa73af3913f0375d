"""Bad input: one clear line, a hint where there is something to do, the right exit code, and nothing half written.

Commands run in the test's own process, which has imported torch once; in processes of their own where the system is
what fails.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import clean_environment

pytestmark = pytest.mark.slow


def refused(result: SimpleNamespace, *words: str, code: int = 1) -> None:
    """One `error:` line that holds `words` (in any case), no traceback, nothing on stdout."""
    assert result.code == code, f"exit code {result.code}\n{result.err}"
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.err
    assert "Traceback" not in result.err
    for word in words:
        assert word.lower() in result.err.lower(), f"{word!r} is not in:\n{result.err}"
    assert result.out == ""


def copy_of_model(source: Path, target: Path, **changes: object) -> Path:
    """A model folder with other values in its config.json."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["quantize", "MISSING", "--scheme", "W4A8", "--method", "rtn", "-o", "OUT"],
        ["calibrate", "MISSING", "-o", "OUT"],
        ["pack", "MISSING", "-o", "OUT"],
        ["run", "MISSING", "text"],
        ["eval-ppl", "MISSING", "--data", "TEXT"],
        ["info", "MISSING"],
        ["verify", "MISSING"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_missing_model(call, tmp_path: Path, demo_text: Path, arguments: list[str]) -> None:
    names = {"MISSING": tmp_path / "absent" / "model", "OUT": tmp_path / "out", "TEXT": demo_text / "heldout.txt"}
    refused(call(*(names.get(argument, argument) for argument in arguments)), str(names["MISSING"]))
    assert leftovers(tmp_path) == []


def test_missing_text(call, demo_model: Path, demo_artifact: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.txt"
    refused(call("eval-ppl", demo_model, "--data", absent), str(absent))
    refused(call("calibrate", demo_model, "--data", absent, "-o", tmp_path / "out"), str(absent))
    refused(call("run", demo_artifact, "-f", absent), str(absent))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:99"])
def test_unknown_or_absent_device(call, demo_model: Path, demo_text: Path, tmp_path: Path, device: str) -> None:
    code = 1 if device == "cuda:99" else 2
    for command in (
        ["quantize", demo_model, "--scheme", "W4A8", "-o", tmp_path / "out"],
        ["calibrate", demo_model, "-o", tmp_path / "out"],
        ["eval-ppl", demo_model],
    ):
        result = call(*command, "--data", demo_text / "heldout.txt", "--device", device)
        assert result.code == code and device in result.err and "hint: " in result.err and "internal" not in result.err
    assert leftovers(tmp_path) == []


def test_a_packed_file_has_no_device(call, demo_artifact: Path, demo_text: Path) -> None:
    packed = call("eval-ppl", demo_artifact, "--data", demo_text / "heldout.txt", "--device", "cpu")
    assert packed.code == 2 and "on the processor" in packed.err


def test_wrong_family(call, demo_model: Path, tmp_path: Path) -> None:
    model = copy_of_model(demo_model, tmp_path / "model", model_type="falcon", architectures=["FalconForCausalLM"])
    result = call("quantize", model, "--scheme", "W4A8", "--method", "rtn", "-o", tmp_path / "out")
    refused(result, "falcon", "llama", "opt", "bloom")
    assert leftovers(tmp_path) == ["model"]


def test_pickled_checkpoint_is_refused_with_a_way_out(call, demo_model: Path, tmp_path: Path) -> None:
    model = copy_of_model(demo_model, tmp_path / "model")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused(call("pack", model, "-o", tmp_path / "out"), "pickle", "hint: ", "save_pretrained")


def test_group_that_does_not_divide_is_one_line_before_any_work(call, tmp_path: Path, demo_model: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=2,
        vocab_size=8192,
        max_position_embeddings=64,
    )
    model = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(model)
    shutil.copy(demo_model / "tokenizer.json", model)
    result = call("quantize", model, "--scheme", "W4A8", "-g", "128", "--method", "rtn", "-o", tmp_path / "out")
    refused(result, "group size 128 does not divide the inputs of down of 3 blocks: 352", "hint: use 32")
    assert "q, k, v" not in result.err and "model.layers" not in result.err
    assert leftovers(tmp_path) == ["model"]
    assert call("quantize", model, "--scheme", "W4A8", "--method", "rtn", "-g", 32, "-o", tmp_path / "out").code == 0


@pytest.mark.parametrize("keep", [0, 7, 1000, 0.5, 0.999], ids=str)
def test_truncated_artifact(call, demo_artifact: Path, tmp_path: Path, keep: float) -> None:
    data = demo_artifact.read_bytes()
    broken = tmp_path / "broken.agq.safetensors"
    broken.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    for command in (["run", broken, "text", "-n", 2], ["verify", broken], ["info", broken]):
        refused(call(*command), broken.name)


def test_flipped_bits(call, demo_artifact: Path, tmp_path: Path) -> None:
    data = bytearray(demo_artifact.read_bytes())
    (header,) = struct.unpack("<Q", data[:8])
    broken = tmp_path / "broken.agq.safetensors"
    for position in (3, 8, 8 + header // 3, 8 + header // 2):
        data[position] ^= 0x10
        broken.write_bytes(data)
        data[position] ^= 0x10
        refused(call("verify", broken))
        refused(call("run", broken, "text", "-n", 2))
    tensors = {name: value for name, value in json.loads(bytes(data[8 : 8 + header])).items() if name != "__metadata__"}
    for name in ("blocks.2.down.weight", "final_norm.weight", "tokenizer.json"):
        position = 8 + header + tensors[name]["data_offsets"][0] + 5
        data[position] ^= 0x01
        broken.write_bytes(data)
        data[position] ^= 0x01
        result = call("verify", broken)
        assert result.code == 1 and name in result.out + result.err
    assert call("verify", demo_artifact).code == 0


def test_not_a_model_at_all(call, tmp_path: Path) -> None:
    for name, content in (
        ("empty.safetensors", b""),
        ("text.txt", b"hello"),
        ("zeros.safetensors", bytes(4096)),
        ("huge-header.safetensors", b"\xff" * 64),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        refused(call("run", path, "text"), name)


@pytest.mark.parametrize("prompt", ["", None], ids=["argument", "stdin"])
def test_empty_prompt(call, demo_artifact: Path, prompt: str | None) -> None:
    arguments = ["run", demo_artifact, "-n", 4] + ([] if prompt is None else [prompt])
    refused(call(*arguments, stdin=""), "prompt")


def test_prompt_longer_than_the_context(call, demo_artifact: Path, demo_text: Path) -> None:
    result = call("run", demo_artifact, "-f", demo_text / "heldout.txt", "-n", 4)
    refused(result, "1024", "hint: ")


def test_more_tokens_than_the_context_holds_end_with_a_reason(call, demo_artifact: Path) -> None:
    result = call("run", demo_artifact, "The red wolf", "-n", 64, "-c", 16, "--temp", 0)
    assert result.code == 1
    assert "context" in result.err and "hint: " in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "ARTIFACT", "text", "--no-such-option"],
        ["no-such-command"],
        ["run"],
        ["quantize", "MODEL", "--method", "magic", "-o", "OUT"],
        ["quantize", "MODEL", "--scheme", "W3A5", "-o", "OUT"],
        ["quantize", "MODEL", "--scheme", "W4A8", "-g", "100", "-o", "OUT"],
        ["run", "ARTIFACT", "text", "--temp", "hot"],
        ["run", "ARTIFACT", "text", "-n", "-5"],
        ["run", "ARTIFACT", "text", "--top-p", "1.5"],
        ["run", "ARTIFACT", "text", "-t", "0"],
        ["eval-ppl", "MODEL", "--data", "TEXT", "--method", "guess"],
        ["eval-ppl", "MODEL", "--data", "TEXT", "--seq-len", "0"],
    ],
    ids=lambda arguments: " ".join(arguments[-4:]),
)
def test_wrong_usage(
    call, demo_artifact: Path, demo_model: Path, demo_text: Path, tmp_path: Path, arguments: list[str]
) -> None:
    names = {"ARTIFACT": demo_artifact, "MODEL": demo_model, "OUT": tmp_path / "out", "TEXT": demo_text / "heldout.txt"}
    result = call(*(names.get(argument, argument) for argument in arguments))
    assert result.code == 2, result.err
    assert "Traceback" not in result.err and "error" in result.err.lower() and result.out == ""
    assert leftovers(tmp_path) == []


def test_unknown_key_in_a_recipe_is_named(call, demo_model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("scheme: W4A8\nmethod: rtn\ngroup_sise: 64\n")
    refused(call("quantize", demo_model, "--config", recipe, "-o", tmp_path / "out"), "group_sise")


def test_full_output_folder_is_kept(call, demo_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "precious.txt").write_text("do not lose me")
    refused(call("quantize", demo_model, "--scheme", "W4A8", "--method", "rtn", "-o", output), str(output), "hint: ")
    assert leftovers(output) == ["precious.txt"]


def small_disk(size_kb: int, folder: Path, script: str) -> subprocess.CompletedProcess[str] | None:
    """Runs `script` (sh) in a mount namespace where `folder` is a file system of `size_kb`; None where that is not
    allowed."""
    mount = f"mount -t tmpfs -o size={size_kb}k agq-test {folder}"
    for unshare in (["unshare", "-Urm"], ["unshare", "-m"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*unshare, "sh", "-c", mount], capture_output=True).returncode == 0
        ):
            return subprocess.run(
                [*unshare, "sh", "-c", f"{mount} && {script}"],
                capture_output=True,
                text=True,
                timeout=300,
                env=clean_environment(AGQ_CACHE_DIR=str(folder / "cache")),
                stdin=subprocess.DEVNULL,
            )
    return None


@pytest.mark.parametrize(
    ("command", "size_kb"),
    [
        ("pack {model} -o {disk}/out.agq.safetensors", 2048),
        ("quantize {model} --scheme W4A8 --method rtn -o {disk}/out", 2048),
        ("quantize {model} --scheme W4A8 --method rtn -o {disk}/out", 64),
        ("run {quantized} text -n 2", 1024),
        ("calibrate {model} --data {text} --samples 4 --seq-len 64 -o {disk}/out", 8),
    ],
    ids=["pack", "quantize", "quantize-at-the-start", "run-packing-into-the-cache", "calibrate"],
)
def test_full_disk(
    demo_model: Path, demo_quantized: Path, demo_text: Path, tmp_path: Path, command: str, size_kb: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    line = command.format(model=demo_model, quantized=demo_quantized, text=demo_text / "calibration.txt", disk=disk)
    result = small_disk(size_kb, disk, f"{sys.executable} -m agq {line}; code=$?; find {disk} -type f >&2; exit $code")
    if result is None:
        pytest.skip("this machine lets us mount nothing: test_file_size_limit covers a failing write")
    error = next(line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert result.returncode == 1 and ("disk full" in error or "not enough room" in error)
    assert "Traceback" not in result.stderr
    left = [line for line in result.stderr.splitlines() if line.startswith(str(disk))]
    assert not [path for path in left if ".agq-state" not in path], f"left behind: {left}"


def test_file_size_limit(demo_model: Path, tmp_path: Path) -> None:
    """A write that fails half way for another reason than a full disk; needs no rights at all."""
    output = tmp_path / "out.agq.safetensors"
    result = subprocess.run(
        [sys.executable, "-m", "agq", "pack", str(demo_model), "-o", str(output)],
        capture_output=True,
        text=True,
        timeout=300,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    refused(SimpleNamespace(code=result.returncode, out=result.stdout, err=result.stderr), str(output))
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_stdout_that_cannot_be_written(demo_artifact: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "agq", "run", str(demo_artifact), "text", "-n", "4"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr and "error: " in result.stderr


def test_closed_pipe_is_quiet(demo_artifact: Path) -> None:
    command = f"{sys.executable} -m agq run {demo_artifact} text -n 200 | head -c 5"
    result = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert len(result.stdout) == 5
    assert "Traceback" not in result.stderr and "error" not in result.stderr


def test_traceback_only_on_demand(agq_cli, tmp_path: Path) -> None:
    absent = tmp_path / "absent.agq.safetensors"
    assert "Traceback" in agq_cli("run", absent, "text", env={"AGQ_DEBUG": "1"}).stderr
