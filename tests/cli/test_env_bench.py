"""`agq env` and `agq bench`."""

from __future__ import annotations

import csv
import getpass
import io
import json
import os
import socket
from pathlib import Path

import pytest

from agq.native.library import libraries


def test_env(call) -> None:
    values = json.loads(call("env", "--json").out)
    assert values["agq"] and values["isa"] in [item["isa"] for item in values["libraries"]]
    assert values["threads"]["default"] >= 1 and values["packages"]["numpy"]
    text = call("env").out
    assert "kernels" in text and all(item.isa in text for item in libraries())


def test_env_holds_nothing_private(call, repository: Path) -> None:
    secret = {"AGQ_CACHE_DIR": "/home/someone/secret", "HF_TOKEN": "hf_secret"}
    for result in (call("env", env=secret), call("env", "--json", env=secret)):
        assert "AGQ_CACHE_DIR" in result.out
        for private in (
            "someone",
            "secret",
            str(repository),
            str(Path.home()) + os.sep,
            socket.gethostname(),
            f" {getpass.getuser()}",
        ):
            assert private not in result.out


def test_env_works_where_no_kernel_does(call) -> None:
    result = call("env", env={"AGQ_ISA": "mmx"})
    assert result.code == 0 and "mmx" in result.out


@pytest.mark.slow
def test_bench_formats(call, demo_artifact: Path) -> None:
    options = ("bench", demo_artifact, "-p", "16,32", "-n", 4, "-d", "0,8", "-r", 2, "-t", 1, "--no-startup")
    rows = json.loads(call(*options, "-o", "json").out)
    assert [(row["kind"], row["tokens"], row["depth"]) for row in rows] == [
        ("prefill", 16, 0),
        ("prefill", 32, 0),
        ("decode", 4, 0),
        ("prefill", 16, 8),
        ("prefill", 32, 8),
        ("decode", 4, 8),
    ]
    for row in rows:
        rates = [row["tokens"] / (sample * 1e-9) for sample in row["samples_ns"]]
        assert len(rates) == 2 and row["tokens_per_s"] == pytest.approx(sum(rates) / 2)
        assert row["deviation"] == pytest.approx(abs(rates[0] - rates[1]) / 2**0.5)
        assert row["bound"] in ("memory", "compute") and row["bandwidth"] > 1e6 and row["peak"] > 1e6
        assert row["share_of_limit"] > 0 and row["batch"] == 1
    table = list(csv.DictReader(io.StringIO(call(*options, "-o", "csv", "--no-limits").out)))
    assert len(table) == 6 and table[0]["isa"] == rows[0]["isa"] and float(table[5]["tokens_per_s"]) > 0
    assert table[0]["bandwidth"] == "" and len(table[0]["samples_ns"].split()) == 2
    assert len(call(*options, "-o", "jsonl", "--no-limits").out.splitlines()) == 6
    markdown = call(*options, "--no-limits").out.splitlines()
    assert len(markdown) == 8 and "tg4 @ d8" in markdown[-1] and "±" in markdown[-1]


@pytest.mark.slow
def test_bench_of_several_kernels_with_profile(call, demo_artifact: Path) -> None:
    names = [item.isa for item in libraries() if item.usable][-2:]
    options = ("bench", demo_artifact, "-p", 8, "-n", 0, "-r", 1, "--no-warmup", "--no-startup", "--profile")
    rows = json.loads(call(*options, "--isa", ",".join(names), "-o", "json").out)
    assert [row["isa"] for row in rows] == names
    for row in rows:
        parts = {part["name"]: part for part in row["profile"]}
        assert {"qkv", "attention", "down", "head", "outside the engine"} <= set(parts)
        assert sum(part["seconds"] for part in parts.values()) == pytest.approx(row["samples_ns"][0] * 1e-9, rel=0.05)
        assert sum(part["share"] for part in parts.values()) == pytest.approx(1, rel=0.05)
        assert parts["down"]["share_of_limit"] > 0 and parts["attention"]["share_of_limit"] is None
    lines = call(*options, "-o", "md").out.splitlines()
    assert any(line.startswith("| attention |") for line in lines)


