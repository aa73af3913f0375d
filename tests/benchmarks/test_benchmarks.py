"""Every benchmark runs on a tiny model and reports what it says; how fast anything is, no test knows."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import REPOSITORY, clean_environment

pytestmark = pytest.mark.slow

FOLDER = REPOSITORY / "benchmarks"
# Stands for a peer's program: it takes the options that the real ones take and prints the JSON that they print.
LLAMA_BENCH = """#!/bin/sh
case "$*" in
  *--help*) echo "usage: llama-bench  -m, --model  HELP";;
  *) echo "warning: some line before"; echo '[{"n_prompt": 0, "avg_ts": 50.0, "samples_ts": [50.0]}]'
     echo "$*" >>"LOG";;
esac
"""


def run(name: str, *arguments: object) -> dict:
    result = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *map(str, arguments), "--json"],
        capture_output=True, text=True, timeout=300, env=clean_environment(OMP_NUM_THREADS="1"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["claim"] and found["machine"] and 0 <= found["foreign_load"] <= 1
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models stay between the tests of this file."""
    return tmp_path_factory.mktemp("benchmarks")


def module(name: str) -> ModuleType:
    """A benchmark as a module; its neighbours are found as when it is run."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


def test_four_against_eight_bits(work: Path) -> None:
    options = ("--shape", "tiny", "--group", 64, "--work", work, "-r", 2, "-t", 1, "-p", 16, "-n", 2)
    rows = run("w4a4_vs_w4a8", *options)["rows"]
    assert [row["test"] for row in rows] == ["prefill 16", "decode 2"]
    for row in rows:
        eight, four = row["samples"]["W4A8"], row["samples"]["W4A4"]
        assert len(eight) == len(four) == 2
        assert row["ratio"] == pytest.approx(sum(a / b for a, b in zip(four, eight, strict=True)) / 2)


def test_kinds_of_text(demo_model: Path, demo_text: Path, demo_quantized: Path, tmp_path: Path) -> None:
    original = tmp_path / "original"
    shutil.copytree(demo_model, original)
    (original / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }} {% endfor %}")
    size = ("--seq-len", 64, "--windows", 2, "--prompts", 2, "--answer", 8)
    found = run(
        "kinds_of_text", original, demo_quantized, demo_model, "--encyclopaedia", demo_text / "heldout.txt", *size
    )
    quantized, same = found["rows"][:3], found["rows"][3:]
    assert [row["kind"] for row in quantized] == ["encyclopaedia", "code", "chat answers"]
    assert [row["tokens"] for row in quantized] == [126, 126, 16] and found["prose"] == "left out"
    assert all(row["kl"] > 0.001 and row["top1_percent"] < 100 for row in quantized[:2])
    assert all((row["loss_percent"], row["kl"], row["top1_percent"]) == (0, 0, 100) for row in same)
    # Answers are what the original finds likeliest: it is surer of them than of any text.
    assert same[2]["ppl"] < same[0]["ppl"] / 2


def test_against_torch(work: Path) -> None:
    options = (
        "--shape",
        "tiny",
        "--group",
        64,
        "--work",
        work,
        "-r",
        1,
        "-t",
        1,
        "-p",
        16,
        "-n",
        2,
        "--schemes",
        "W4A8,W8A8",
    )
    rows = run("vs_torch", *options, "--dtypes", "float32")["rows"]
    assert [(row["test"], row["scheme"]) for row in rows] == [
        (test, scheme) for test in ("prefill 16", "decode 2") for scheme in ("W4A8", "W8A8")
    ]
    assert all(row["ratio"] == row["samples"]["agq"][0] / row["samples"]["torch"][0] > 0 for row in rows)


def test_threads_batches_and_long_context(work: Path) -> None:
    model = ("--shape", "tiny", "--group", 64, "--work", work, "-r", 1)
    rows = run("threads", *model, "-t", "1", "-p", 8, "-n", 2)["rows"]
    assert [row["ratio"] for row in rows] == [1, 1] and all(row["of limit"] > 0 for row in rows)
    rows = run("batches", *model, "-t", 1, "-b", "1,3", "-n", 2, "-d", 4)["rows"]
    assert [row["sequences"] for row in rows] == [1, 3] and rows[0]["ratio"] == 1
    rows = run("long_context", *model, "-t", 1, "--short", 8, "--length", 40, "-n", 2)["rows"]
    assert [row["test"] for row in rows] == ["prefill 8", "prefill 40", "decode 2 @ 8", "decode 2 @ 40"]
    assert all(row["attention us/token"] > 0 for row in rows)


def test_speculation_startup(demo_artifact: Path) -> None:
    rows = run("speculation", demo_artifact, "-r", 1, "-t", 1, "--tokens", 24)["rows"]
    assert [row["prompt"] for row in rows] == ["summarising", "code editing"]
    assert all(0 <= row["accepted"] <= row["drafted"] and row["tokens per pass"] >= 1 for row in rows)
    rows = run("startup", demo_artifact, "-r", 1, "-t", 1)["rows"]
    assert [row["start"] for row in rows] == ["python -c pass", "agq --help", "agq run, first token"]


def test_gptq_speed() -> None:
    row = run("gptq_speed", "--scale", "tiny", "-t", 1)["rows"][0]
    assert row["seconds"] > 0 and row["windows"] == 2 and row["share of torch's speed"] > 0


def test_peers(work: Path) -> None:
    """Our side is real; the peer's programs are stand-ins."""
    peer = work / "peer"
    peer.mkdir()
    log = peer / "log"
    for name, usage in (("llama-bench", "-d, --n-depth"), ("old-bench", "")):
        (peer / name).write_text(LLAMA_BENCH.replace("HELP", usage).replace("LOG", str(log)))
        (peer / name).chmod(0o755)
    (peer / "llama-quantize").write_text('#!/bin/sh\ncp "$1" "$2"\n')
    (peer / "llama-quantize").chmod(0o755)
    (work / "tiny-f16.gguf").write_bytes(b"weights")
    model = ("--shape", "tiny", "--group", 64, "--work", work, "-r", 1, "-t", 1, "-p", 8, "-n", 2)
    found = run("vs_llama_cpp", *model, "--peer", peer / "llama-bench", "--types", "Q4_0,F16", "--schemes", "W4A8,W4A4")
    rows = found["rows"]
    assert len(rows) == 2 * 2 * 2 and {row["type"] for row in rows} == {"Q4_0", "F16"}
    for row in rows:
        assert row["peer tok/s"] == 50 and row["ratio"] == pytest.approx(row["samples"]["agq"][0] / 50)
        assert row["of limit"] > 0 and row["GB/s"] > 0 and row["GOPS"] > 0
    log.unlink()
    text = f"scalar:old={peer / 'old-bench'} -rtr 1"
    rows = run("vs_llama_cpp", *model, "--peer", text, "--types", "Q4_0", "-p", 0, "-d", 5)["rows"]
    assert [(row["peer"], row["isa"], row["test"]) for row in rows] == [("old", "scalar", "decode 2 @ 5")]
    assert log.read_text().split()[2:] == "-t 1 -r 1 -o json -rtr 1 -p 0 -n 0 -gp 5,2".split()


