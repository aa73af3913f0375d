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

from agq.runtime.library import libraries


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


def test_bench_formats(call, demo_artifact: Path) -> None:
    options = ("bench", demo_artifact, "-p", "16,32", "-n", 4, "-d", "0,8", "-r", 2, "-t", 1)
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
    table = list(csv.DictReader(io.StringIO(call(*options, "-o", "csv").out)))
    assert len(table) == 6 and table[0]["isa"] == rows[0]["isa"] and float(table[5]["tokens_per_s"]) > 0
    assert len(call(*options, "-o", "jsonl").out.splitlines()) == 6
    markdown = call(*options).out.splitlines()
    assert len(markdown) == 8 and "tg4 @ d8" in markdown[-1] and "±" in markdown[-1]


def test_bench_of_several_kernels_with_profile(call, demo_artifact: Path) -> None:
    names = [item.isa for item in libraries() if item.usable][-2:]
    rows = json.loads(
        call(
            "bench",
            demo_artifact,
            "-p",
            8,
            "-n",
            0,
            "-r",
            1,
            "--no-warmup",
            "--isa",
            ",".join(names),
            "--profile",
            "-o",
            "json",
        ).out
    )
    assert [row["isa"] for row in rows] == names
    assert all(0 < sum(row["profile_s"].values()) <= 1.5 * row["samples_ns"][0] * 1e-9 for row in rows)


@pytest.mark.parametrize(
    "options", [("-o", "xml"), ("-p", "many"), ("-t", "0"), ("-p", "0", "-n", "0"), ("--isa", "mmx"), ("-r", "0")]
)
def test_bench_refusals(call, demo_artifact: Path, options: tuple[str, ...]) -> None:
    result = call("bench", demo_artifact, *options)
    assert result.code == 2 and result.out == "" and result.err.count("error: ") == 1