@pytest.mark.slow
def test_bench_of_several_sequences(call, demo_artifact: Path) -> None:
    """Tokens of all sequences are counted; the work's lower bound is that of all of them."""
    options = ("-p", 8, "-n", 2, "-d", 4, "-r", 1, "-t", 1, "--batch", "1,3", "--no-startup", "-o", "json")
    rows = json.loads(call("bench", demo_artifact, *options).out)
    assert [(row["kind"], row["batch"]) for row in rows] == [
        ("prefill", 1), ("decode", 1), ("prefill", 3), ("decode", 3)
    ]  # fmt: skip
    for row in rows:
        seconds = row["samples_ns"][0] * 1e-9
        assert row["tokens_per_s"] == pytest.approx(row["tokens"] * row["batch"] / seconds)
    assert "tg2 @ d4 x3" in call("bench", demo_artifact, *options[:-2], "--no-limits").out


@pytest.mark.slow
def test_bench_reports_the_time_to_the_first_token(call, demo_artifact: Path) -> None:
    options = ("-p", 8, "-n", 0, "-r", 2, "-t", 1, "--no-limits", "-o", "json")
    row = json.loads(call("bench", demo_artifact, *options).out)[-1]
    assert row["kind"] == "startup" and len(row["samples_ns"]) == 2 and row["share_of_limit"] is None
    assert all(1e7 < sample < 6e10 for sample in row["samples_ns"])  # a process cannot start faster than 10 ms


def test_work_of_a_pass_is_what_the_shapes_say(demo_artifact: Path) -> None:
    """Bytes and products by hand: 6 blocks, hidden 256, 4 query and 2 key/value heads of 64, ffn as in the file."""
    from agq.artifact import open_artifact
    from agq.runtime import limits

    artifact = open_artifact(demo_artifact)
    spec = artifact.spec
    wide = (spec.heads + 2 * spec.kv_heads) * spec.head_dim
    block = spec.hidden * (wide + spec.heads * spec.head_dim + 3 * spec.ffn)
    head = spec.vocab * spec.hidden
    work = limits.prefill_work(artifact, 10, 2, 5.0)
    assert work.products == 2 * (10 * spec.layers * block + head)
    assert work.read == limits.weight_bytes(artifact) + 5.0
    work = limits.decode_work(artifact, 3, 2, 7, 4.0)
    assert work.products == 3 * 2 * (spec.layers * block + head)
    assert work.read == 3 * limits.weight_bytes(artifact) + 2 * (7 + 8 + 9) * 4.0
    machine = limits.Limits(bandwidth=work.read, peak=2 * work.products, instruction="one")
    assert work.bound_s(machine) == (1.0, "memory")
    assert limits.part_work(artifact, "head", 5, 1, 1).products == head
    assert limits.part_work(artifact, "attention", 5, 1, 1) is None


@pytest.mark.parametrize(
    "options",
    [("-o", "xml"), ("-p", "many"), ("-t", "0"), ("-p", "0", "-n", "0"), ("--isa", "mmx"), ("-r", "0"), ("-b", "0")],
)
def test_bench_refusals(call, demo_artifact: Path, options: tuple[str, ...]) -> None:
    result = call("bench", demo_artifact, *options)
    assert result.code == 2 and result.out == "" and result.err.count("error: ") == 1


def test_rows_of_a_narrow_terminal(monkeypatch, capsys, demo_artifact):
    from agq.artifact import open_artifact
    from agq.cli.bench_output import Printer
    from agq.reporting import console
    from agq.runtime.benchmark import Result

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(console, "is_terminal", lambda stream: True)
    printer = Printer("md", open_artifact(demo_artifact))
    for isa in ("avx2", "avx2", "scalar"):
        result = Result("prefill", 512, 4096, 2, isa)
        result.count([100_000_000, 120_000_000])
        result.bandwidth, result.peak, result.bound, result.share_of_limit = 8e9, 3e11, "compute", 0.5
        result.instruction = "vpmaddubsw + vpaddw ymm"
        printer.row(result)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and sum("avx2" in line for line in lines) == 1
    assert lines[3].startswith("pp512 @ d4096") and len(lines) == 8
