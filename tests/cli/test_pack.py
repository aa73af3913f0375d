"""`agq pack` as a user starts it."""

import json

import pytest


def test_default_name_and_table(agq_cli, demo_quantized, tmp_path):
    result = agq_cli("pack", demo_quantized, cwd=tmp_path, check=True)
    name = f"{demo_quantized.name}.agq.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    for word in ("bits per weight", "artifact", name, "MB", "W4 g128"):
        assert word in result.stdout
    assert result.stderr == f"next: agq run {name}\n"


@pytest.mark.slow
def test_existing_file_needs_force(agq_cli, demo_quantized, tmp_path):
    path = tmp_path / "x.agq.safetensors"
    path.write_text("precious")
    refused = agq_cli("pack", demo_quantized, "-o", path)
    assert refused.returncode == 1 and "--force" in refused.stderr and path.read_text() == "precious"
    agq_cli("pack", demo_quantized, "-o", path, "--force", check=True)
    assert path.stat().st_size > 10000


@pytest.mark.slow
def test_options_reach_the_artifact(agq_cli, demo_model, tmp_path):
    path = tmp_path / "x.agq.safetensors"
    result = agq_cli(
        "pack", demo_model, "-o", path, "--weights", "int8", "--kv-bits", 32, "--head-bits", 16, "--json", check=True
    )
    record = json.loads(result.stdout)
    assert (record["kv_bits"], record["head_bits"], record["bytes"]) == (32, 16, path.stat().st_size)
    assert 8 < record["bits_per_weight"] < 8.5 and list(record["schemes"]) == ["W8 per row, A8 per token"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--weights", "f8"], 2, "unknown weights `f8`"),
        (["--kv-bits", "5"], 2, "KV cache of 5 bits"),
        (["--head-bits", "5"], 2, "head of 5 bits"),
        (["--embed-bits", "5"], 2, "embedding of 5 bits"),
        (["--head-bits", "16", "--embed-bits", "8"], 2, "is its output head"),
        (["--target", "neon"], 2, "`agq pack` has no option `--target`"),
        (["-o", "no/such/folder/x"], 1, "folder does not exist"),
        (["-o", "."], 2, "output `.` is a folder"),
    ],
)
def test_what_is_refused(agq_cli, demo_model, tmp_path, arguments, code, message):
    result = agq_cli("pack", demo_model, *arguments, cwd=tmp_path)
    assert result.returncode == code and message in result.stderr and result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(agq_cli, demo_artifact):
    result = agq_cli("pack", demo_artifact)
    assert result.returncode == 2 and "is a safetensors file, no model folder or GGUF file" in result.stderr


@pytest.mark.slow
def test_the_quick_way_and_its_price(agq_cli, demo_model, tmp_path):
    path = tmp_path / "a.agq.safetensors"
    result = agq_cli("pack", demo_model, "--weights", "int4", "-o", path, check=True)
    assert "24 x W4 g128, A8 per token" in result.stdout
    assert "the quick way; `agq quantize` takes minutes and loses less" in result.stderr
    assert f"next: agq run {path}" in result.stderr
    answer = agq_cli("run", path, "The steam engine", "-n", 8, check=True)
    assert answer.stdout.strip()