def test_processor_time_of_a_peer(tmp_path: Path) -> None:
    """A second repetition costs more by what one repetition computes."""
    program = tmp_path / "bench"
    program.write_text(
        f"#!{sys.executable}\nimport sys, time\n"
        "end = 0.2 + 0.3 * int(sys.argv[sys.argv.index('-r') + 1])\n"
        "while time.process_time() < end: pass\n"
        "print('[{\"avg_ts\": 1.0}]')\n"
    )
    program.chmod(0o755)
    found = module("vs_llama_cpp").tokens_per_processor_s([str(program), "-r", "1"], 30)
    assert found == pytest.approx(100, rel=0.2)


def test_operations_of_gptq_by_hand() -> None:
    gptq_speed = module("gptq_speed")
    single, double = gptq_speed.operations(hidden=2, ffn=3, heads=1, head_dim=2, samples=1, seq_len=1)
    forward = 2 * (16 + 2 * 12 + 6 + 2)
    hessians = 2 * 4 + 4 + 9
    weights = 6 * 4 + 2 * 4 + 6 * 4 + 2 * 9
    assert single == forward + hessians + 5 * weights
    assert double == pytest.approx(4 / 3 * (8 + 8 + 8 + 27))


def test_alternating_and_ratio() -> None:
    common = module("common")
    order: list[str] = []

    def thing(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = common.alternate({"a": lambda: thing("a"), "b": lambda: thing("b")}, 2)
    assert order == ["a", "b", "b", "a"] and samples == {"a": [1.0, 4.0], "b": [2.0, 3.0]}
    assert common.ratio([1.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == 2.0


def test_times_left(demo_artifact: Path, demo_text: Path) -> None:
    found = run(
        "times_left", "--end", 0.0, "eval-ppl", demo_artifact, "-t", 1, "--seq-len", 64, "--max-windows", 8,
        "--data", demo_text / "heldout.txt",
    )  # fmt: skip
    (row,) = found["rows"]
    assert row["part"] == "eval-ppl" and row["seconds"] > 0 and row["looks"] >= 0
